"""How x0 converges: how far it goes from one rendered frame to the next, and each step's sigma.

Of what is staged anyway, on the decoding device, as a part of a frame's own work: one number that
travels to the CPU beside the picture. The sampler's thread has no part in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from ..records import Change, Label
from .backends import Backend, BackendError, Job, Slot
from .backends.device import KINDS

if TYPE_CHECKING:
    from . import protocols

VALUES = 1 << 18
"""Of a latent that are compared: of a larger one every n-th column, as evenly as can be."""
DIGITS = 4


class Earlier(NamedTuple):
    """The frame that was rendered last."""

    sampling: int
    images: range
    step: int
    sample: torch.Tensor


class Convergence:
    """Compares each frame with the one rendered before it, if both are of one sampling.

    All of it happens on the worker's thread, within the backend's `working`.
    """

    def __init__(self) -> None:
        self._earlier: Earlier | None = None
        self._since: int | None = None

    def beside(self, job: Job, label: Label) -> Job:
        """`job`, then how far x0 went: a number, NaN where there is nothing to compare with."""

        def both(latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = job(latent)  # first: where it fails, the next decoder gets the same latent
            try:
                went = self._compared(latent, label)
            except Exception:  # for want of memory, say; the picture is there
                self._earlier = self._since = None
                went = torch.tensor(math.nan)
            return (*made, went)

        return both

    def change(self, label: Label, went: np.ndarray) -> Change | None:
        """What `beside` found, on the CPU."""
        rms = float(went)
        if self._since is None or not math.isfinite(rms):
            return None
        return Change(rounded(rms), self._since)

    def forget(self) -> None:
        """Give up the memory of the last frame."""
        self._earlier = None

    def _compared(self, latent: torch.Tensor, label: Label) -> torch.Tensor:
        sample = latent[..., :: -(-latent.numel() // VALUES)]
        earlier = self._earlier
        self._since = None
        if earlier is None or earlier.sample.shape != sample.shape:
            kept = sample.clone()
            went = kept.new_full((), math.nan, dtype=torch.float32)
        else:
            kept = earlier.sample
            if kept.dtype != sample.dtype:  # another decoder's
                kept = kept.to(sample.dtype)
            is_same = (earlier.sampling, earlier.images) == (label.run.number, label.images)
            if is_same and earlier.step < label.step:
                self._since = earlier.step
            went = norm(sample - kept) / norm(sample)
            kept.copy_(sample)
        self._earlier = Earlier(label.run.number, label.images, label.step, kept)
        return went


def norm(values: torch.Tensor) -> torch.Tensor:
    """In single precision, in which the squares of half-precision numbers have room."""
    return torch.linalg.vector_norm(values, dtype=torch.float32)


def readable(sigmas: torch.Tensor | None) -> torch.Tensor | None:
    """`sigmas` where a worker may read them; for the sampler's thread, once a sampling.

    Copied to the CPU from devices that no other thread may touch, as each latent is.
    """
    if sigmas is None or sigmas.device.type in KINDS:
        return sigmas
    return sigmas.cpu()


def sigma_of(run: protocols.Run, label: Label, backend: Backend, slot: Slot) -> float | None:
    """The sigma from which the x0 in `slot` was predicted; None where it is unknown.

    Those of a sampling are read once, behind its first frame. Raises BackendError.
    """
    if isinstance(run.sigmas, torch.Tensor):
        run.sigmas = _read(run.sigmas, backend, slot)
    sigmas = run.sigmas
    if not sigmas or len(sigmas) != label.total_steps + 1 or label.step > label.total_steps:
        return None  # its steps are not those of its sigmas
    sigma = sigmas[label.step - 1]
    return rounded(sigma) if math.isfinite(sigma) else None


def _read(sigmas: torch.Tensor, backend: Backend, slot: Slot) -> list[float] | None:
    def fetched(latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (sigmas.to(latent.device, torch.float32),)

    try:
        if sigmas.device.type == "cpu":
            values: Any = sigmas
        else:
            (values,), _ = backend.render(slot, fetched)
        return [float(value) for value in values.tolist()]
    except BackendError:
        raise
    except Exception:  # of whatever a sampler was given for sigmas
        return None


def rounded(number: float) -> float:
    """As it is told."""
    return float(f"{number:.{DIGITS}g}")
