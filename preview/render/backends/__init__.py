"""The ways from a sampler's device to a picture on the CPU, one module each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .base import Backend, BackendError, Job, Slot, StagingError, check
from .cpu import CpuBackend
from .device import KINDS, StreamDevice
from .host_copy import HostCopyBackend
from .side_stream import SideStreamBackend

__all__ = [
    "Backend",
    "BackendError",
    "Job",
    "Slot",
    "StagingError",
    "backends_for",
    "check",
    "decoding_device",
]

CPU = torch.device("cpu")


def has_streams(device: torch.device) -> bool:
    """Whether threads other than the sampler's may use `device`, on their own streams."""
    return device.type in KINDS and hasattr(torch, device.type)


def decoding_device(name: str, source: torch.device) -> torch.device:
    """The device that the setting `device` (`name`) means for latents on `source`.

    auto and same: `source`, unless only the sampler's thread may touch it. cpu: the CPU. A number:
    that CUDA device.
    """
    if name in ("auto", "same"):
        return source if has_streams(source) else CPU
    return CPU if name == "cpu" else torch.device("cuda", int(name))


def backends_for(device: torch.device, source: torch.device) -> Iterator[Callable[[], Backend]]:
    """Ways to decode on `device` what is sampled on `source`, best first.

    Each raises BackendError if it cannot work. After the last one comes ComfyUI's own previewer, on
    the sampler's thread.
    """
    streams = StreamDevice(source) if has_streams(source) else None
    if device.type != "cpu":
        yield lambda: SideStreamBackend(StreamDevice(device), streams or source)
        if streams is not None and device != source:
            yield lambda: SideStreamBackend(streams, streams)
    elif streams is not None:
        yield lambda: HostCopyBackend(streams)
    else:
        yield lambda: CpuBackend(source)
