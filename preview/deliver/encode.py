"""From RGB to the bytes of a picture, holding the GIL as little as possible.

Pillow's JPEG encoder holds it while it works, and meanwhile the sampler's thread stands still.
torchvision's, which ComfyUI ships, does not; Pillow is the fallback.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from ..records import Encoded, Picture

TYPES = {"jpeg": "image/jpeg", "webp": "image/webp", "png": "image/png"}

JpegEncoder = Callable[[np.ndarray, int], bytes]
"""A picture, uint8 [H, W, 3], and a quality from 1 to 100 in; JPEG out."""


def encoded(picture: np.ndarray, size: tuple[int, int], kind: str, quality: int) -> bytes:
    """The bytes of `picture`, uint8 [H, W, 3], enlarged to `size` (width, height) if smaller.

    `kind` is a key of `TYPES`. Raises OSError or RuntimeError if it cannot be encoded.
    """
    if picture.shape[1::-1] != size:
        image = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)
        picture = np.array(image)  # with its own, writable memory, for torch
    if kind == "jpeg":
        return jpeg_encoder()(picture, quality)
    # Pillow's fastest settings: a preview is only looked at briefly.
    if kind == "webp":
        return pillow(picture, "webp", quality=quality, method=0)
    return pillow(picture, "png", compress_level=1)


@functools.cache
def jpeg_encoder() -> JpegEncoder:
    """The available encoder that takes least from other threads."""
    try:
        import torch  # only here: of this package, only torchvision's encoder needs torch
        import torchvision.io  # noqa: F401  brings the operator, which Pillow stands in for if gone

        # Not by torchvision's function, which since 0.29 warns at each call that it will go.
        encode_jpeg = torch.ops.image.encode_jpeg
        encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8), 90)
    except Exception:  # absent, or built for another torch; it can fail in many ways
        return pillow_jpeg

    def torchvision_jpeg(picture: np.ndarray, quality: int) -> bytes:
        # Transposed by numpy, which holds the GIL: switching to the sampler and back costs more.
        channels_first = torch.from_numpy(picture.transpose(2, 0, 1))
        return encode_jpeg(channels_first, quality).numpy().tobytes()

    return torchvision_jpeg


def pillow_jpeg(picture: np.ndarray, quality: int) -> bytes:
    """JPEG by Pillow, which is always available."""
    return pillow(picture, "jpeg", quality=quality)


def pillow(picture: np.ndarray, kind: str, **options: int) -> bytes:
    """`picture` in the format `kind` by Pillow."""
    target = io.BytesIO()
    Image.fromarray(picture).save(target, format=kind, **options)
    return target.getvalue()


def encode(picture: Picture, kind: str) -> Encoded:
    """The picture as bytes in the format `kind`, a key of `TYPES`, with its run's quality."""
    quality = picture.label.run.settings.quality
    data = encoded(picture.rgb, picture.info.size, kind, quality)
    return Encoded(picture.label, picture.info, data, TYPES[kind])
