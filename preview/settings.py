"""What can be set, its defaults and ranges, and who wins.

One table, `FIELDS`, is the only place where a setting is described; the node's widgets, the
routes and the page are made from it.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from .plain import plain

KEY = "sidestream"
"""Where settings lie on a MODEL's options and in a prompt's extra data."""

NODES = "nodes"
"""Where a prompt's extra data hold the values of its preview nodes, by execution id."""

INHERITED = "as in my settings"
INHERITED_NUMBER = -1
"""What a node's field holds that sets nothing."""

VAE_KEY = "sidestream_vae"
"""Where a VAE to preview by lies on a MODEL's options."""

METHODS = ("host", "auto", "taesd", "latent2rgb", "off")
FORMATS = ("jpeg", "webp", "png")
DEVICES = ("auto", "same", "cpu")

LONGEST_VALUE = 80
"""Characters of a value. Those that there are have less than 20."""


class SettingError(ValueError):
    """A setting with a wrong name, type or value. The message names the field and its range."""


def shown(value: Any) -> str:
    """A value in an error's text, however large it is."""
    return reprlib.repr(value)[:80]


@dataclass(frozen=True, slots=True)
class Number:
    """An integer setting and its inclusive range."""

    default: int
    low: int
    high: int
    unit: str
    label: str
    tooltip: str
    advanced: bool = True

    def check(self, name: str, value: Any) -> int:
        """The value as an int. Raises SettingError for another type or a value out of range."""
        whole = isinstance(value, float) and value.is_integer()
        if isinstance(value, bool) or not (isinstance(value, int) or whole):
            raise SettingError(f"{name} must be {self.range}, not {shown(value)}")
        if not self.low <= value <= self.high:
            raise SettingError(f"{name} must be {self.range}, not {shown(value)}")
        return int(value)

    @property
    def range(self) -> str:
        return f"a whole number from {self.low} to {self.high}"

    def describe(self) -> dict[str, Any]:
        return {
            "type": "number",
            "default": self.default,
            "min": self.low,
            "max": self.high,
            "unit": self.unit,
            "label": self.label,
            "tooltip": self.tooltip,
        }


@dataclass(frozen=True, slots=True)
class Size(Number):
    """A number that may also be 0, meaning 'as ComfyUI says'."""

    def check(self, name: str, value: Any) -> int:
        is_zero = value == 0 and not isinstance(value, bool)
        return 0 if is_zero else Number.check(self, name, value)

    @property
    def range(self) -> str:
        return f"0 or a whole number from {self.low} to {self.high}"

    def describe(self) -> dict[str, Any]:
        return Number.describe(self) | {"min": 0, "zero": "as ComfyUI"}


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting with a few named values."""

    default: str
    names: tuple[str, ...]
    label: str
    tooltip: str
    advanced: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        return self.names

    def check(self, name: str, value: Any) -> str:
        """The value itself. Raises SettingError for anything that is not an option."""
        if not isinstance(value, str) or value not in self.options:
            raise SettingError(
                f"{name} must be one of {', '.join(self.options)}, not {shown(value)}"
            )
        return value

    def describe(self) -> dict[str, Any]:
        return {
            "type": "choice",
            "default": self.default,
            "options": list(self.options),
            "label": self.label,
            "tooltip": self.tooltip,
        }


@dataclass(frozen=True, slots=True)
class Device(Choice):
    """A choice that may also be one of this machine's GPUs, by its number."""

    @property
    def options(self) -> tuple[str, ...]:
        return (*self.names, *gpu_numbers())


@functools.cache
def gpu_numbers() -> tuple[str, ...]:
    """The CUDA devices of this machine. They are counted when somebody wants to know."""
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


# Saved workflows hold widget values by position: a new setting goes to the end.
FIELDS: dict[str, Number | Choice] = {
    "throttle_ms": Number(
        100,
        0,
        60_000,
        "ms",
        "Throttle",
        "Least time between two previews, in milliseconds. 0 previews as often as the decoder can."
        " The first and the last step pass it.",
        advanced=False,
    ),
    "every_n_steps": Number(
        1,
        1,
        1000,
        "steps",
        "Every n steps",
        "Preview only every n-th step, counted from the first: 5 shows steps 1, 6, 11, 16 ... and"
        " the last one.",
        advanced=False,
    ),
    "method": Choice(
        "host",
        METHODS,
        "Method",
        "host: do what ComfyUI is told to (its --preview-method or its own setting); where nobody"
        " chose there, the same as auto. auto: TAESD if its file is in models/vae_approx, else"
        " Latent2RGB. off: no previews.",
    ),
    "max_size": Size(
        0,
        64,
        2048,
        "px",
        "Size",
        "The longer side of the preview in pixels. 0 takes ComfyUI's --preview-size.",
    ),
    "budget": Number(
        5,
        0,
        100,
        "%",
        "Budget",
        "The share of the decoding device's time that previews may take. 0 sets no limit.",
    ),
    "format": Choice("jpeg", FORMATS, "Format", "How preview pictures are encoded."),
    "quality": Number(
        85, 1, 100, "", "Quality", "Quality of JPEG and WebP previews, 1 to 100. PNG ignores it."
    ),
    "detail": Choice(
        "auto",
        ("auto", "full"),
        "Detail",
        "auto: decode no more pixels than are shown. full: decode the whole picture and shrink it.",
    ),
    "device": Device(
        "auto",
        DEVICES,
        "Device",
        "Where previews are decoded. auto and same: where the model samples. cpu, or the number of"
        " another GPU: there, so that the sampler's keeps all its time.",
    ),
    "video_frames": Number(
        32,
        0,
        1024,
        "frames",
        "Video frames",
        "Frames of an animated preview of a video, evenly spread over it. 0 shows all frames,"
        " 1 only a still picture.",
    ),
    "fps": Number(
        0,
        0,
        120,
        "fps",
        "Frame rate",
        "How fast a video is played, in frames a second of the finished video. 0 takes the rate"
        " that the model is made for.",
    ),
    "batch": Choice(
        "first",
        ("first", "grid", "spread", "animation"),
        "Batch",
        "Which images of a batch to show. first: the first one. grid: the first ones side by side."
        " spread: as many, evenly spread over the batch. animation: as the frames of an animation,"
        " for batches that are an animation, such as AnimateDiff's.",
    ),
    "batch_images": Number(
        9,
        2,
        64,
        "images",
        "Batch images",
        "How many images of a batch are shown side by side, at most.",
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """One complete set of settings. Immutable, so that threads may share it."""

    throttle_ms: int = 100
    every_n_steps: int = 1
    method: str = "host"
    max_size: int = 0
    budget: int = 5
    format: str = "jpeg"
    quality: int = 85
    detail: str = "auto"
    device: str = "auto"
    video_frames: int = 32
    fps: int = 0
    batch: str = "first"
    batch_images: int = 9

    def updated(self, changes: Mapping[str, Any]) -> Settings:
        """A copy with `changes` (already checked) laid over."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


DEFAULTS = Settings(**{name: field.default for name, field in FIELDS.items()})  # type: ignore[arg-type]


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with every entry checked. Raises SettingError naming the first bad field."""
    result = {}
    for name, value in values.items():
        field = FIELDS.get(name)
        if field is None:
            raise SettingError(f"{shown(name)} is not a setting; there are {', '.join(FIELDS)}")
        result[name] = field.check(name, value)
    return result


def explicit(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a node's fields set: `values` without those that are as in the user's settings."""
    return {
        name: value
        for name, value in islice(values.items(), len(FIELDS))
        if value not in (INHERITED, INHERITED_NUMBER)
    }


def salvaged(values: Any) -> tuple[dict[str, Any], list[str]]:
    """The good entries of what came from outside, and one complaint for each bad one.

    Used where refusing is not possible: a prompt that is already running. The work is that of the
    settings there are, whatever was sent: unknown names are counted, not read.
    """
    if not isinstance(values, Mapping):
        return {}, [f"settings must be an object, not {type(values).__name__}"]
    good: dict[str, Any] = {}
    complaints = []
    for name in FIELDS:
        if name not in values:
            continue
        value = values[name]
        if isinstance(value, str) and len(value) > LONGEST_VALUE:
            complaints.append(f"{name} cannot be a text of {len(value)} characters")
        elif not isinstance(value, (str, int, float)):
            complaints.append(f"{name} cannot be a {plain(type(value).__name__)}")
        else:
            try:
                good |= checked({name: value})
            except SettingError as error:
                complaints.append(plain(error))
            except ValueError:  # of too many digits to be said
                complaints.append(f"{name} cannot be a number so long")
    unknown = len(values) - len(good) - len(complaints) - (NODES in values)
    if unknown > 0:
        # One of so many must be unknown.
        some = islice(values, len(FIELDS) + 2)
        example = next((name for name in some if not _is_known(name)), "?")
        others = "is not a setting" if unknown == 1 else f"and {unknown - 1} more are no settings"
        complaints.append(f"{plain(example, 40)!r} {others}; there are {', '.join(FIELDS)}")
    return good, complaints


def of_node(sent: Any, node_id: str) -> tuple[dict[str, Any], list[str]]:
    """As `salvaged`, what came beside a prompt for one of its preview nodes."""
    nodes = sent.get(NODES) if isinstance(sent, Mapping) else None
    values = nodes.get(node_id) if isinstance(nodes, Mapping) else None
    if not isinstance(values, Mapping):
        return {}, []
    return salvaged(explicit({name: values[name] for name in FIELDS if name in values}))


def _is_known(name: object) -> bool:
    return name in FIELDS or name == NODES


def combined(
    client: Mapping[str, Any], node: Mapping[str, Any], live: Mapping[str, Any]
) -> Settings:
    """The settings of one run: live changes over the node over the client over the defaults."""
    return DEFAULTS.updated({**client, **node, **live})
