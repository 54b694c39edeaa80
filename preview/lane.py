"""The stream, event and copy primitives of a device.

A lane stages latents on the sampler's thread and renders them on the worker's. All that the
engine knows of CUDA is in `CudaLane`; `PlainLane` serves devices without streams of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

Paint = Callable[[torch.Tensor], torch.Tensor]
"""A staged latent in, a uint8 picture [H, W, 3] on the same device out."""


@dataclass(slots=True)
class Slot:
    """Room for one staged latent.

    It is written by the sampler's thread and read by the worker; the engine gives it back only
    when nobody reads it, so `written` is never recorded again while someone waits for it.
    """

    latent: torch.Tensor
    written: Any = None
    writer: Any = None


class Lane(Protocol):
    """What the engine asks of a device."""

    device: torch.device

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        """Allocate room for a latent. Called on the sampler's thread, for a first frame only."""

    def stage(self, slot: Slot, latent: torch.Tensor) -> None:
        """Copy `latent` into `slot` in the order of the stream that is current. Never waits."""

    def settled(self, slot: Slot) -> bool:
        """Whether the last copy into `slot` has happened, so that its memory may be freed."""

    def render(self, slot: Slot, paint: Paint) -> tuple[np.ndarray, float]:
        """Paint the staged latent. Returns uint8 [H, W, 3] and the seconds of the device taken.

        Waits, on the worker's thread alone. The array is valid until the next call.
        """


class PlainLane:
    """A device without streams of its own: CPU, MPS, DirectML."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        return Slot(torch.empty(shape, dtype=dtype, device=self.device))

    def stage(self, slot: Slot, latent: torch.Tensor) -> None:
        slot.latent.copy_(latent)

    def settled(self, slot: Slot) -> bool:
        return True

    def render(self, slot: Slot, paint: Paint) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        picture = paint(slot.latent).cpu().numpy()
        return picture, time.perf_counter() - start


class CudaLane:
    """A CUDA or ROCm device with a side stream for previews.

    The order of work: the sampler's current stream copies into the slot and records `written`;
    the side stream waits for it, paints, and copies to pinned memory; the worker waits for the
    side stream's own event and blocks nobody else.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream(device)
            self._start = torch.cuda.Event(enable_timing=True)
            self._end = torch.cuda.Event(enable_timing=True, blocking=True)
        self._pinned: torch.Tensor | None = None

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        return Slot(torch.empty(shape, dtype=dtype, device=self.device), torch.cuda.Event())

    def stage(self, slot: Slot, latent: torch.Tensor) -> None:
        stream = torch.cuda.current_stream(self.device)
        if slot.writer is not None and slot.writer != stream:
            # The frame that was dropped from this slot may still be on its way on another stream.
            stream.wait_event(slot.written)
        slot.latent.copy_(latent, non_blocking=True)
        slot.written.record(stream)
        slot.writer = stream

    def settled(self, slot: Slot) -> bool:
        return bool(slot.written.query())

    def render(self, slot: Slot, paint: Paint) -> tuple[np.ndarray, float]:
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            self.stream.wait_event(slot.written)
            self._start.record(self.stream)
            picture = paint(slot.latent)
            pinned = self._pinned_like(picture)
            pinned.copy_(picture, non_blocking=True)
            self._end.record(self.stream)
            self._end.synchronize()
        return pinned.numpy(), self._start.elapsed_time(self._end) / 1000

    def _pinned_like(self, picture: torch.Tensor) -> torch.Tensor:
        if self._pinned is None or self._pinned.shape != picture.shape:
            self._pinned = torch.empty(picture.shape, dtype=picture.dtype, pin_memory=True)
        return self._pinned


def lane_for(device: torch.device) -> Lane:
    """The lane that suits `device`."""
    return CudaLane(device) if device.type == "cuda" else PlainLane(device)
