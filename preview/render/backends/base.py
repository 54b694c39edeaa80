"""The interface of backends: staging on the sampler's thread, rendering on the worker's."""

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
"""Turns a staged latent into tensors on its device, which are then copied to the CPU."""

Arrays = tuple[np.ndarray, ...]


class BackendError(Exception):
    """A backend cannot work here, with whatever decoder. The message names the cause."""


class StagingError(Exception):
    """A latent could not be staged. Its cause says why."""


@dataclass(slots=True, eq=False)
class Slot:
    """Room for one staged latent.

    The sampler's thread writes it and the worker reads it. It is only released when nobody reads
    it, so `written` is never recorded again while somebody waits for it.
    """

    latent: torch.Tensor
    written: Any = None
    """The event after the last copy into it, or its allocation; None if copies are synchronous."""
    writer: Any = None
    """The stream of that."""

    def part(self, latent: torch.Tensor) -> Slot:
        """A slot with a part of the staged latent, to be rendered separately."""
        return Slot(latent, self.written)


class Backend(Protocol):
    """A way from a sampler's device to a picture on the CPU."""

    @property
    def name(self) -> str:
        """Its name, for people to read."""

    @property
    def source(self) -> torch.device:
        """The device on which latents are sampled."""

    @property
    def device(self) -> torch.device:
        """The device on which decoders run."""

    def slots(self, count: int, shape: torch.Size, dtype: torch.dtype) -> list[Slot]:
        """Allocate room for `count` latents. Called on the sampler's thread, for first frames only.

        It is one piece of memory: several could split what the sampler needs as a whole.
        """

    def stage(self, slot: Slot, latent: torch.Tensor) -> bool:
        """Copy `latent` into `slot`, ordered on the current stream. Never waits for a GPU.

        False if nothing may be copied now, because the sampler is recording a graph.
        """

    def settled(self, slot: Slot) -> bool:
        """Whether the last copy into `slot` has completed, so that its memory may be freed."""

    def working(self) -> AbstractContextManager[object]:
        """The context of all the worker's work: its device and streams. Entered by its thread.

        What is allocated or launched inside does not touch the sampler's streams.
        """

    def render(self, slot: Slot, job: Job) -> tuple[Arrays, float]:
        """Run `job` on the staged latent; returns its results and the device's time in seconds.

        The time starts when the latent is available, so that the sampler's own lag does not count.
        Waits, which only the worker's thread may do. Raises BackendError if the backend itself
        fails, and whatever the job raises. The arrays are valid until the next call.
        """

    def release(self) -> None:
        """Free what is kept for the next frame. Called when nothing samples."""


def check(backend: Backend) -> None:
    """Take a tiny latent through `backend`, on the worker, inside `working`.

    Raises BackendError if that fails or changes the values.
    """
    values = torch.arange(64, dtype=torch.float32).reshape(1, 4, 4, 4)
    try:
        # Other devices may only be touched by the sampler's thread.
        latent = values.to(backend.source) if backend.source.type in KINDS else values
        (slot,) = backend.slots(1, latent.shape, latent.dtype)
        if not backend.stage(slot, latent):
            return  # something is being recorded on this thread: the first frame will be the test
        (given,), _ = backend.render(slot, lambda staged: (staged + 1,))
    except BackendError:
        raise
    except torch.cuda.OutOfMemoryError:
        return  # which says nothing about the backend
    except Exception as error:
        raise BackendError(f"{in_a_line(error)}") from error
    if not np.array_equal(given, (values + 1).numpy()):
        raise BackendError("a copy through a side stream changed the values")
