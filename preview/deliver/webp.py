"""Animated WebP, put together from still pictures."""

from __future__ import annotations

import struct
from collections.abc import Iterable

LONGEST = (1 << 24) - 1  # ms that a frame of a WebP file may last


def animated_webp(
    pictures: Iterable[bytes], durations: Iterable[int], size: tuple[int, int]
) -> bytes:
    """One WebP file that plays still ones without alpha, all of `size`, in a loop.

    `durations` are in milliseconds. The container is that of Google's WebP specification; that the
    pictures are encoded one by one lets the encoder's work be spread.
    """
    width, height = (_uint24(side - 1) for side in size)
    chunks = [
        _chunk(b"VP8X", b"\2\0\0\0" + width + height),  # 2: an animation
        _chunk(b"ANIM", bytes(6)),  # no background, no end
    ]
    for picture, duration in zip(pictures, durations, strict=True):
        # At 0, 0; each replaces the one before.
        place = bytes(6) + width + height + _uint24(duration) + b"\2"
        chunks.append(_chunk(b"ANMF", place + _pixels(picture)))
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def _pixels(webp: bytes) -> bytes:
    """The chunk of a still WebP file that holds its picture."""
    at = 12
    while at < len(webp):
        name, length = struct.unpack_from("<4sI", webp, at)
        end = at + 8 + length + length % 2
        if name in (b"VP8 ", b"VP8L"):
            return webp[at:end]
        at = end
    raise ValueError("not a WebP picture")


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")
