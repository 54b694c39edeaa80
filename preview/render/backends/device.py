"""Streams, events and pinned memory of one device, which `torch.cuda` and `torch.xpu` both have.

Everything that the pack does with a device's streams is here, so that a test can replace it.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch

KINDS = ("cuda", "xpu")
"""Devices whose streams a second thread may use. (On MPS a second thread aborts the process.)"""

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class StreamDevice:
    """One device that has streams."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = getattr(torch, device.type)
        self._raw_stream = getattr(torch._C, f"_{device.type}_getCurrentRawStream", None)
        self._streams: dict[int, Any] = {}

    def stream(self, priority: int = 0) -> Any:
        """A new stream; one with a negative `priority` precedes others."""
        return self._module.Stream(self.device, priority=priority)

    def event(self) -> Any:
        """An event that orders streams."""
        return self._module.Event()

    def timer(self) -> Any:
        """An event with a timestamp, for which a thread waits without spinning."""
        if self.device.type == "cuda":
            return self._module.Event(enable_timing=True, blocking=True)
        return self._module.Event(enable_timing=True)

    def pinned(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """CPU memory into which the device can copy directly."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def current_stream(self) -> Any:
        """The stream that is current on this thread."""
        if self._raw_stream is None:
            return self._module.current_stream(self.device)
        # torch's function makes a new object each time, which is a third of the callback's cost.
        handle = self._raw_stream(self.device.index)
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = self._module.current_stream(self.device)
        return stream

    def is_recording(self) -> bool:
        """Whether the current stream is recording a graph."""
        capturing = getattr(self._module, "is_current_stream_capturing", None)
        return capturing is not None and bool(capturing())

    @contextmanager
    def on(self, *streams: Any) -> Iterator[None]:
        """Make `streams`, one per device, current on this thread, and the last one's device."""
        keep_out_of_others_recordings()
        with ExitStack() as entered:
            for stream in streams:
                entered.enter_context(self._module.stream(stream))
            yield


def keep_out_of_others_recordings() -> None:
    """Let this thread work while another one records a graph in CUDA's global mode.

    Otherwise a call here, such as waiting for an event, could break the sampler's recording.
    """
    if torch.version.cuda is None:
        return
    mode = ctypes.c_int(THREAD_LOCAL)
    with suppress(OSError, AttributeError):  # without that driver, nothing is recorded
        driver = ctypes.PyDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
