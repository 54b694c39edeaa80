"""Where previews can be decoded, by the names that the setting `device` has."""

from __future__ import annotations

import functools

import torch


@functools.cache
def gpu_numbers() -> tuple[str, ...]:
    """The CUDA devices of this machine."""
    return tuple(map(str, range(torch.cuda.device_count())))


def resolved(name: str, source: torch.device) -> torch.device:
    """The device that `name` means for latents that lie on `source`.

    auto and same: this one, the sampler's own. A number: that CUDA device.
    """
    if name in ("auto", "same"):
        return source
    return torch.device("cpu") if name == "cpu" else torch.device("cuda", int(name))
