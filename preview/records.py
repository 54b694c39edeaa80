"""The records that the packages pass to each other, and what later packages need from a run.

A frame is a `Label` together with its current form: a staged latent (`render.slots.Snapshot`), then
a `Picture`, then `Encoded` bytes. Each stage returns the next record; records are never modified.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .settings import Settings

if TYPE_CHECKING:
    import numpy as np

SENT = "sent"
REPLACED = "replaced"  # a newer frame replaced it before it was decoded
BUSY = "busy"  # no room to stage it, or its client is still receiving the last one
LATE = "late"  # its node or its prompt was over
UNWATCHED = "unwatched"  # its client is not connected
FAILED = "failed"  # no decoder or encoder could make a picture of it

FIRST_IMAGE = range(1)


class Outcomes(Counter[str]):
    """How many frames had each outcome."""

    @property
    def sent(self) -> int:
        return self[SENT]

    @property
    def dropped(self) -> int:
        return self.total() - self[SENT]


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The node that is sampling. A `client_id` of None stands for everybody."""

    prompt_id: str | None = None
    node_id: str | None = None
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None
    client_id: str | None = None
    seed: int | None = None
    """The seed in its graph, if there is one."""
    user: str | None = None
    """Whose prompt it is, according to its client; None stands for nobody, who shares nothing."""

    @property
    def shown_on(self) -> str | None:
        """The node that shows its pictures: another one if it was made at run time."""
        return self.display_node_id or self.node_id

    def wire(self) -> dict[str, Any]:
        """The keys that ComfyUI sends with a preview."""
        own = ("client_id", "seed", "user")
        return {key: value for key, value in asdict(self).items() if key not in own}


@dataclass(frozen=True, slots=True)
class Video:
    """Properties of a model's videos."""

    fps: float = 16.0
    frames_each: int = 4
    """Frames of the finished video per latent frame."""


class Socket(NamedTuple):
    """One connected client."""

    id: str
    connection: object
    metadata: bool
    """Whether it announced `supports_preview_metadata`."""


class Run(Protocol):
    """What is needed from a run after its latents were captured; see `capture.runs.Run`."""

    context: NodeContext
    settings: Settings
    id: str
    stage: int
    number: int
    total_steps: int
    outcomes_of_node: Outcomes
    began_at: float | None
    ended: bool
    aborted: bool
    paused: bool
    strikes: int
    frames_not_finite: int
    warned_of_loss: bool
    slow: dict[str, Any] | None
    missing_decoder: dict[str, Any] | None
    finished_early: int | None

    @property
    def can_finish(self) -> bool: ...
    @property
    def live(self) -> dict[str, Any]: ...
    @property
    def max_size(self) -> int: ...
    @property
    def is_outrun(self) -> bool: ...
    def ended_for(self, now: float) -> float: ...
    def admits(self, step: int, now: float) -> bool: ...
    def let_pass(self, label: Label, now: float) -> Label: ...
    def is_open(self, label: Label) -> bool: ...
    def close(self, label: Label, outcome: str) -> None: ...
    def abort(self) -> None: ...


class Change(NamedTuple):
    """The change of x0 from one rendered frame of a sampling to a later one."""

    rms: float
    """The root mean square of the difference, relative to that of the later x0."""
    since: int
    """The step of the earlier one."""


class Label(NamedTuple):  # takes the sampler's thread half as long to make as a dataclass
    """Identifies a frame, from its capture to its end."""

    run: Run
    seq: int
    step: int
    total_steps: int
    captured_at: float
    images: range = FIRST_IMAGE
    """The images of the sampler's batch that it shows."""
    held: bool = False
    """Whether the throttle forbids it unless its node has finished sampling."""
    is_last: bool = False
    """Whether it is of the last step of its sampling."""

    @property
    def is_outrun(self) -> bool:
        """Whether it was held for the end of its node, which has started another sampling."""
        return self.held and self.run.is_outrun

    def close(self, outcome: str) -> None:
        """End the frame. Must be called for each one; only the first call counts."""
        self.run.close(self, outcome)


@dataclass(frozen=True, slots=True)
class Info:
    """What clients are told about a picture besides its label."""

    size: tuple[int, int]
    """Width and height of the preview, to which the picture is enlarged."""
    decoder: str
    ready_at: float
    """When the sampler's device had computed the latent, possibly long after the callback."""
    decode_ms: float = 0.0
    grid: tuple[int, int] | None = None
    """Columns and rows, if several images are shown side by side."""
    animation: tuple[int, int] | None = None
    """The number of frames and the duration in milliseconds, if it is animated."""
    not_finite: int = 0
    """The number of latent positions that were not finite, and of pixels decoded to NaN."""
    is_quicker: bool = False
    """Whether it was made in a quicker way, because its decoder is too slow for the budget."""
    sigma: float | None = None
    """The noise level from which x0 was predicted, if ComfyUI reports it."""
    change: Change | None = None
    """None for the first frame of a sampling."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded frame."""

    label: Label
    info: Info
    rgb: np.ndarray
    """uint8 [H, W, 3]"""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A frame, ready to be sent."""

    label: Label
    info: Info
    data: bytes
    mime: str


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """The beginning of the sound of a step."""

    label: Label
    """Its number is 0, as a sound is not a frame and is not counted."""
    data: bytes
    """A WAV file."""
    rate: int
    channels: int
    seconds: float
    of_seconds: float
    """The duration of the whole sound."""
    decode_ms: float


def now() -> float:
    """The clock of frames, in seconds."""
    return time.monotonic()
