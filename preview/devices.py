"""Where previews can be decoded, by the names that the setting `device` knows."""

from __future__ import annotations

import torch

NAMES = ("auto", "same", "cpu", *map(str, range(torch.cuda.device_count())))
"""auto and same: the sampler's own device. A number: that CUDA device."""


def resolved(name: str, source: torch.device) -> torch.device:
    """The device that `name` means for latents that lie on `source`."""
    if name in ("auto", "same"):
        return source
    return torch.device("cpu") if name == "cpu" else torch.device("cuda", int(name))
