"""Ends a sampling at a step, with that step's x0 as what the sampler returns."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import comfy.patcher_extension
import comfy.utils
import torch
from comfy.model_management import InterruptProcessingException

from ..plain import in_a_line

log = logging.getLogger(__name__)

WRAPPER_KEY = "sidestream"

OWN_SIGMAS = ("dpm_fast_function", "dpm_adaptive_function")
"""ComfyUI's samplers whose steps are not those of the sigmas that they are given."""


class _Finished(InterruptProcessingException):
    """On its way from a sampler's callback to its `Finisher`.

    Samplers and other packs let it pass, and clean up after it, as they do with an interrupt.
    """

    def __init__(self, finisher: Finisher, samples: torch.Tensor) -> None:
        super().__init__()
        self.finisher, self.samples = finisher, samples


class Finisher:
    """A wrapper of the kind SAMPLER_SAMPLE: around a sampler, within what ComfyUI does afterwards.

    So what it returns goes through `process_latent_out`, the unpacking and the clean-up.
    """

    def __init__(self, tell: Callable[[Finisher], None]) -> None:
        """`tell` is called when the sampler begins, and when it is over."""
        self._tell = tell
        self._guider: Any = None
        self._sigmas: Any = None
        self._thread = 0
        self._has_own_sigmas = False
        self.succeeded = False
        """Whether the sampler was left."""

    @property
    def is_open(self) -> bool:
        """Whether the sampler is at work."""
        return self._guider is not None

    @property
    def sigmas(self) -> torch.Tensor | None:
        """The noise level of each step and the last one, on the sampler's device: [steps + 1].

        None where the sampler is not at work, or goes by others.
        """
        return None if self._has_own_sigmas else self._sigmas

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """`Sampler.sample`, with its arguments."""
        try:
            guider, sigmas, _, _, self._noise, self._latent, *_ = args
            self._sigmas = sigmas.clone()  # some samplers write into them
        except Exception:  # a host that passes others
            return executor(*args, **kwargs)
        function = getattr(getattr(executor, "class_obj", None), "sampler_function", None)
        self._has_own_sigmas = getattr(function, "__name__", "") in OWN_SIGMAS
        self._guider, self._thread = guider, threading.get_ident()
        self._raised = False
        self._tell(self)
        try:
            result = executor(*args, **kwargs)
            if self._raised:
                log.info("[SideStream] This sampler does not let itself be finished early.")
        except _Finished as finished:
            if finished.finisher is not self:
                raise
            self.succeeded = True
            result = finished.samples
        finally:
            self._guider = self._sigmas = self._noise = self._latent = None
            self._tell(self)
        return result

    def start(self) -> torch.Tensor:
        """What the sampler starts from, scaled as the model is given it: like the noise.

        Mostly noise; where a picture is changed or a sampling goes on, that with noise.
        """
        with contextlib.suppress(Exception):  # a kind of sampling that scales in other ways
            sampling, sigma = self._guider.inner_model.model_sampling, self._sigmas[:1]
            noise = self._noise.clone()  # others may add to it in place
            start = sampling.noise_scaling(sigma[0], noise, self._latent, False)
            return sampling.calculate_input(sigma, start)
        return self._noise

    def finish(self, step: int, x0: Any, x: Any) -> None:
        """Leave the sampler, from its callback of `step` (from 0) with these `x0` and `x`.

        Returns where that is not possible, with a line in the log.
        """
        try:
            if not self.is_open or self._thread != threading.get_ident():
                raise RuntimeError("its callback is called from elsewhere")
            samples = self._result(step, _packed(x0), _packed(x))
        except Exception as error:
            log.info("[SideStream] A sampling cannot be finished early (%s).", in_a_line(error))
            return
        self._raised = True
        raise _Finished(self, samples)

    def _result(self, step: int, x0: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What the sampler would return of `x0`, in a tensor of its own: like the noise.

        That is x0 where the last sigma is 0; else, for a sampler that goes on from there, one step
        of Euler's to that sigma.
        """
        sigmas, noise = self._sigmas, self._noise
        assert sigmas is not None
        if x0.shape != noise.shape or x.shape != noise.shape:
            raise RuntimeError("its callback has latents of another shape")
        # Without looking at the numbers, for which one would have to wait.
        left = (sigmas[-1] / sigmas[min(step, len(sigmas) - 2)]).nan_to_num(0, 0, 0)
        samples = x0 + (x - x0) * left.to(x0.device)
        sampling = self._guider.inner_model.model_sampling
        samples = sampling.inverse_noise_scaling(sigmas[-1], samples)
        return samples.to(device=noise.device, dtype=noise.dtype)


def _packed(latent: Any) -> torch.Tensor:
    """As samplers have it: of nested latents callbacks may see the parts."""
    if getattr(latent, "is_nested", False):
        return comfy.utils.pack_latents(latent.unbind())[0]
    return latent


def wrappers(owner: Any, kind: str) -> MutableMapping[str, Any] | None:
    """The place of such wrappers in the options of a MODEL or guider; None where there is none."""
    try:
        options = owner.model_options.setdefault("transformer_options", {})
        place = options.setdefault("wrappers", {}).setdefault(kind, {})
    except Exception:  # other classes, mappings that are read-only, None in the place of one
        return None
    return place if isinstance(place, MutableMapping) else None


@contextlib.contextmanager
def offered(guider: Any, tell: Callable[[Finisher], None]) -> Iterator[None]:
    """Within it `guider` samples, with a `Finisher` that tells so, where it has a place for one.

    Its options are a copy of the MODEL's for this sampling, so nothing is left on the MODEL.
    """
    ours = [Finisher(tell)]
    place: MutableMapping[str, Any] = {}
    with contextlib.suppress(Exception):
        found = wrappers(guider, comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE)
        if found is not None:
            found[WRAPPER_KEY] = ours
            place = found
    try:
        yield
    finally:
        if place.get(WRAPPER_KEY) is ours:
            del place[WRAPPER_KEY]
