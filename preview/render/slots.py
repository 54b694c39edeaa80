"""The staging slots of a device: who holds them, and what is staged in them."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import torch

from ..records import Label
from .backends import Backend, BackendError, Slot
from .protocols import Run
from .quicker import Way

SLOTS = 6  # one being read, three waiting, one being written, one used by an animation
REFUSED_SECONDS = 1.0
"""How long to wait after a failed allocation of slots. Before a device's allocator fails, it gives
back the memory that it caches for the sampler, which would have to allocate it again."""


class Lease:
    """A slot and its single holder, who closes the lease when nobody reads or writes the slot.

    As a context manager it is closed at the end of the block, unless another holder took it over.
    """

    __slots__ = ("_holds", "slot", "slots")

    def __init__(self, slots: Slots, slot: Slot) -> None:
        self.slots = slots
        self.slot = slot
        self._holds = True

    def take_over(self) -> Lease:
        """A lease of the slot for another holder; this one no longer holds it."""
        assert self._holds
        self._holds = False
        return Lease(self.slots, self.slot)

    def close(self) -> None:
        """Free the slot for another frame. Does nothing if closed or taken over."""
        if self._holds:
            self._holds = False
            self.slots.release(self.slot)

    def __enter__(self) -> Slot:
        return self.slot

    def __exit__(self, *error: object) -> None:
        self.close()


class Snapshot(NamedTuple):
    """A staged frame: the latent of a step, in a slot that it holds."""

    run: Run
    label: Label
    lease: Lease
    way: Way | None = None
    """The quicker way to decode it, if its decoder is too slow for the budget."""


class Slots:
    """The staging slots of a device, `SLOTS` for each kind of latent."""

    KINDS = 4

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._free: dict[tuple[torch.Size, torch.dtype], list[Slot]] = {}
        self._refused_until = float("-inf")
        self._lock = threading.Lock()

    def acquire(self, shape: torch.Size, dtype: torch.dtype) -> Lease | None:
        """A free slot, or None if all are in use.

        Raises the device's error if it has no memory, and does not try again for `REFUSED_SECONDS`.
        """
        kind = (shape, dtype)
        with self._lock:
            free = self._free.get(kind)
            if free is not None:
                return Lease(self, free.pop()) if free else None
        if time.monotonic() < self._refused_until:
            raise torch.cuda.OutOfMemoryError("it ran out of memory a moment ago")
        try:
            made = self._backend.slots(SLOTS, shape, dtype)
        except BackendError:
            raise
        except Exception:
            self._refused_until = time.monotonic() + REFUSED_SECONDS
            raise
        with self._lock:
            free = self._free.setdefault(kind, made)  # another sampler may have been faster
            lease = Lease(self, free.pop()) if free else None
            self._trim(keep=self.KINDS)
        return lease

    def release(self, slot: Slot) -> None:
        """Take back a slot; only called by its `Lease`."""
        with self._lock:
            self._free[slot.latent.shape, slot.latent.dtype].append(slot)

    def clear(self) -> None:
        with self._lock:
            self._trim(keep=0)

    def _trim(self, keep: int) -> None:
        # The oldest first, but not kinds that are in use or that a copy is still being written to.
        for kind in list(self._free)[: max(0, len(self._free) - keep)]:
            free = self._free[kind]
            if len(free) == SLOTS and all(self._backend.settled(slot) for slot in free):
                del self._free[kind]


class Station:
    """A backend with its staging slots, which are replaced together."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.slots = Slots(backend)
        self.sound_slots = Slots(backend)
        """For sounds: pictures must not use them up where both are made from the same latent."""
        self.proven = False
        """Whether the backend was tested with a tiny latent."""
