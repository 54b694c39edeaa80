"""The container of WebP files: animations made from still pictures, and metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterable

LONGEST = (1 << 24) - 1  # ms, the longest duration of a frame

# Flags of the extended header.
ANIMATION = 0x02
XMP = 0x04


def animated_webp(
    pictures: Iterable[bytes], durations: Iterable[int], size: tuple[int, int]
) -> bytes:
    """A WebP file that plays still ones without alpha, all of `size`, in a loop.

    `durations` are in milliseconds. Encoding the pictures one by one allows the work to be spread
    over time; Google's specification of the container describes how to join them.
    """
    place = bytes(6) + _sides(size)  # at 0, 0
    chunks = [
        _extended_header(ANIMATION, size),
        riff_chunk(b"ANIM", bytes(6)),  # no background, no end
    ]
    for picture, duration in zip(pictures, durations, strict=True):
        # Each replaces the previous one.
        head = place + _uint24(duration) + b"\2"
        chunks.append(riff_chunk(b"ANMF", head + _pixels(picture)))
    return riff_chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def with_xmp(file: bytes, size: tuple[int, int], xmp: bytes) -> bytes:
    """A WebP file, still or animated, of `size` and without alpha, with `xmp` as its metadata."""
    chunks = file[12:]  # after "RIFF", its size and "WEBP"
    if chunks.startswith(b"VP8X"):
        chunks = chunks[:8] + bytes([chunks[8] | XMP]) + chunks[9:]
    else:
        chunks = _extended_header(XMP, size) + chunks
    return riff_chunk(b"RIFF", b"WEBP" + chunks + riff_chunk(b"XMP ", xmp))


def _pixels(webp: bytes) -> bytes:
    """The chunk of a still WebP file that contains its picture."""
    at = 12
    while at < len(webp):
        name, length = struct.unpack_from("<4sI", webp, at)
        end = at + 8 + length + length % 2
        if name in (b"VP8 ", b"VP8L"):
            return webp[at:end]
        at = end
    raise ValueError("not a WebP picture")


def riff_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a RIFF file, such as WebP or WAV."""
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _extended_header(flags: int, size: tuple[int, int]) -> bytes:
    return riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + _sides(size))


def _sides(size: tuple[int, int]) -> bytes:
    width, height = size
    return _uint24(width - 1) + _uint24(height - 1)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")
