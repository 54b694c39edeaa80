"""Frames from pictures that ComfyUI's own previewer made on the sampler's thread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ... import records
from ...decoders.picture import contained
from ...records import FIRST_IMAGE, Info, Picture
from ..protocols import Run

NAME = "comfyui"
"""The decoder's name in such frames."""


def frame(
    run: Run, picture: Image.Image | None, latent_shape: Sequence[int], scale: int
) -> Picture:
    """The frame of the run's current step, from the picture of a latent of `latent_shape`.

    That is [B, C, ..., h, w]; `scale` is the final picture's pixels per latent pixel. Raises
    ValueError if there is no picture.
    """
    if picture is None:
        raise ValueError("it returned no picture")
    rgb = np.asarray(picture.convert("RGB"))
    now = records.now()
    height, width = latent_shape[-2:]
    size = contained(
        max(picture.width, width * scale), max(picture.height, height * scale), run.max_size
    )
    return Picture(run.capture(now, FIRST_IMAGE), Info(size, NAME, now), rgb)
