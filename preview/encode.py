"""From RGB to the bytes of a picture."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from .runs import Frame

TYPES = {"jpeg": "image/jpeg", "webp": "image/webp", "png": "image/png"}


def encoded(picture: np.ndarray, size: tuple[int, int], kind: str, quality: int) -> bytes:
    """The bytes of `picture`, uint8 [H, W, 3], enlarged to `size` (width, height) if smaller.

    `kind` is a key of `TYPES`. Raises OSError where Pillow cannot encode it.
    """
    image = Image.fromarray(picture)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    target = io.BytesIO()
    # A preview is looked at once: Pillow's fastest settings.
    options = {"compress_level": 1} if kind == "png" else {"quality": quality}
    if kind == "webp":
        options["method"] = 0
    image.save(target, format=kind, **options)
    return target.getvalue()


def encode_frame(frame: Frame, kind: str) -> None:
    """Turn the frame's picture into bytes."""
    assert frame.picture is not None
    frame.image = encoded(frame.picture, frame.size, kind, frame.run.settings.quality)
    frame.image_type = TYPES[kind]
    frame.picture = None
