"""What ComfyUI samples and previews by: its callback, its previewers, the beginning and the end."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Protocol

import comfy.patcher_extension
import latent_preview
import torch
from latent_preview import LatentPreviewer

from ..plain import in_a_line
from . import finishing, guides
from .finishing import WRAPPER_KEY

log = logging.getLogger(__name__)

OWN_PREVIEWERS = ("TAESDPreviewerImpl", "TAEHVPreviewerImpl", "Latent2RGBPreviewer")

REPLACED = {"get_previewer": ["device", "latent_format"], "prepare_callback": ["model", "steps"]}
"""The functions that SideStream replaces, and how their parameters begin."""


METHODS = ("decode_latent_to_preview", "decode_latent_to_preview_image")
"""What previewers are asked."""


def unexpected_previews() -> str | None:
    """What is different about the functions in `REPLACED`; None where nothing is."""
    for name, parameters in REPLACED.items():
        function = getattr(latent_preview, name, None)
        if not callable(function):
            return f"latent_preview.{name} is missing"
        # Other packs' wrappers often take *args: only ComfyUI's own shape tells.
        innermost = inspect.unwrap(function)
        if not is_own_function(innermost, name):
            continue
        found = list(inspect.signature(innermost).parameters)
        if found[: len(parameters)] != parameters:
            return f"latent_preview.{name} takes ({', '.join(found)})"
    return None


def is_own_function(function: object, name: str) -> bool:
    """Whether `function` is what ComfyUI's `latent_preview` defines as `name`.

    Told by where its code was written. A wrapper may bear ComfyUI's names, which
    `functools.update_wrapper` copies.
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


def is_overridden_for_all() -> bool:
    """Whether another pack has put a method of its own into ComfyUI's base of all previewers."""
    return overriding_method() is not None


def overriding_method() -> Any:
    """The method that another pack has put there; None where none has."""
    methods = ((name, getattr(LatentPreviewer, name)) for name in METHODS)
    return next((method for name, method in methods if not is_own_function(method, name)), None)


def is_own_previewer(previewer: object) -> bool:
    """Whether it is one of ComfyUI's own previewers that SideStream serves."""
    return type(previewer).__module__ == latent_preview.__name__ and (
        type(previewer).__name__ in OWN_PREVIEWERS
    )


def own_previewer(original: Callable[[], Any], latent_format: Any) -> Any:
    """ComfyUI's own previewer: `original()`, or Latent2RGB where that has none or fails."""
    try:
        previewer = original()
    except Exception:  # a damaged decoder file, of which the worker speaks
        previewer = None
    if previewer is None and latent_format.latent_rgb_factors is not None:
        optional = ("latent_rgb_factors_bias", "latent_rgb_factors_reshape")
        arguments = [
            getattr(latent_format, name) for name in optional if hasattr(latent_format, name)
        ]
        previewer = latent_preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, *arguments)
    return previewer


def latent_frame(x0: Any) -> torch.Tensor:
    """The tensor to preview: of nested latents (video with audio) the first."""
    return x0.tensors[0] if getattr(x0, "is_nested", False) else x0


def unpacked(latent: torch.Tensor, shapes: Sequence[Sequence[int]]) -> torch.Tensor:
    """The first of latents of several `shapes` that ComfyUI samples as one, [B, 1, all numbers].

    A view of it; any other latent is left as it is.
    """
    if len(shapes) < 2 or latent.ndim != 3 or latent.shape[1] != 1:
        return latent
    first = list(shapes[0])[1:]
    return latent[:, 0, : math.prod(first)].unflatten(1, first)


def views_as_batch(latent: torch.Tensor) -> torch.Tensor:
    """The views of one thing, packed as frames [B, C, T, h, w], as a batch of images [T, C, h, w].

    Those of the first thing; a view of `latent`.
    """
    return latent[0].movedim(1, 0) if latent.ndim == 5 else latent


class Listener(Protocol):
    """Who wants to know of a sampling."""

    def begun(self, shapes: Sequence[Sequence[int]], hidden: guides.Hidden) -> None:
        """It begins, with latents of these shapes: several where they are sampled as one.

        `hidden` is what of the first one is not the video that will come.
        """

    def may_finish(self, finisher: finishing.Finisher) -> None:
        """Its sampler begins, and `finisher` can end it early; or that is over."""

    def ended(self, failed: bool) -> None:
        """It is over."""


def _nobody() -> None:
    """In the place of a listener that has been told."""


class SamplingWatch:
    """A wrapper on a MODEL. It tells of one sampling and takes itself off when that begins.

    Copies of a MODEL share it. One that was pickled, or has told, only passes on.
    """

    def __init__(self) -> None:
        # Weakly: a callback that is dropped without a sampling ends what it began.
        self._listener: Callable[[], Listener | None] = _nobody
        self._place: MutableMapping[str, Any] = {}

    def put(self, place: MutableMapping[str, Any], listener: Listener) -> None:
        """Lie among the wrappers `place`, for `listener`."""
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
        hidden = guides.hidden_frames(guider, shapes[0] if shapes else _shape(args))
        _tell(functools.partial(listener.begun, shapes), hidden)
        try:
            with finishing.offered(guider, functools.partial(_tell, listener.may_finish)):
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
    """Of the noise that sampling begins with, the first of its arguments."""
    return getattr(args[0], "shape", ()) if args else ()


def _tell(listener: Callable[[Any], None], what: Any) -> None:
    try:
        listener(what)
    except Exception as error:
        log.warning(
            "[SideStream] The course of a sampling could not be followed (%s); its last preview may"
            " be missing.",
            in_a_line(error),
        )


def watch_sampling(model: Any, listener: Listener) -> bool:
    """Tell `listener` of the sampling that `model` is about to do; False where it has no place.

    A MODEL may be anything that ComfyUI's `prepare_callback` takes: of some nobody learns more.
    """
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    place = finishing.wrappers(model, kind)
    if place is None:
        return False
    try:
        SamplingWatch().put(place, listener)
    except Exception:  # a mapping that is read-only
        return False
    return True
