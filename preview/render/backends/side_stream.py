"""Decoding on a GPU, on a side stream next to the sampler's.

The order of work: the sampler's current stream copies into the slot and records `written`; the
side stream waits for that event, decodes, and copies to pinned memory; the worker waits for the
side stream's own event and blocks nobody else.

No CUDA graph is recorded here. While any stream of a device is being recorded, in any mode, another
thread's `torch.cuda.synchronize()` raises and ruins the recording; and if torch allocates with
cudaMallocAsync, freeing the memory of a ruined recording aborts the process. Memory comes from the
sampler's allocator, so the sampler can use whatever is idle.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from ...plain import in_a_line
from ..profile import span
from .base import Arrays, BackendError, Job, Slot
from .device import StreamDevice
from .pinned import PinnedMemory
from .staging import CopyStaging, StreamStaging

PRIORITY = -1
"""Above the sampler's: a decoder's kernels are short, and each would wait for a longer one."""


class SideStreamBackend:
    """A GPU with a side stream for previews; the sampler may be on another device."""

    def __init__(self, streams: StreamDevice, source: StreamDevice | torch.device) -> None:
        """`source` is a plain device if it has no streams. Raises BackendError."""
        self.device = streams.device
        self.name = f"side stream of {streams.device}"
        self._streams = streams
        self._fetching = None
        """A stream on another source device: copies between devices use streams of both."""
        try:
            self._stream = streams.stream(PRIORITY)
            self._start, self._end = streams.timer(), streams.timer()
            if isinstance(source, StreamDevice):
                self.source = source.device
                self._staging: StreamStaging | CopyStaging = StreamStaging(source)
                if source.device != streams.device:
                    self._fetching = source.stream()
            else:
                self.source = source
                self._staging = CopyStaging()
        except Exception as error:
            raise BackendError(f"no side stream could be created: {in_a_line(error)}") from error
        self._pinned = PinnedMemory(streams, self._stream)

    def slots(self, count: int, shape: torch.Size, dtype: torch.dtype) -> list[Slot]:
        return self._staging.slots(count, shape, dtype)

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        return self._staging.stage(slot, latent)

    def settled(self, slot: Slot) -> bool:
        return self._staging.settled(slot)

    def working(self) -> AbstractContextManager[object]:
        fetching = () if self._fetching is None else (self._fetching,)
        return self._streams.on(*fetching, self._stream)

    def render(self, slot: Slot, job: Job) -> tuple[Arrays, float]:
        with span("decode"):
            self._begin(slot)
            made = job(slot.latent.to(self.device, non_blocking=True))
            results = tuple(self._on_host(each, nth) for nth, each in enumerate(made))
        with span("wait"):
            seconds = self._finish()
        return tuple(each.numpy() for each in results), seconds

    def release(self) -> None:
        self._pinned.release()

    def _begin(self, slot: Slot) -> None:
        """Let the side streams wait for the snapshot, and start the clock after it."""
        try:
            if slot.written is not None:
                if self._fetching is not None:
                    self._fetching.wait_event(slot.written)
                self._stream.wait_event(slot.written)
            self._start.record(self._stream)
        except Exception as error:
            raise BackendError(f"the side stream failed: {in_a_line(error)}") from error

    def _on_host(self, made: torch.Tensor, nth: int) -> torch.Tensor:
        """`made`, on its way to the CPU's memory."""
        pinned = self._pinned.get(made.shape, made.dtype, nth)
        return made.cpu() if pinned is None else pinned.copy_(made, non_blocking=True)

    def _finish(self) -> float:
        """Wait for the side stream; returns the seconds since its clock was started."""
        try:
            self._end.record(self._stream)
            self._end.synchronize()
            return float(self._start.elapsed_time(self._end)) / 1000
        except Exception as error:
            raise BackendError(f"the side stream failed: {in_a_line(error)}") from error
