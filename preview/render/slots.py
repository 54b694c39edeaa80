"""The staging slots of a device, and the backend that they belong to."""

from __future__ import annotations

import threading
import time

import torch

from .backends import Backend, BackendError, Slot

SLOTS = 5  # one being read, two waiting, one being written, one that an animation is made of
REFUSED_SECONDS = 1.0
"""How long no memory for slots is asked for where there was none. To say no, a device's allocator
first gives back what it keeps for the sampler, which would have to be fetched anew each time."""


class Slots:
    """The staging slots of a device, `SLOTS` for each kind of latent that came by."""

    KINDS = 4

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._free: dict[tuple[torch.Size, torch.dtype], list[Slot]] = {}
        self._refused_until = float("-inf")
        self._lock = threading.Lock()

    def take(self, shape: torch.Size, dtype: torch.dtype) -> Slot | None:
        """A free slot, or None where all are in use.

        Raises what the device says where it has no memory, for `REFUSED_SECONDS` without asking it.
        """
        kind = (shape, dtype)
        with self._lock:
            free = self._free.get(kind)
            if free is not None:
                return free.pop() if free else None
        if time.monotonic() < self._refused_until:
            raise torch.cuda.OutOfMemoryError("there was no memory for it a moment ago")
        try:
            made = [self._new(shape, dtype) for _ in range(SLOTS)]
        except BackendError:
            raise
        except Exception:
            self._refused_until = time.monotonic() + REFUSED_SECONDS
            raise
        with self._lock:
            free = self._free.setdefault(kind, made)  # another sampler may have been first
            taken = free.pop() if free else None
            self._trim(keep=self.KINDS)
        return taken

    def give_back(self, slot: Slot) -> None:
        with self._lock:
            self._free[slot.latent.shape, slot.latent.dtype].append(slot)

    def _new(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        slot = self._backend.slot(shape, dtype)
        slot.owner = self
        return slot

    def clear(self) -> None:
        with self._lock:
            self._trim(keep=0)

    def _trim(self, keep: int) -> None:
        # Oldest first; memory that a copy is on its way to stays, and a kind that is in use.
        for kind in list(self._free)[: max(0, len(self._free) - keep)]:
            free = self._free[kind]
            if len(free) == SLOTS and all(self._backend.settled(slot) for slot in free):
                del self._free[kind]


def give_back(slot: Slot) -> None:
    """Let the next frame have `slot`."""
    slot.owner.give_back(slot)


class Station:
    """A backend with its staging slots, which belong together: both are replaced at once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.slots = Slots(backend)
        self.proven = False
        """Whether the backend was tried on a tiny latent."""
