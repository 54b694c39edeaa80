"""A picture that ComfyUI's own previewer made, on the sampler's thread, as a frame like any."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...capture import runs
from ...capture.runs import Frame, Run
from ...decoders.picture import contained

NAME = "comfyui"
"""What such frames say of their decoder."""


def frame(run: Run, picture: Image.Image | None, latent_shape: Sequence[int], scale: int) -> Frame:
    """The frame of the run's current step, of a picture of latents [B, C, ..., h, w].

    `scale` is the pixels of the final picture for each latent pixel. Raises ValueError where there
    is no picture.
    """
    if picture is None:
        raise ValueError("it gave no picture")
    pixels = np.asarray(picture.convert("RGB"))
    now = runs.now()
    made = run.capture(now)
    height, width = latent_shape[-2:]
    made.picture = pixels
    made.size = contained(
        max(picture.width, width * scale), max(picture.height, height * scale), run.max_size
    )
    made.decoder, made.ready_at = NAME, now
    return made
