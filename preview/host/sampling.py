"""How ComfyUI samples and previews: its previewers, its latents, a sampling's start and end."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import logging
import math
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol

import comfy.patcher_extension
import comfy.utils
import latent_preview
import torch
from comfy.model_management import InterruptProcessingException
from latent_preview import LatentPreviewer

from ..plain import in_a_line

log = logging.getLogger(__name__)

# --- previewers ---------------------------------------------------------------------------------

OWN_PREVIEWERS = ("TAESDPreviewerImpl", "TAEHVPreviewerImpl", "Latent2RGBPreviewer")

REPLACED = {"get_previewer": ["device", "latent_format"], "prepare_callback": ["model", "steps"]}
"""The functions that SideStream replaces, each with its first parameters."""

METHODS = ("decode_latent_to_preview", "decode_latent_to_preview_image")
"""The methods that a previewer may override."""


def unexpected_previews() -> str | None:
    """How the functions in `REPLACED` differ from what is expected; None if they don't."""
    for name, parameters in REPLACED.items():
        function = getattr(latent_preview, name, None)
        if not callable(function):
            return f"latent_preview.{name} is missing"
        # Other packs' wrappers often take *args, so only ComfyUI's own signature is checked.
        innermost = inspect.unwrap(function)
        if not is_own_function(innermost, name):
            continue
        found = list(inspect.signature(innermost).parameters)
        if found[: len(parameters)] != parameters:
            return f"latent_preview.{name} takes ({', '.join(found)})"
    return None


def is_own_function(function: object, name: str) -> bool:
    """Whether `function` is what ComfyUI's `latent_preview` defines as `name`.

    Judged by the file of its code: `functools.update_wrapper` copies ComfyUI's names to wrappers.
    """
    code = getattr(function, "__code__", None)
    return (
        code is not None
        and not hasattr(function, "__wrapped__")
        and code.co_name == name
        and _is_same_file(code.co_filename, latent_preview.__file__)
    )


def _is_same_file(a: str, b: str) -> bool:
    return os.path.normcase(os.path.abspath(a)) == os.path.normcase(os.path.abspath(b))


def overriding_method() -> Any:
    """The method that another pack put on ComfyUI's base class of previewers, or None."""
    methods = ((name, getattr(LatentPreviewer, name)) for name in METHODS)
    return next((method for name, method in methods if not is_own_function(method, name)), None)


def is_own_previewer(previewer: object) -> bool:
    """Whether it is one of ComfyUI's own previewers, which SideStream replaces."""
    return type(previewer).__module__ == latent_preview.__name__ and (
        type(previewer).__name__ in OWN_PREVIEWERS
    )


def own_previewer(original: Callable[[], Any], latent_format: Any) -> Any:
    """ComfyUI's own previewer: `original()`, or Latent2RGB if that gives none or fails."""
    try:
        previewer = original()
    except Exception:  # a damaged decoder file, which the worker reports
        previewer = None
    if previewer is None and latent_format.latent_rgb_factors is not None:
        optional = ("latent_rgb_factors_bias", "latent_rgb_factors_reshape")
        arguments = [
            getattr(latent_format, name) for name in optional if hasattr(latent_format, name)
        ]
        previewer = latent_preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, *arguments)
    return previewer


# --- latents ------------------------------------------------------------------------------------


def latent_frame(x0: Any) -> torch.Tensor:
    """The tensor to preview: the first of nested latents (video with audio)."""
    return x0.tensors[0] if getattr(x0, "is_nested", False) else x0


def sound_latent(x0: Any, shapes: Sequence[Sequence[int]], is_sound: bool) -> torch.Tensor | None:
    """The sound in `x0`, [B, C, ...]: the last of several latents, all of it, or None.

    `shapes` are those of the latents that ComfyUI samples as one.
    """
    if getattr(x0, "is_nested", False):
        last: torch.Tensor = x0.tensors[-1]
        return last
    if len(shapes) > 1 and x0.ndim == 3 and x0.shape[1] == 1:
        shape = list(shapes[-1])[1:]
        return x0[:, 0, -math.prod(shape) :].unflatten(1, shape)
    return x0 if is_sound else None


def unpacked(latent: torch.Tensor, shapes: Sequence[Sequence[int]]) -> torch.Tensor:
    """The first of the latents of several `shapes` that ComfyUI samples as one, [B, 1, numbers].

    It is a view. Any other latent is returned as it is.
    """
    if len(shapes) < 2 or latent.ndim != 3 or latent.shape[1] != 1:
        return latent
    first = list(shapes[0])[1:]
    return latent[:, 0, : math.prod(first)].unflatten(1, first)


def views_as_batch(latent: torch.Tensor) -> torch.Tensor:
    """The views of one object, packed as frames [B, C, T, h, w], as a batch [T, C, h, w].

    Only those of the first object. The result is a view of `latent`.
    """
    return latent[0].movedim(1, 0) if latent.ndim == 5 else latent


# --- hidden frames ------------------------------------------------------------------------------
#
# Some nodes put guides, keyframes or reference pictures before or after a video's frames, sample
# all as one latent, and have another node cut them off. What the sampler is conditioned on says
# how many there are; that is read once a run.

REFERENCE_FIRST = {"WAN22_Animate", "WAN_Animate2"}
"""ComfyUI's models whose latents begin with the reference picture."""


class Hidden(NamedTuple):
    """The frames of a latent [B, C, T, h, w], `frames` in all, that are not part of the video."""

    frames: int = 0
    before: int = 0
    after: int = 0

    def cut_off(self, latent: torch.Tensor) -> torch.Tensor:
        """A view of `latent` without them; a latent of another length is returned as it is."""
        of_these = latent.ndim == 5 and latent.shape[2] == self.frames
        if not of_these or not 0 < self.before + self.after < self.frames:
            return latent
        return latent[:, :, self.before : self.frames - self.after]


def hidden_frames(guider: Any, shape: Sequence[int]) -> Hidden:
    """The hidden frames in latents of `shape` that `guider` samples. Never raises."""
    if len(shape) != 5:
        return Hidden()
    _, _, frames, height, width = shape
    before = after = 0
    with contextlib.suppress(Exception):  # other packs may have put anything there
        model = guider.model_patcher.model
        is_reference_first = any(kind.__name__ in REFERENCE_FIRST for kind in type(model).__mro__)
        for cond in itertools.chain.from_iterable(guider.conds.values()):
            after = max(after, _keyframes(cond, frames, height * width))
            if is_reference_first:
                before = max(before, _poses_begin(cond, frames))
            before = max(before, _references(cond, model.latent_format))
    return Hidden(frames, before, after)


def _keyframes(cond: Mapping[str, Any], frames: int, tokens_each: int) -> int:
    """Frames that LTX-Video's nodes append: guides, and keyframes generated with the video.

    ComfyUI keeps a position for each token of the guides' latents: [B, 3, tokens, ...].
    """
    places = cond.get("keyframe_idxs")
    guides = 0 if places is None else places.shape[2] // tokens_each
    made = cond.get("generated_keyframes")
    if isinstance(made, Mapping):
        slots = made["num_keyframes"]
        if made["first_latent_frame"] + slots + guides == frames:
            return int(slots + guides)
    return int(guides)


def _poses_begin(cond: Mapping[str, Any], frames: int) -> int:
    """The first frame of a video whose poses are given; otherwise the one after the reference."""
    poses = cond.get("pose_video_latent")
    return 1 if poses is None else int(frames - poses.shape[2])


def _references(cond: Mapping[str, Any], latent_format: Any) -> int:
    """Frames before those that VACE controls: the ones in which nothing may change.

    Control frames are latents of what stays and of what changes, [B, 2 C, T, h, w].
    """
    most = 0
    for control in cond.get("vace_frames") or ():
        if control.device.type != "cpu":  # reading its values would wait for the device
            continue
        changing = control.chunk(2, dim=1)[1]
        nothing = latent_format.process_out(torch.zeros_like(changing[:, :, :1]))
        same = [torch.equal(frame, nothing) for frame in changing.split(1, dim=2)]
        most = max(most, (*same, False).index(False))
    return most

# --- finishing early ----------------------------------------------------------------------------

WRAPPER_KEY = "sidestream"

OWN_SIGMAS = ("dpm_fast_function", "dpm_adaptive_function")
"""ComfyUI's samplers whose steps do not follow the sigmas that they are given."""


class _Finished(InterruptProcessingException):
    """Raised in a sampler's callback and caught by its `Finisher`.

    Samplers and other packs treat it as an interrupt: they let it pass, and clean up after it.
    """

    def __init__(self, finisher: Finisher, samples: torch.Tensor) -> None:
        super().__init__()
        self.finisher, self.samples = finisher, samples


class Finisher:
    """A SAMPLER_SAMPLE wrapper that can end its sampler at a step and return that step's x0.

    ComfyUI then applies `process_latent_out`, unpacking and clean-up to it as to any result.
    """

    def __init__(self, tell: Callable[[Finisher], None]) -> None:
        """`tell` is called when the sampler starts and when it has ended."""
        self._tell = tell
        self._guider: Any = None
        self._sigmas: Any = None
        self._thread = 0
        self._has_own_sigmas = False
        self.succeeded = False
        """Whether the sampler was ended early."""

    @property
    def is_open(self) -> bool:
        """Whether the sampler is running."""
        return self._guider is not None

    @property
    def sigmas(self) -> torch.Tensor | None:
        """The noise levels before each step and after the last: [steps + 1], on its device.

        None while the sampler is not running, or if it follows others.
        """
        return None if self._has_own_sigmas else self._sigmas

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """`Sampler.sample`, with its arguments."""
        try:
            guider, sigmas, _, _, self._noise, self._latent, *_ = args
            self._sigmas = sigmas.clone()  # some samplers write into them
        except Exception:  # a host that passes other arguments
            return executor(*args, **kwargs)
        function = getattr(getattr(executor, "class_obj", None), "sampler_function", None)
        self._has_own_sigmas = getattr(function, "__name__", "") in OWN_SIGMAS
        self._guider, self._thread = guider, threading.get_ident()
        self._raised = False
        self._tell(self)
        try:
            result = executor(*args, **kwargs)
            if self._raised:
                log.info("[SideStream] This sampler cannot be finished early.")
        except _Finished as finished:
            if finished.finisher is not self:
                raise
            self.succeeded = True
            result = finished.samples
        finally:
            self._guider = self._sigmas = self._noise = self._latent = None
            self._tell(self)
        return result

    def __deepcopy__(self, memo: object) -> Finisher:
        return self  # packs copy the options in which it lies; it refers to the model

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return Finisher, (_untold,)

    def start(self) -> torch.Tensor:
        """What the sampler starts from, scaled as the model's input; shape and dtype of the noise.

        Usually noise; noise over a picture for image to image, or when a sampling is continued.
        """
        with contextlib.suppress(Exception):  # a model sampling that scales in another way
            sampling, sigma = self._guider.inner_model.model_sampling, self._sigmas[:1]
            noise = self._noise.clone()  # others may add to it in place
            start = sampling.noise_scaling(sigma[0], noise, self._latent, False)
            return sampling.calculate_input(sigma, start)
        return self._noise

    def finish(self, step: int, x0: Any, x: Any) -> None:
        """End the sampler, from its callback of `step` (from 0) with these `x0` and `x`.

        If that is not possible, logs why and returns.
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
        """What the sampler would return for `x0`: a new tensor of the noise's shape and dtype.

        It is x0 if the last sigma is 0; otherwise, as another sampler continues from there, one
        Euler step to that sigma.
        """
        sigmas, noise = self._sigmas, self._noise
        assert sigmas is not None
        if x0.shape != noise.shape or x.shape != noise.shape:
            raise RuntimeError("its callback has latents of another shape")
        # Without reading the values, which would wait for the device.
        left = (sigmas[-1] / sigmas[min(step, len(sigmas) - 2)]).nan_to_num(0, 0, 0)
        samples = x0 + (x - x0) * left.to(x0.device)
        sampling = self._guider.inner_model.model_sampling
        samples = sampling.inverse_noise_scaling(sigmas[-1], samples)
        return samples.to(device=noise.device, dtype=noise.dtype)


def _untold(finisher: Finisher) -> None:
    """Is told of a copy elsewhere."""


def _packed(latent: Any) -> torch.Tensor:
    """`latent` as samplers have it: callbacks may see nested latents unpacked."""
    if getattr(latent, "is_nested", False):
        return comfy.utils.pack_latents(latent.unbind())[0]
    return latent


def wrappers(owner: Any, kind: str) -> MutableMapping[str, Any] | None:
    """The wrappers of a kind in the options of a MODEL or guider; None if it can have none."""
    try:
        options = owner.model_options.setdefault("transformer_options", {})
        place = options.setdefault("wrappers", {}).setdefault(kind, {})
    except Exception:  # another class, a read-only mapping, None instead of one
        return None
    return place if isinstance(place, MutableMapping) else None


@contextlib.contextmanager
def offered(guider: Any, tell: Callable[[Finisher], None]) -> Iterator[None]:
    """Let `guider` sample with a `Finisher` that calls `tell`, if it has room for wrappers.

    Its options are this sampling's copy of the MODEL's, so nothing is left on the MODEL.
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

# --- start and end ------------------------------------------------------------------------------


class Listener(Protocol):
    """Wants to know when a sampling starts and ends."""

    def begun(self, shapes: Sequence[Sequence[int]], hidden: Hidden) -> None:
        """It starts, with latents of these shapes: several if they are sampled as one.

        `hidden` are the frames of the first one that are not part of the video.
        """

    def may_finish(self, finisher: Finisher) -> None:
        """Its sampler has started, and `finisher` can end it early; or it has ended."""

    def ended(self, failed: bool) -> None:
        """It is over."""


def _nobody() -> None:
    """Stands for a listener that has been notified, or that never was."""


class SamplingWatch:
    """A wrapper on a MODEL that reports one sampling and removes itself when that starts.

    Copies of a MODEL share it. Once used, or pickled, it only calls what it wraps.
    """

    def __init__(self) -> None:
        # A weak reference: when a callback is dropped without a sampling, its run ends.
        self._listener: Callable[[], Listener | None] = _nobody
        self._place: MutableMapping[str, Any] = {}

    def put(self, place: MutableMapping[str, Any], listener: Listener) -> None:
        """Add itself to the wrappers `place`, for `listener`."""
        self._place, self._listener = place, weakref.ref(listener)
        place[WRAPPER_KEY] = [self]

    def __call__(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        listener, self._listener = self._listener(), _nobody
        if self._place.get(WRAPPER_KEY) == [self]:
            del self._place[WRAPPER_KEY]
        self._place = {}
        if listener is None:
            return executor(*args, **kwargs)
        guider = getattr(executor, "class_obj", None)
        shapes = kwargs.get("latent_shapes") or ()
        hidden = hidden_frames(guider, shapes[0] if shapes else _shape(args))
        _tell(functools.partial(listener.begun, shapes), hidden)
        try:
            with offered(guider, functools.partial(_tell, listener.may_finish)):
                result = executor(*args, **kwargs)
        except BaseException:
            _tell(listener.ended, True)
            raise
        _tell(listener.ended, False)
        return result

    def __deepcopy__(self, memo: object) -> SamplingWatch:
        return self

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return SamplingWatch, ()


def _shape(args: Sequence[Any]) -> Sequence[int]:
    """The shape of the noise that sampling starts from, which is the first argument."""
    return getattr(args[0], "shape", ()) if args else ()


def _tell(listener: Callable[[Any], None], what: Any) -> None:
    try:
        listener(what)
    except Exception as error:
        log.warning(
            "[SideStream] A sampling could not be tracked (%s); its last preview may be missing.",
            in_a_line(error),
        )


def watch_sampling(model: Any, listener: Listener) -> bool:
    """Report the sampling that `model` is about to do to `listener`; False if that's impossible.

    A MODEL may be anything that ComfyUI's `prepare_callback` takes; some have no wrappers.
    """
    place = wrappers(model, comfy.patcher_extension.WrappersMP.OUTER_SAMPLE)
    if place is None:
        return False
    try:
        SamplingWatch().put(place, listener)
    except Exception:  # a read-only mapping
        return False
    return True
