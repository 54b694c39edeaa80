"""A device with streams, in the CPU's memory, whose parts fail when a test wants them to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sidestream.preview.render.backends.device import StreamDevice

CPU = torch.device("cpu")

Fault = Callable[[int], bool]
"""Whether the nth call (from 1) of a part fails."""


class FakeDevice(StreamDevice):
    """Streams do nothing but note, in `calls`, what they are asked for, in its order."""

    def __init__(self, part: str = "", fails: Fault = lambda nth: False) -> None:
        self.device = CPU
        self.calls: list[str] = []
        self._part, self._fails = part, fails
        self._count = 0
        self._lock = threading.Lock()

    def did(self, part: str) -> None:
        """A part was used: it is noted, and may fail."""
        with self._lock:
            self.calls.append(part)
            if part != self._part:
                return
            self._count += 1
            nth = self._count
        if self._fails(nth):
            raise RuntimeError(f"CUDA error: {part} failed\nAdvice to programmers")

    def stream(self, priority: int = 0) -> Any:
        self.did("stream")
        return FakeStream(self)

    def event(self) -> Any:
        self.did("event")
        return FakeEvent(self, "event")

    def timer(self) -> Any:
        self.did("timer")
        return FakeEvent(self, "timer")

    def pinned(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        self.did("pinned")
        return torch.empty(shape, dtype=dtype)

    def current_stream(self) -> Any:
        return self

    def wait_event(self, event: FakeEvent) -> None:
        """As the sampler's stream."""

    def is_recording(self) -> bool:
        return False

    @contextmanager
    def on(self, *streams: Any) -> Iterator[None]:
        yield


class FakeStream:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device

    def wait_event(self, event: FakeEvent) -> None:
        self._device.did("wait")

    def query(self) -> bool:
        return True


class FakeEvent:
    def __init__(self, device: FakeDevice, kind: str) -> None:
        self._device, self._kind = device, kind

    def record(self, stream: Any) -> None:
        self._device.did("record" if self._kind == "event" else "start or end")

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._device.did("synchronize")

    def elapsed_time(self, end: FakeEvent) -> float:
        self._device.did("elapsed")
        return 1.0
