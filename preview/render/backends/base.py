"""What the engine asks of a backend: staging on the sampler's thread, rendering on the worker's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ...plain import in_a_line
from .device import KINDS

Job = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
"""Turns a staged latent into tensors on the latent's device that the CPU gets."""

Arrays = tuple[np.ndarray, ...]


class BackendError(Exception):
    """A backend cannot work here, whichever decoder it is given. The message names the cause."""


class StagingError(Exception):
    """A latent could not be staged. Its cause says why."""


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one staged latent.

    It is written by the sampler's thread and read by the worker; it is given back only when
    nobody reads it, so `written` is never recorded again while someone waits for it.
    """

    latent: torch.Tensor
    written: Any = None
    """The event behind the last copy into it; None where copies are done when they return."""
    writer: Any = None
    """The stream of that copy."""

    def part(self, latent: torch.Tensor) -> Slot:
        """A view of what was staged, to be rendered alone."""
        return Slot(latent, self.written)


class Backend(Protocol):
    """A way from a sampler's device to a picture on the CPU."""

    @property
    def name(self) -> str:
        """What it is, for people to read."""

    @property
    def source(self) -> torch.device:
        """Where latents are sampled."""

    @property
    def device(self) -> torch.device:
        """Where decoders run."""

    def slot(self, shape: torch.Size, dtype: torch.dtype) -> Slot:
        """Allocate room for a latent. Called on the sampler's thread, for a first frame only."""

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        """Copy `latent` into `slot` in the order of the current stream. Never waits for a GPU.

        False where nothing may be copied now: the sampler is recording a graph.
        """

    def settled(self, slot: Slot) -> bool:
        """Whether the last copy into `slot` has happened, so that its memory may be freed."""

    def working(self) -> AbstractContextManager[object]:
        """Where the worker does all it does: its device, its streams. Entered once, by its thread.

        What is allocated or launched inside does not touch the streams of the sampler.
        """

    def render(self, slot: Slot, job: Job) -> tuple[Arrays, float]:
        """Run `job` on the staged latent: what it gives, and the seconds of the device's time.

        The time starts when the latent is there, so that the sampler's own lag is not counted.
        Waits, on the worker's thread alone. Raises BackendError where the backend itself fails,
        and whatever the job raises. The arrays are valid until the next call.
        """

    def release(self) -> None:
        """Give back what was kept for the next frame. Called when nothing samples."""


def check(backend: Backend) -> None:
    """Take a tiny latent through `backend`, on the worker, inside `working`.

    Raises BackendError where that fails or gives other values than it was given.
    """
    values = torch.arange(64, dtype=torch.float32).reshape(1, 4, 4, 4)
    try:
        # Other devices are for the sampler's thread alone.
        latent = values.to(backend.source) if backend.source.type in KINDS else values
        slot = backend.slot(latent.shape, latent.dtype)
        if not backend.stage(slot, latent):
            return  # something is being recorded on this thread: the first frame will tell
        (given,), _ = backend.render(slot, lambda staged: (staged + 1,))
    except BackendError:
        raise
    except torch.cuda.OutOfMemoryError:
        return  # which says nothing of the backend
    except Exception as error:
        raise BackendError(f"{in_a_line(error)}") from error
    if not np.array_equal(given, (values + 1).numpy()):
        raise BackendError("a copy through a side stream changed the values")
