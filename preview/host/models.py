"""What SideStream's node leaves on a MODEL, for the samplers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..settings import KEY, VAE_KEY


class LeftSettings(NamedTuple):
    """What one of SideStream's nodes left on a MODEL."""

    node_id: str
    """Under which the prompt's extra data may hold more."""
    settings: Mapping[str, Any]


def leave_settings(model: Any, node_id: str, settings: dict[str, Any]) -> None:
    """Put a node's settings on a MODEL, behind those of the nodes before it."""
    model.model_options[KEY] = [*left_settings(model), LeftSettings(node_id, settings)]


def left_settings(model: Any) -> list[LeftSettings]:
    """What SideStream's nodes left on a MODEL: where they differ, the last one wins.

    A script may have put settings there by itself; anything else is nothing.
    """
    found = _options(model).get(KEY)
    if isinstance(found, Mapping):
        return [LeftSettings("", found)]
    left = found if isinstance(found, list) else []
    # By their shape: a MODEL from ComfyUI's cache may hold those of a pack loaded before this one.
    return [LeftSettings(*each) for each in left if _is_left(each)]


def _is_left(each: object) -> bool:
    return isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], Mapping)


def _options(model: Any) -> Mapping[str, Any]:
    options = getattr(model, "model_options", None)
    return options if isinstance(options, Mapping) else {}


class Shared:
    """What all copies of a MODEL share: ComfyUI copies a MODEL's options to their depths."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def leave_vae(model: Any, vae: Any) -> None:
    """Put a VAE to preview by on a MODEL."""
    model.model_options[VAE_KEY] = Shared(vae)


def left_vae(model: Any) -> Any:
    """The VAE that `leave_vae` put on a MODEL; None where it did not."""
    left = _options(model).get(VAE_KEY)
    return left.content if isinstance(left, Shared) else None
