"""How x0 converges: its change from one rendered frame to the next, and each step's sigma.

It uses the staged latents, on the decoding device, as part of a frame's work: one number goes to
the CPU with the picture. The sampler's thread is not involved.
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
"""The most values of a latent to compare: of a larger one, every n-th column."""
DIGITS = 4


class Earlier(NamedTuple):
    """The previously rendered frame."""

    sampling: int
    images: range
    step: int
    sample: torch.Tensor


class Convergence:
    """Compares each frame with the one rendered before it, if both are of the same sampling.

    Only used on the worker's thread, within the backend's `working`.
    """

    def __init__(self) -> None:
        self._earlier: Earlier | None = None
        self._since: int | None = None

    def beside(self, job: Job, label: Label) -> Job:
        """`job`, followed by the change of x0: one number, NaN if there is nothing to compare."""

        def both(latent: torch.Tensor) -> tuple[torch.Tensor, ...]:
            made = job(latent)  # first: if it fails, the next decoder gets the same latent
            try:
                went = self._compared(latent, label)
            except Exception:  # out of memory, for example; the picture is not affected
                self._earlier = self._since = None
                went = torch.tensor(math.nan)
            return (*made, went)

        return both

    def change(self, label: Label, went: np.ndarray) -> Change | None:
        """The result of `beside`, on the CPU."""
        rms = float(went)
        if self._since is None or not math.isfinite(rms):
            return None
        return Change(rounded(rms), self._since)

    def forget(self) -> None:
        """Free the memory of the last frame."""
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
    """The norm, in single precision: squares of half-precision numbers could overflow."""
    return torch.linalg.vector_norm(values, dtype=torch.float32)


def readable(sigmas: torch.Tensor | None) -> torch.Tensor | None:
    """`sigmas` where a worker may read them; called once a sampling, on the sampler's thread.

    Copied to the CPU from devices that no other thread may touch, as latents are.
    """
    if sigmas is None or sigmas.device.type in KINDS:
        return sigmas
    return sigmas.cpu()


def sigma_of(run: protocols.Run, label: Label, backend: Backend, slot: Slot) -> float | None:
    """The sigma from which the x0 in `slot` was predicted; None if unknown.

    A sampling's sigmas are read once, after its first frame. Raises BackendError.
    """
    if isinstance(run.sigmas, torch.Tensor):
        run.sigmas = _read(run.sigmas, backend, slot)
    sigmas = run.sigmas
    if not sigmas or len(sigmas) != label.total_steps + 1 or label.step > label.total_steps:
        return None  # its steps do not correspond to its sigmas
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
    except Exception:  # a sampler may be given anything for sigmas
        return None


def rounded(number: float) -> float:
    """`number` with `DIGITS` significant digits."""
    return float(f"{number:.{DIGITS}g}")
