"""CUDA graphs recorded and launched through the driver, without `torch.cuda.CUDAGraph`.

Torch's own class cannot be used beside a running sampler: while it records, the device's default
random number generator refuses to work outside the recording, so that a sampler which draws noise
at that moment fails ("Offset increment outside graph capture"). A decoder draws no random numbers,
so the driver's plain capture of the side stream is enough; torch only has to take the memory from
a pool that nobody else is given.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import sys
from collections.abc import Callable

import torch

log = logging.getLogger(__name__)

THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class GraphError(Exception):
    """A graph cannot be recorded or launched here. The message says why."""


@functools.cache
def driver() -> ctypes.PyDLL:
    """The CUDA driver. Raises GraphError where there is none or torch is too old."""
    if torch.version.cuda is None:
        raise GraphError("CUDA graphs are recorded on NVIDIA devices only")
    if not hasattr(torch._C, "_cuda_beginAllocateCurrentThreadToPool"):
        raise GraphError(f"torch {torch.__version__} cannot keep a graph's memory apart")
    try:
        # PyDLL keeps Python's lock over a call. These are short, and to let go of the lock for
        # each would have the sampler and the worker wake each other up all the time.
        return ctypes.PyDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise GraphError(f"the CUDA driver cannot be loaded: {error}") from error


def call(name: str, *arguments: object) -> None:
    """Call the driver's function `name`. Raises GraphError with its error code."""
    code = getattr(driver(), name)(*arguments)
    if code != 0:
        raise GraphError(f"{name} failed with CUDA error {code}")


def keep_out_of_others_captures() -> None:
    """Let this thread work while another thread records a graph in CUDA's global mode.

    Without it a call here, a wait for an event for one, could break the sampler's recording.
    """
    mode = ctypes.c_int(THREAD_LOCAL)
    with contextlib.suppress(GraphError):  # no such driver: no such recording
        call("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))


def available() -> bool:
    """Whether graphs can be recorded here; says in one line why not."""
    try:
        driver()
    except GraphError as error:
        log.info("[SideStream] Previews are decoded without CUDA graphs: %s.", error)
        return False
    return True


class Graph:
    """The work that `record` puts onto `stream`, to be launched as one."""

    def __init__(self, stream: torch.cuda.Stream, record: Callable[[], None]) -> None:
        """Records on the current thread. Raises GraphError, or what `record` raises.

        `record` must have run on this stream before, must not wait for the device, and must
        work on memory that stays where it is.
        """
        self._stream = ctypes.c_void_p(stream.cuda_stream)
        self._executable = ctypes.c_void_p()
        graph = ctypes.c_void_p()
        call("cuStreamBeginCapture_v2", self._stream, THREAD_LOCAL)
        try:
            record()
        finally:
            # Also after an error, or the stream would stay in recording.
            ended = driver().cuStreamEndCapture(self._stream, ctypes.byref(graph))
        if ended != 0:
            raise GraphError(f"cuStreamEndCapture failed with CUDA error {ended}")
        try:
            call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(self._executable),
                graph,
                ctypes.c_ulonglong(0),
            )
        finally:
            driver().cuGraphDestroy(graph)

    def launch(self) -> None:
        """Put the recorded work onto the stream once more."""
        call("cuGraphLaunch", self._executable, self._stream)

    def __del__(self) -> None:
        if self._executable:
            driver().cuGraphExecDestroy(self._executable)
