"""The staging slots of a device: who holds one, and what is staged in it."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

import torch

from ..records import Label
from .backends import Backend, BackendError, Slot
from .protocols import Run
from .quicker import Way

SLOTS = 5  # one being read, two waiting, one being written, one that an animation is made of
REFUSED_SECONDS = 1.0
"""How long no memory for slots is asked for where there was none. To say no, a device's allocator
first gives back what it keeps for the sampler, which would have to be fetched anew each time."""


class Lease:
    """A slot in the hands of one holder, who closes it once nobody reads or writes the slot.

    A context manager: the end of the block closes it, unless another holder took it over.
    """

    __slots__ = ("_holds", "slot", "slots")

    def __init__(self, slots: Slots, slot: Slot) -> None:
        self.slots = slots
        self.slot = slot
        self._holds = True

    def take_over(self) -> Lease:
        """The slot for another holder. This lease holds nothing any more."""
        assert self._holds
        self._holds = False
        return Lease(self.slots, self.slot)

    def close(self) -> None:
        """Let the next frame have the slot. Does nothing where it is closed or was taken over."""
        if self._holds:
            self._holds = False
            self.slots.release(self.slot)

    def __enter__(self) -> Slot:
        return self.slot

    def __exit__(self, *error: object) -> None:
        self.close()


class Snapshot(NamedTuple):
    """A staged frame: the latent of a step lies in the slot that it holds."""

    run: Run
    label: Label
    lease: Lease
    way: Way | None = None
    """The quicker one that it comes, where its decoder is too slow for the budget."""


class Slots:
    """The staging slots of a device, `SLOTS` for each kind of latent that came by."""

    KINDS = 4

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._free: dict[tuple[torch.Size, torch.dtype], list[Slot]] = {}
        self._refused_until = float("-inf")
        self._lock = threading.Lock()

    def acquire(self, shape: torch.Size, dtype: torch.dtype) -> Lease | None:
        """A free slot, or None where all are in use.

        Raises what the device says where it has no memory, for `REFUSED_SECONDS` without asking it.
        """
        kind = (shape, dtype)
        with self._lock:
            free = self._free.get(kind)
            if free is not None:
                return Lease(self, free.pop()) if free else None
        if time.monotonic() < self._refused_until:
            raise torch.cuda.OutOfMemoryError("it ran out of memory a moment ago")
        try:
            made = [self._backend.slot(shape, dtype) for _ in range(SLOTS)]
        except BackendError:
            raise
        except Exception:
            self._refused_until = time.monotonic() + REFUSED_SECONDS
            raise
        with self._lock:
            free = self._free.setdefault(kind, made)  # another sampler may have been first
            lease = Lease(self, free.pop()) if free else None
            self._trim(keep=self.KINDS)
        return lease

    def release(self, slot: Slot) -> None:
        """Take back a slot: for its `Lease`."""
        with self._lock:
            self._free[slot.latent.shape, slot.latent.dtype].append(slot)

    def clear(self) -> None:
        with self._lock:
            self._trim(keep=0)

    def _trim(self, keep: int) -> None:
        # Oldest first; memory that a copy is on its way to stays, and a kind that is in use.
        for kind in list(self._free)[: max(0, len(self._free) - keep)]:
            free = self._free[kind]
            if len(free) == SLOTS and all(self._backend.settled(slot) for slot in free):
                del self._free[kind]


class Station:
    """A backend with its staging slots, which belong together: both are replaced at once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.slots = Slots(backend)
        self.proven = False
        """Whether the backend was tried on a tiny latent."""
