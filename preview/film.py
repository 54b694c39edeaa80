"""Animated previews: which pictures are shown, for how long, and the file that they make."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LONGEST = (1 << 24) - 1  # ms that a frame of a WebP file may last


@dataclass(frozen=True)
class Part:
    """What one decode of a film brings: some of its pictures are shown."""

    index: int
    """Of the latent frame, or of the image of a batch."""
    shown: tuple[int, ...]
    """Which of the decode's pictures, from 0."""
    durations: tuple[int, ...]
    """How long each of these is shown, in milliseconds."""


def parts(kept: Sequence[range], limit: int, rate: float) -> list[Part]:
    """The plan of a film of which latent frame i brings the pictures `kept[i]`.

    At most `limit` of them (0: all) are shown, evenly spread, each until the next one. `rate` is
    that of all pictures, in pictures a second. Ends with the last latent frame that is needed.
    """
    total = sum(map(len, kept))
    count = min(total, limit or total)
    starts = [i * total // count for i in range(count)]
    times = [round(start * 1000 / rate) for start in [*starts, total]]
    lasting = {s: min(b - a, LONGEST) for s, a, b in zip(starts, times, times[1:], strict=False)}
    plan = []
    seen = 0
    for index, pictures in enumerate(kept):
        found = {p: seen + i for i, p in enumerate(pictures) if seen + i in lasting}
        plan.append(Part(index, tuple(found), tuple(lasting[n] for n in found.values())))
        seen += len(pictures)
    while plan and not plan[-1].shown:
        plan.pop()
    return plan


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
    raise ValueError("no WebP picture")


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def _uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")
