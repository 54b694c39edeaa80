"""What SideStream's node leaves on a MODEL, for the samplers behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..settings import VAE_KEY


def model_settings(model: Any, key: str) -> Mapping[str, Any]:
    """What SideStream's node left on a MODEL; nothing where that is anything else."""
    found = _options(model).get(key)
    return found if isinstance(found, Mapping) else {}


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
