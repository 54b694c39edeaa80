"""Sound as a WAV file of 16 bits a sample: every browser plays it, and no encoder holds the GIL."""

from __future__ import annotations

import struct

import numpy as np

FULL = 32767

DEVIATIONS = 5.0
"""A sound of which so many standard deviations are beyond 1 is made softer, as ComfyUI's node VAE
Decode Audio does."""


def wav(samples: np.ndarray, rate: int) -> bytes:
    """The file of `samples`, float32 [channels, n], about -1 to 1; `rate` of them in a second.

    What is not finite is silence.
    """
    samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    if samples.size > 1:
        samples = samples / max(1.0, DEVIATIONS * float(samples.std(ddof=1, dtype=np.float64)))
    whole = np.rint(samples.clip(-1, 1) * FULL).astype("<i2")
    data = whole.T.tobytes()
    channels = len(samples)
    size = channels * whole.itemsize
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * size, size, 16)
    head = struct.pack("<4sI4s", b"RIFF", 4 + len(form) + 8 + len(data), b"WAVE")
    return b"".join((head, form, struct.pack("<4sI", b"data", len(data)), data))
