"""Which images of a batch a preview shows, and the part of a latent that holds them."""

from __future__ import annotations

import torch

from ..records import FIRST_IMAGE
from ..settings import Settings

STAGED_WHOLE = 1 << 20
"""Latents with no more numbers than this are staged whole."""


def shown_images(batch: int, settings: Settings) -> range:
    """The indices of the images in a batch of that size that `settings` ask for."""
    if batch == 1 or settings.batch == "first":
        return FIRST_IMAGE
    if settings.batch == "grid":
        return range(min(batch, settings.batch_images))
    limit = settings.batch_images
    if settings.batch == "animation":
        limit = settings.video_frames or batch
    if limit == 1:
        return FIRST_IMAGE
    # Evenly spaced, so that the images are a view of the latent.
    step = max(1, (batch - 1) // (limit - 1))
    return range(0, batch, step)[:limit]


def staged(latent: torch.Tensor, images: range, settings: Settings) -> torch.Tensor:
    """A view of `latent` [B, C, ...] that begins with everything that is shown of it."""
    if len(images) > 1:
        latent = latent[images.start : images.stop : images.step]
    elif latent.numel() <= STAGED_WHOLE:
        # Slicing out the first image costs the sampler more than copying a small batch.
        return latent
    else:
        latent = latent[:1]
    if latent.ndim == 5 and settings.video_frames == 1:
        latent = latent[:, :, :1]
    return latent
