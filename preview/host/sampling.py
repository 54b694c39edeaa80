"""The sampling that a MODEL is about to do: its beginning and its end."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, Protocol

import comfy.patcher_extension

from ..decoders.errors import in_a_line

log = logging.getLogger(__name__)

WRAPPER_KEY = "sidestream"


class Listener(Protocol):
    """Who wants to know of a sampling."""

    def begun(self, shapes: Sequence[Sequence[int]]) -> None:
        """It begins, with latents of these shapes: several where they are sampled as one."""

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
        _tell(listener.begun, kwargs.get("latent_shapes") or ())
        try:
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


def _tell(listener: Callable[[Any], None], what: object) -> None:
    try:
        listener(what)
    except Exception as error:
        log.warning("[SideStream] A sampling's course was lost (%s).", in_a_line(error))


def watch_sampling(model: Any, listener: Listener) -> bool:
    """Tell `listener` of the sampling that `model` is about to do; False where it has no place.

    A MODEL may be anything that ComfyUI's `prepare_callback` takes: of some nobody learns more.
    """
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    try:
        options = model.model_options.setdefault("transformer_options", {})
        place = options.setdefault("wrappers", {}).setdefault(kind, {})
        if not isinstance(place, MutableMapping):
            return False
        SamplingWatch().put(place, listener)
    except Exception:  # other classes, mappings that are read-only, None in the place of one
        return False
    return True
