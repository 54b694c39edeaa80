"""The GPUs of this machine, by the names that the setting `device` has."""

from __future__ import annotations

import functools

import torch


@functools.cache
def gpu_numbers() -> tuple[str, ...]:
    """The CUDA devices of this machine."""
    return tuple(map(str, range(torch.cuda.device_count())))
