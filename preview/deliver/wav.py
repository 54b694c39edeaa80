"""Sound as a 16-bit WAV file: every browser plays it, and no encoder holds the GIL."""

from __future__ import annotations

import struct

import numpy as np

from .webp import riff_chunk

FULL = 32767

DEVIATIONS = 5.0
"""A levelled sound for which this many standard deviations exceed 1 is scaled down, as in ComfyUI's
node VAE Decode Audio."""


def wav(samples: np.ndarray, rate: int, comment: str = "", *, levelled: bool = True) -> bytes:
    """The file of `samples`, float32 [channels, n], about -1 to 1, with `rate` per second.

    `comment`, in ASCII, is shown by tools. Samples that are not finite become silence.
    """
    samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    if levelled and samples.size > 1:
        samples = samples / max(1.0, DEVIATIONS * float(samples.std(ddof=1, dtype=np.float64)))
    whole = np.rint(samples.clip(-1, 1) * FULL).astype("<i2")
    data = whole.T.tobytes()
    channels = len(samples)
    size = channels * whole.itemsize
    form = riff_chunk(b"fmt ", struct.pack("<HHIIHH", 1, channels, rate, rate * size, size, 16))
    said = riff_chunk(b"LIST", b"INFO" + riff_chunk(b"ICMT", comment.encode() + b"\0"))
    return riff_chunk(b"RIFF", b"".join((b"WAVE", form, said, riff_chunk(b"data", data))))
