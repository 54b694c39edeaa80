"""Which images of a batch a preview shows, and the part of a latent that holds them."""

from __future__ import annotations

import torch

from ..records import FIRST_IMAGE
from ..settings import Settings

STAGED_WHOLE = 1 << 20
"""Numbers in a latent up to which it is staged as it is."""


def shown_images(batch: int, settings: Settings) -> range:
    """The indices of the images, of a batch of so many, that `settings` ask for."""
    if batch == 1 or settings.batch == "first":
        return FIRST_IMAGE
    if settings.batch == "grid":
        return range(min(batch, settings.batch_images))
    limit = settings.batch_images
    if settings.batch == "animation":
        limit = settings.video_frames or batch
    if limit == 1:
        return FIRST_IMAGE
    # Even steps, so that the images are one view of the latent.
    step = max(1, (batch - 1) // (limit - 1))
    return range(0, batch, step)[:limit]


def staged(latent: torch.Tensor, images: range, settings: Settings) -> torch.Tensor:
    """A view of `latent` [B, C, ...] that begins with all that is shown of it."""
    if len(images) > 1:
        latent = latent[images.start : images.stop : images.step]
    elif latent.numel() <= STAGED_WHOLE:
        # To take the first image out costs the sampler more than to copy all of a few.
        return latent
    else:
        latent = latent[:1]
    if latent.ndim == 5 and settings.video_frames == 1:
        latent = latent[:, :, :1]
    return latent
