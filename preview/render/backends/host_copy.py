"""A GPU's latents, decoded on the CPU: a side stream copies only the latent."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

import torch

from ...plain import in_a_line
from .base import Arrays, BackendError, Job, Slot
from .device import StreamDevice
from .pinned import PinnedMemory
from .staging import StreamStaging


class HostCopyBackend(StreamStaging):
    """Snapshot on the sampler's stream, copy on a side stream, decoding on the CPU."""

    def __init__(self, streams: StreamDevice) -> None:
        """Raises BackendError."""
        super().__init__(streams)
        self.source = streams.device
        self.device = torch.device("cpu")
        self.name = f"CPU, copied by a side stream of {streams.device}"
        try:
            self._stream = streams.stream()
            self._landed = streams.timer()
        except Exception as error:
            raise BackendError(f"no side stream could be created: {in_a_line(error)}") from error
        self._pinned = PinnedMemory(streams, self._stream)

    def working(self) -> AbstractContextManager[object]:
        return self._streams.on(self._stream)

    def render(self, slot: Slot, job: Job) -> tuple[Arrays, float]:
        latent = self._fetched(slot)
        start = time.thread_time()
        results = tuple(each.numpy() for each in job(latent))
        return results, time.thread_time() - start

    def release(self) -> None:
        self._pinned.release()

    def _fetched(self, slot: Slot) -> torch.Tensor:
        """The staged latent on the CPU."""
        try:
            self._stream.wait_event(slot.written)
            pinned = self._pinned.get(slot.latent.shape, slot.latent.dtype)
            if pinned is None:
                return slot.latent.cpu()
            pinned.copy_(slot.latent, non_blocking=True)
            self._landed.record(self._stream)
            self._landed.synchronize()
            return pinned
        except Exception as error:
            raise BackendError(f"a copy on a side stream failed: {in_a_line(error)}") from error
