"""What is kept of a sampling for the node 'Side-Stream Frames': its latents, then their pictures.

During sampling, the latent of each wanted step is copied into one of the recording's own slots,
which costs as much as a preview's snapshot. The pictures are made when the node requests them, or
as soon as nothing samples; then the latents are freed.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..decoders.picture import contained
from .backends import Backend, Slot
from .protocols import Run

STEPS_RATE = 8.0
"""Steps per second, if each one is a picture."""
UNKNOWN_STEPS = 64
"""The number of steps to make room for if a sampler does not announce how many it will do."""
BYTES_A_PIXEL = 12
"""The size of a pixel of ComfyUI's IMAGE: three 32-bit numbers."""
PATIENCE = 30.0
"""How many seconds to wait for the next picture before giving up on the rest."""


class Engine(Protocol):
    """What makes the pictures."""

    problem: str | None

    @property
    def alive(self) -> bool: ...
    def develop(self, recording: Recording) -> None: ...


class Limit(NamedTuple):
    """How much of one sampling may be kept."""

    frames: int
    megabytes: int
    """The size as an IMAGE."""

    def of(self, size: tuple[int, int]) -> int:
        """The number of pictures of that width and height, at least one."""
        each = max(1, size[0] * size[1]) * BYTES_A_PIXEL
        return max(1, min(self.frames, self.megabytes * 2**20 // each))


class Kept(NamedTuple):
    """A picture of a step."""

    step: int
    """Counted over all samplings of the node; 0 for what the first one starts from."""
    rgb: np.ndarray
    """uint8 [H, W, 3]"""
    size: tuple[int, int]
    """Width and height to enlarge it to."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """The latent of a step, before a picture is made of it."""

    run: Run
    step: int
    images: range
    plays: bool
    """Whether its frames are wanted, as for a video."""
    backend: Backend
    slot: Slot


class Thinned:
    """Keeps at most `capacity` of any number of items, evenly spread, and always the newest."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._seen = 0
        self._stride = 1
        self._is_spare = False
        """Whether the newest item is only kept because it is the newest."""

    def make_room(self, capacity: int) -> list[Any]:
        """Remove and return the items that make room for one more."""
        gone = [self.items.pop()] if self._is_spare and self.items else []
        self._is_spare = False
        while self.items and len(self.items) >= capacity:
            if capacity == 1:
                gone.append(self.items.pop())
                continue
            gone += self.items[1::2]
            self.items = self.items[::2]
            self._stride *= 2
        return gone

    def add(self, item: Any) -> None:
        """Add an item, after `make_room`."""
        self._is_spare = self._seen % self._stride != 0
        self._seen += 1
        self.items.append(item)


class Recording:
    """What is kept of one call of a node, however often it samples."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.engine: Engine | None = None
        """The engine whose backend staged its latents."""
        self.is_incomplete = False
        """Whether there are steps without a picture."""
        self.rate = STEPS_RATE
        """Pictures per second."""
        self._shots = Thinned()
        self._pictures: list[Kept] = []
        self._free: list[Slot] = []
        self._capacity = 1
        self._kind: object = None
        """The run and the kind of latents that the slots are for."""
        self._run: Callable[[], Run | None] = lambda: None
        """The sampling in progress, not kept in memory: it has decoders."""
        self._steps_before = 0
        self._reached = 0
        self._changed = threading.Condition()

    # During sampling

    def reach(self, run: Run) -> int:
        """The number of the run's current step, counted over all samplings."""
        if run is not self._run():
            self._steps_before = self._reached
            self._run = weakref.ref(run)
        self._reached = self._steps_before + run.step
        return self._reached

    @property
    def is_empty(self) -> bool:
        return not self._shots.items and not self._pictures

    def room(
        self,
        run: Run,
        backend: Backend,
        shape: torch.Size,
        dtype: torch.dtype,
        size: tuple[int, int],
        *,
        plays: bool,
    ) -> Slot:
        """A slot for one more latent of that shape and dtype, whose picture has that size.

        All slots of a sampling are made at its first step.
        """
        self._make_slots(run, backend, shape, dtype, 1 if plays else self.limit.of(size))
        with self._changed:
            gone = self._shots.make_room(self._capacity)
        self._free += [shot.slot for shot in gone if _fits(shot.slot, shape, dtype)]
        if not self._free:  # what was removed has another size
            self._free += backend.slots(1, shape, dtype)
        return self._free[-1]

    def _make_slots(
        self, run: Run, backend: Backend, shape: torch.Size, dtype: torch.dtype, most: int
    ) -> None:
        kind = (run.number, shape, dtype)
        if kind == self._kind:
            return
        held = len(self._shots.items)
        self._capacity = min(most, held + (run.total_steps or UNKNOWN_STEPS) + 1)
        self._free = [slot for slot in self._free if _fits(slot, shape, dtype)]
        lacking = self._capacity - held - len(self._free)
        try:
            for _ in range(lacking):  # one by one, as they are freed
                self._free += backend.slots(1, shape, dtype)
        except Exception:
            self._free = []  # the sampler may need that memory
            raise
        self._kind = kind

    def add(self, shot: Shot) -> None:
        """Keep a latent, in the slot that `room` returned."""
        assert self._free[-1] is shot.slot
        self._free.pop()
        with self._changed:
            self._shots.add(shot)

    # Afterwards

    @property
    def waits(self) -> bool:
        """Whether there are latents without pictures."""
        return bool(self._shots.items)

    def take(self) -> Shot | None:
        """The first waiting latent; the same one until `keep` gets its pictures."""
        with self._changed:
            self._free, self._kind = [], None
            return self._shots.items[0] if self._shots.items else None

    def keep(self, shot: Shot | None, pictures: Sequence[Kept], rate: float) -> None:
        """Keep the pictures of a latent, if any could be made, and free the latent."""
        with self._changed:
            if shot is not None:
                self._shots.items = [each for each in self._shots.items if each is not shot]
            self._pictures += pictures
            while len(self._pictures) > self.limit.frames > 1:  # pictures that had no latents here
                self._pictures = [*self._pictures[:-1:2], self._pictures[-1]]
            self.rate = rate
            self._changed.notify_all()

    def forget_shots(self) -> None:
        """Free the latents, if their pictures cannot be made in time."""
        with self._changed:
            self.is_incomplete |= bool(self._shots.items)
            self._shots.items, self._free, self._kind = [], [], None
            self._changed.notify_all()

    def made(self, poll: float = 0.2) -> Iterator[tuple[int, int]]:
        """Wait until all latents have pictures, or none was made for `PATIENCE` seconds.

        Yields, repeatedly, how many latents are done and how many there are.
        """
        total = len(self._shots.items)
        left, end = total, time.monotonic() + PATIENCE
        while left and time.monotonic() < end:
            yield total - left, total
            with self._changed:
                if len(self._shots.items) == left:
                    self._changed.wait(poll)
                if len(self._shots.items) < left:
                    left, end = len(self._shots.items), time.monotonic() + PATIENCE
        yield total - left, total

    @property
    def pictures(self) -> list[Kept]:
        """The pictures in the order of steps."""
        with self._changed:
            return sorted(self._pictures, key=lambda kept: kept.step)

    @property
    def bytes(self) -> int:
        """The size of the pictures, and of the latents that wait for theirs."""
        with self._changed:
            latents = sum(shot.slot.latent.nbytes for shot in self._shots.items)
            return latents + sum(kept.rgb.nbytes for kept in self._pictures)


def _fits(slot: Slot, shape: torch.Size, dtype: torch.dtype) -> bool:
    return slot.latent.shape == shape and slot.latent.dtype == dtype


def evenly(items: Sequence[Kept], count: int) -> list[Kept]:
    """At most `count` of `items`, evenly spread: the first and the last among them, or the last."""
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[-1]]
    last = len(items) - 1
    return [items[round(i * last / (count - 1))] for i in range(count)]


def even_size(size: tuple[int, int]) -> tuple[int, int]:
    """Even width and height, as video encoders need."""
    width, height = size
    return max(2, width - width % 2), max(2, height - height % 2)


def expected_size(latent: torch.Tensor, scale: int, max_size: int) -> tuple[int, int]:
    """Width and height of a preview of `latent`, as expected before it is decoded."""
    height, width = latent.shape[-2:]
    return contained(width * scale, height * scale, max_size)
