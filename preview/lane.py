"""The stream, event and copy primitives of a device.

A lane stages latents on the sampler's thread and renders them on the worker's. All that the
engine knows of CUDA is in `CudaLane`; `PlainLane` serves devices without streams of their own,
and `HostLane` decodes on the CPU what a GPU samples.
"""

from __future__ import annotations

import ctypes
import logging
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from . import graphs
from .graphs import Graph, GraphError
from .profile import span

log = logging.getLogger(__name__)


class Painter(Hashable, Protocol):
    """What turns a staged latent into pictures; equal painters do the same work."""

    @property
    def recordable(self) -> bool:
        """Whether all calls for latents of one shape do the same, from the second one on."""

    @property
    def lasting(self) -> bool:
        """Whether an equal painter may come again after this one is gone."""

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Tensors on the latent's device that the CPU gets."""


Arrays = tuple[np.ndarray, ...]


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one staged latent.

    It is written by the sampler's thread and read by the worker; the engine gives it back only
    when nobody reads it, so `written` is never recorded again while someone waits for it.
    """

    latent: torch.Tensor
    written: Any = None
    writer: Any = None

    def part(self, latent: torch.Tensor) -> Slot:
        """A view of what was staged, to be rendered alone."""
        return Slot(latent, self.written)


class Lane(Protocol):
    """What the engine asks of a device."""

    device: torch.device
    """Where pictures are painted."""

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        """Allocate room for a latent. Called on the sampler's thread, for a first frame only."""

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        """Copy `latent` into `slot` in the order of the stream that is current. Never waits.

        False where nothing may be copied now: the sampler is recording a graph.
        """

    def settled(self, slot: Slot) -> bool:
        """Whether the last copy into `slot` has happened, so that its memory may be freed."""

    def working(self) -> AbstractContextManager[object]:
        """Where the worker does all it does: its device, its streams. Entered once, by its thread.

        What is allocated or launched inside does not touch the streams of the sampler.
        """

    def render(self, slot: Slot, painter: Painter) -> tuple[Arrays, float]:
        """Paint the staged latent. Returns what the painter gives and the seconds that it took.

        Waits, on the worker's thread alone. The arrays are valid until the next call.
        """

    def release(self) -> None:
        """Give back the memory that rendering takes. Called when nothing samples."""


class PlainStaging:
    """Staging on a device without streams of its own: CPU, MPS, DirectML."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        return Slot(torch.empty(shape, dtype=dtype, device=self._device))

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        slot.latent.copy_(latent)
        return True

    def settled(self, slot: Slot) -> bool:
        return True


class CudaStaging:
    """Staging on a CUDA device: one copy and one event on the sampler's current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: dict[int, torch.cuda.Stream] = {}

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        return Slot(torch.empty(shape, dtype=dtype, device=self._device), torch.cuda.Event())

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        if torch.cuda.is_current_stream_capturing():
            return False
        with span("snapshot"):
            stream = self._current_stream()
            if slot.writer is not None and slot.writer is not stream:
                # The frame dropped from this slot may still be on its way on another stream.
                stream.wait_event(slot.written)
            slot.latent.copy_(latent, non_blocking=True)
            slot.written.record(stream)
            slot.writer = stream
        return True

    def settled(self, slot: Slot) -> bool:
        return slot.writer is None or bool(slot.written.query())

    def _current_stream(self) -> torch.cuda.Stream:
        # torch.cuda.current_stream makes a new object each time, a third of the callback's cost.
        handle = torch._C._cuda_getCurrentRawStream(self._device.index)
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = torch.cuda.current_stream(self._device)
        return stream


class PlainLane(PlainStaging):
    """Staging and painting on the same device without streams."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.device = device

    def working(self) -> AbstractContextManager[object]:
        return nullcontext()

    def render(self, slot: Slot, painter: Painter) -> tuple[Arrays, float]:
        # On a CPU what the thread worked, not what the machine kept it waiting.
        clock = time.thread_time if self.device.type == "cpu" else time.perf_counter
        start = clock()
        results = tuple(each.cpu().numpy() for each in painter(slot.latent))
        return results, clock() - start

    def release(self) -> None:
        pass


class HostLane(CudaStaging):
    """A GPU's latents, painted on the CPU: only the latent crosses over."""

    def __init__(self, source: torch.device) -> None:
        super().__init__(source)
        self.device = torch.device("cpu")
        self._stream = torch.cuda.Stream(source)
        self._landed = torch.cuda.Event(blocking=True)
        self._pinned: list[torch.Tensor] = []  # one at most
        never_free_of_a_lost_device(self, self._pinned, self._stream)

    def working(self) -> AbstractContextManager[object]:
        return on_streams(self._stream)

    def render(self, slot: Slot, painter: Painter) -> tuple[Arrays, float]:
        latent = slot.latent
        self._stream.wait_event(slot.written)
        if not self._pinned or self._pinned[0].shape != latent.shape:
            self._pinned[:] = [torch.empty(latent.shape, dtype=latent.dtype, pin_memory=True)]
        pinned = self._pinned[0]
        pinned.copy_(latent, non_blocking=True)
        self._landed.record(self._stream)
        self._landed.synchronize()
        start = time.thread_time()
        results = tuple(each.numpy() for each in painter(pinned))
        return results, time.thread_time() - start

    def release(self) -> None:
        if not is_lost(self._stream):
            self._pinned.clear()


@dataclass(slots=True, eq=False)
class Program:
    """A painter made ready for latents of one shape: memory that stays, and the recorded work."""

    key: Hashable
    latent: torch.Tensor
    results: list[torch.Tensor] | None = None  # pinned
    graph: Graph | None = None
    recordable: bool = False


@dataclass(slots=True, eq=False)
class Memory:
    """What a lane holds of its device and of pinned memory."""

    programs: OrderedDict[Hashable, Program] = field(default_factory=OrderedDict)
    pool: Any = None
    """The programs', which run one after the other."""

    def clear(self) -> None:
        self.programs.clear()
        self.pool = None


def is_lost(*streams: torch.cuda.Stream) -> bool:
    """Whether a device has failed for good, as after a kernel's failed assertion. Never waits."""
    try:
        for stream in streams:
            stream.query()
    except RuntimeError:
        return True
    return False


def never_free_of_a_lost_device(
    owner: object, memory: object, *streams: torch.cuda.Stream
) -> None:
    """Let `memory` outlive `owner`, and Python itself, where the device of a stream is lost.

    Torch ends the whole process when pinned memory or a pool is freed whose device is lost. The
    error is then the sampler's to tell, and ComfyUI goes on to answer.
    """

    def keep() -> None:
        if is_lost(*streams):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))

    weakref.finalize(owner, keep)


@contextmanager
def on_streams(*streams: torch.cuda.Stream) -> Iterator[None]:
    """The current thread on `streams`, one a device; the device of the last is current."""
    graphs.keep_out_of_others_captures()
    with ExitStack() as entered:
        for stream in streams:
            entered.enter_context(torch.cuda.stream(stream))
        yield


class CudaLane:
    """A CUDA device with a side stream for previews; the sampler may be on another device.

    The order of work: the sampler's current stream copies into the slot and records `written`;
    the side stream waits for it, paints, and copies to pinned memory; the worker waits for the
    side stream's own event and blocks nobody else. From its second frame on a painter's work is
    one recorded graph, so that the worker hardly needs Python's lock, which the sampler needs.
    """

    PROGRAMS = 4
    PRIORITY = -1
    """Above the sampler's: a decoder's kernels are short, and each would wait for a long one."""
    use_graphs = True

    def __init__(self, device: torch.device, source: torch.device) -> None:
        self.device = device
        staging = CudaStaging(source) if source.type == "cuda" else PlainStaging(source)
        self.slot, self.stage, self.settled = staging.slot, staging.stage, staging.settled
        # A copy between devices runs on streams of both.
        self.stream = torch.cuda.Stream(device, priority=self.PRIORITY)
        on_source = source.type == "cuda" and source != device
        self._fetching = torch.cuda.Stream(source) if on_source else self.stream
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True, blocking=True)
        self._graphs = self.use_graphs and graphs.available()
        self._memory = Memory()
        never_free_of_a_lost_device(self, self._memory, self._fetching, self.stream)
        self._ran: dict[Hashable, list[tuple[torch.Size, torch.dtype]]] = {}

    def working(self) -> AbstractContextManager[object]:
        return on_streams(self._fetching, self.stream)

    def render(self, slot: Slot, painter: Painter) -> tuple[Arrays, float]:
        if slot.written is not None:
            self._fetching.wait_event(slot.written)
        program = self._program(slot, painter)
        with span("decode"):
            self._start.record(self.stream)
            program.latent.copy_(slot.latent, non_blocking=True)
            self._run(program, painter)
            self._end.record(self.stream)
        with span("wait"):
            self._end.synchronize()
        assert program.results is not None
        arrays = tuple(each.numpy() for each in program.results)
        return arrays, self._start.elapsed_time(self._end) / 1000

    def release(self) -> None:
        if not self._is_lost():
            self._memory.clear()

    def _program(self, slot: Slot, painter: Painter) -> Program:
        staged = slot.latent
        key = (painter, staged.shape, staged.dtype)
        programs = self._memory.programs
        program = programs.get(key)
        if program is None:
            latent = torch.empty(staged.shape, dtype=staged.dtype, device=self.device)
            program = programs[key] = Program(key, latent)
            known = self._ran.get(key)
            if known is not None:
                # It ran before, though its memory was given back: it can be recorded at once.
                program.results = [torch.empty(s, dtype=d, pin_memory=True) for s, d in known]
                program.recordable = self._graphs
            if len(programs) > self.PROGRAMS and not self._is_lost():
                programs.popitem(last=False)
        programs.move_to_end(key)
        return program

    def _run(self, program: Program, painter: Painter) -> None:
        """Put the program's work onto the side stream: as it is at first, then as a graph."""
        if program.recordable:
            program.recordable = False
            self._record(program, painter)
        if program.graph is not None:
            program.graph.launch()
            return
        first = program.results is None
        with self._pooled():
            self._paint(program, painter)
        program.recordable = first and self._graphs and painter.recordable

    def _record(self, program: Program, painter: Painter) -> None:
        try:
            with self._pooled():
                program.graph = Graph(self.stream, lambda: self._paint(program, painter))
        except (GraphError, RuntimeError) as error:
            log.warning(
                "[SideStream] Previews are decoded without a CUDA graph, which takes more of the"
                " sampler's time: %s",
                error,
            )

    def _paint(self, program: Program, painter: Painter) -> None:
        made = painter(program.latent)
        if program.results is None:
            kinds = [(each.shape, each.dtype) for each in made]
            program.results = [torch.empty(s, dtype=d, pin_memory=True) for s, d in kinds]
            if painter.lasting and painter.recordable:
                self._ran[program.key] = kinds
            if len(self._ran) > self.PROGRAMS:
                del self._ran[next(iter(self._ran))]
        for result, each in zip(program.results, made, strict=True):
            result.copy_(each, non_blocking=True)

    def _is_lost(self) -> bool:
        return is_lost(self._fetching, self.stream)

    def _pooled(self) -> AbstractContextManager[object]:
        """Take memory from the pool of this lane's graphs."""
        if not self._graphs:
            return nullcontext()
        if self._memory.pool is None:
            self._memory.pool = torch.cuda.MemPool()
        return torch.cuda.use_mem_pool(self._memory.pool)


def lane_for(device: torch.device, source: torch.device) -> Lane:
    """The lane that paints on `device` what is sampled on `source`."""
    if device.type == "cuda":
        return CudaLane(device, source)
    if source.type == "cuda":
        return HostLane(source)
    return PlainLane(source)
