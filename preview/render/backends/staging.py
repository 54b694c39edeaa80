"""How a latent is copied on the sampler's thread, for each kind of device."""

from __future__ import annotations

from typing import Any

import torch

from ...plain import in_a_line
from ..profile import span
from .base import BackendError, Slot
from .device import StreamDevice


class StreamStaging:
    """One copy and one event on the sampler's current stream; the sampler does not wait."""

    def __init__(self, streams: StreamDevice) -> None:
        self._streams = streams

    def slots(self, count: int, shape: torch.Size, dtype: torch.dtype) -> list[Slot]:
        latents = torch.empty((count, *shape), dtype=dtype, device=self._streams.device)
        try:
            made = [Slot(latent, self._streams.event()) for latent in latents]
        except Exception as error:
            raise BackendError(f"no event could be created: {in_a_line(error)}") from error
        if not self._streams.is_recording():
            # This stream may still have to finish what the memory was used for before.
            stream = self._streams.current_stream()
            for slot in made:
                self._record(slot, stream)
        return made

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        if self._streams.is_recording():
            return False
        with span("snapshot"):
            stream = self._streams.current_stream()
            if slot.writer is not None and slot.writer is not stream:
                # A dropped frame may still be being copied into this slot on another stream.
                stream.wait_event(slot.written)
            slot.latent.copy_(latent, non_blocking=True)
            self._record(slot, stream)
        return True

    def _record(self, slot: Slot, stream: Any) -> None:
        try:
            slot.written.record(stream)
        except Exception as error:
            raise BackendError(f"no event could be recorded: {in_a_line(error)}") from error
        slot.writer = stream

    def settled(self, slot: Slot) -> bool:
        return slot.writer is None or bool(slot.written.query())


class CopyStaging:
    """A synchronous copy into the CPU's memory, as for ComfyUI's own previews.

    For latents on the CPU, and on devices that only the sampler's thread may touch.
    """

    def slots(self, count: int, shape: torch.Size, dtype: torch.dtype) -> list[Slot]:
        return [Slot(latent) for latent in torch.empty((count, *shape), dtype=dtype)]

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        slot.latent.copy_(latent)
        return True

    def settled(self, slot: Slot) -> bool:
        return True
