"""All settings: defaults, ranges, help texts, and which source takes precedence.

The table `FIELDS` is the only place that describes settings. The node's widgets, the routes,
ComfyUI's settings dialog and the panel's controls are derived from it; `tests/test_settings.py`
checks documents and translations against it.
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
"""The key of settings in a MODEL's options and in a prompt's extra data."""

NODES = "nodes"
"""The key under which a prompt's extra data hold its preview nodes' values, by execution id."""

ACCEPTS = "accepts"
"""The key under which a prompt's extra data say what else its client supports, such as `SOUND`."""

SOUND = "sound"

USER = "user"
"""The key under which a prompt's extra data name the user whose switch shares its previews."""

INHERITED = "as in my settings"
INHERITED_NUMBER = -1
"""The values of a node's fields that set nothing."""

BESIDE = (NODES, ACCEPTS, USER)
"""What a prompt's extra data contain besides settings."""

LONGEST_VALUE = 80
"""The most characters of a value. The longest valid one has fewer than 20."""


class SettingError(ValueError):
    """A setting with a wrong name, type or value. The message names the field and its range."""


def shown(value: Any) -> str:
    """A value for an error's text, shortened if it is large."""
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
    group: str = ""
    """The panel's group of folded controls; empty for those that are always shown."""
    advanced: bool = True
    """Whether the node hides it among its advanced fields."""
    slider: tuple[int, int] | None = None
    """The maximum of the panel's slider, and its step; None for the whole range in steps of 1."""
    needs: tuple[str, tuple[str, ...]] | None = None
    """A setting and those of its values with which this one has an effect."""
    zero: str = ""
    """The key of the page's text for 0, if 0 has a special meaning."""

    def check(self, name: str, value: Any) -> int:
        """The value as an int. Raises SettingError if its type is wrong or it is out of range."""
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
        """For `GET /sidestream/settings`; `least` is the least number besides a `min` of 0."""
        reach, step = self.slider or (self.high, 1)
        needs = {"name": self.needs[0], "values": list(self.needs[1])} if self.needs else None
        return {
            "type": "number",
            "default": self.default,
            "min": self.low,
            "least": self.low,
            "max": self.high,
            "unit": self.unit,
            "zero": self.zero,
            "slider": {"max": reach, "step": step},
            "label": self.label,
            "tooltip": self.tooltip,
            "group": self.group,
            "needs": needs,
        }


@dataclass(frozen=True, slots=True)
class Size(Number):
    """A number that may also be 0."""

    def check(self, name: str, value: Any) -> int:
        is_zero = value == 0 and not isinstance(value, bool)
        return 0 if is_zero else Number.check(self, name, value)

    @property
    def range(self) -> str:
        return f"0 or a whole number from {self.low} to {self.high}"

    def describe(self) -> dict[str, Any]:
        return Number.describe(self) | {"min": 0}


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting with a few named values."""

    default: str
    names: Mapping[str, str]
    """The values, each with its label."""
    label: str
    tooltip: str
    group: str = ""
    advanced: bool = True

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(self.names)

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
            "words": dict(self.names),
            "label": self.label,
            "tooltip": self.tooltip,
            "group": self.group,
        }


@dataclass(frozen=True, slots=True)
class Device(Choice):
    """A choice that may also be the number of one of this machine's GPUs."""

    @property
    def options(self) -> tuple[str, ...]:
        return (*self.names, *gpu_numbers())


@functools.cache
def gpu_numbers() -> tuple[str, ...]:
    """The numbers of this machine's CUDA devices, which are counted at the first call."""
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


# Saved workflows store widget values by position, so new settings must be added at the end.
# fmt: off
FIELDS: dict[str, Number | Choice] = {
    "throttle_ms": Number(
        100, 0, 60_000, "ms", "Shortest interval",
        "Shortest time between two previews; the first and the last step are always shown.",
        advanced=False, slider=(2000, 20),
    ),
    "every_n_steps": Number(
        1, 1, 1000, "steps", "Every n steps",
        "Show only every n-th step, beginning with the first, and the last one.",
        advanced=False, slider=(20, 1),
    ),
    "method": Choice(
        "host",
        {"host": "follow ComfyUI", "auto": "best available", "taesd": "TAESD (sharp)",
         "latent2rgb": "Latent2RGB (rough)", "off": "off"},
        "Method",
        "What previews are made with: ComfyUI's own choice (host), the best that is there (auto),"
        " always the same decoder, or nothing (off).",
    ),
    "max_size": Size(
        0, 64, 2048, "px", "Size",
        "Length of the preview's longer side; 0 takes ComfyUI's --preview-size.",
        slider=(2048, 64), zero="asComfyUI",
    ),
    "budget": Number(
        5, 0, 100, "%", "At most this share of the GPU",
        "Previews take no more than this share of the decoding device's time; 0 sets no limit.",
        zero="noLimit",
    ),
    "format": Choice(
        "jpeg", {"jpeg": "JPEG", "webp": "WebP", "png": "PNG"}, "Format",
        "Image format of the previews.",
        group="encoding",
    ),
    "quality": Number(
        85, 1, 100, "", "Quality",
        "Quality of JPEG and WebP previews; PNG ignores it.",
        group="encoding",
    ),
    "detail": Choice(
        "auto", {"auto": "as shown", "full": "in full"}, "Detail",
        "Decode only as many pixels as are shown (auto), or the whole picture, to shrink it"
        " afterwards (full).",
        group="encoding",
    ),
    "device": Device(
        "auto", {"auto": "automatic", "same": "the model's device", "cpu": "CPU"}, "Device",
        "Where previews are decoded: on the model's device (auto, same), or, to leave that one"
        " to the sampler, on the CPU or another GPU.",
        group="encoding",
    ),
    "video_frames": Number(
        32, 0, 1024, "frames", "Video frames",
        "Frames in the animated preview of a video, evenly spaced; 0 shows all, 1 a still picture.",
        group="media", slider=(128, 1), zero="allFrames",
    ),
    "fps": Number(
        0, 0, 120, "fps", "Frame rate",
        "Frames per second of the finished video; 0 takes the model's own rate.",
        group="media", slider=(60, 1), zero="modelsOwn",
    ),
    "batch": Choice(
        "first",
        {"first": "first image", "grid": "side by side", "spread": "spread over the batch",
         "animation": "as an animation"},
        "Batch",
        "Which images of a batch to show: the first, the first few side by side (grid), as many"
        " spread over the batch (spread), or all as an animation, for batches that form a video.",
        group="media",
    ),
    "batch_images": Number(
        9, 2, 64, "images", "Batch images",
        "How many images of a batch are shown side by side at most.",
        group="media", slider=(25, 1), needs=("batch", ("grid", "spread")),
    ),
    "step_zero": Choice(
        "off", {"off": "not shown", "noise": "the noise"}, "Step 0",
        "Whether the timeline begins with what sampling starts from, mostly noise, as step 0.",
        group="media",
    ),
}
# fmt: on


PRESETS: dict[str, dict[str, Any]] = {
    "light": {"throttle_ms": 500, "every_n_steps": 1, "budget": 2},
    "balanced": {name: FIELDS[name].default for name in ("throttle_ms", "every_n_steps", "budget")},
    "every_step": {"throttle_ms": 0, "every_n_steps": 1, "budget": 0},
}
"""Combinations of values, all for the same settings. The page has their names."""


@dataclass(frozen=True, slots=True)
class Settings:
    """A complete set of settings. Immutable, so that threads can share it."""

    throttle_ms: int
    every_n_steps: int
    method: str
    max_size: int
    budget: int
    format: str
    quality: int
    detail: str
    device: str
    video_frames: int
    fps: int
    batch: str
    batch_images: int
    step_zero: str

    def updated(self, changes: Mapping[str, Any]) -> Settings:
        """A copy with `changes`, which must be valid."""
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


DEFAULTS = Settings(**{name: field.default for name, field in FIELDS.items()})  # type: ignore[arg-type]

_KNOWN = f"known settings: {', '.join(FIELDS)}"


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, all checked. Raises SettingError naming the first invalid one."""
    result = {}
    for name, value in values.items():
        field = FIELDS.get(name)
        if field is None:
            raise SettingError(f"{shown(name)} is not a setting; {_KNOWN}")
        result[name] = field.check(name, value)
    return result


def explicit(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a node's fields set: `values` without those that inherit the user's settings."""
    return {
        name: value
        for name, value in islice(values.items(), len(FIELDS))
        if value not in (INHERITED, INHERITED_NUMBER)
    }


def salvaged(values: Any) -> tuple[dict[str, Any], list[str]]:
    """The valid entries of untrusted input, and a complaint about each invalid one.

    For input that cannot be refused, because its prompt is already running. The work is bounded by
    the number of settings, whatever was sent: unknown names are counted, not read.
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
            complaints.append(f"{name} cannot be a string of {len(value)} characters")
        elif not isinstance(value, (str, int, float)):
            complaints.append(f"{name} cannot be a {plain(type(value).__name__)}")
        else:
            try:
                good |= checked({name: value})
            except SettingError as error:
                complaints.append(plain(error))
            except ValueError:  # Python refuses to print numbers that long
                complaints.append(f"{name} has too many digits")
    unknown = len(values) - len(good) - len(complaints) - sum(key in values for key in BESIDE)
    if unknown > 0:
        # At least one of these must be unknown.
        some = islice(values, len(FIELDS) + len(BESIDE) + 1)
        known = {*FIELDS, *BESIDE}
        example = next((name for name in some if name not in known), "?")
        others = "is not a setting" if unknown == 1 else f"and {unknown - 1} more are not settings"
        complaints.append(f"{plain(example, 40)!r} {others}; {_KNOWN}")
    return good, complaints


def accepts(sent: Any, what: str) -> bool:
    """Whether, according to a prompt's extra data `sent`, its client accepts `what`."""
    said = sent.get(ACCEPTS) if isinstance(sent, Mapping) else None
    return isinstance(said, list) and what in said


def of_node(sent: Any, node_id: str) -> tuple[dict[str, Any], list[str]]:
    """As `salvaged`, for what a prompt's extra data contain for one of its preview nodes."""
    nodes = sent.get(NODES) if isinstance(sent, Mapping) else None
    values = nodes.get(node_id) if isinstance(nodes, Mapping) else None
    if not isinstance(values, Mapping):
        return {}, []
    return salvaged(explicit({name: values[name] for name in FIELDS if name in values}))


def combined(
    client: Mapping[str, Any], node: Mapping[str, Any], live: Mapping[str, Any]
) -> Settings:
    """The settings of one run: live changes override the node, the client and the defaults."""
    return DEFAULTS.updated({**client, **node, **live})
