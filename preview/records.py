"""The records that the packages hand to each other, and what the later ones ask of a run.

A frame is a `Label` with what there is of it: a staged latent (`render.slots.Snapshot`), then a
`Picture`, then `Encoded` bytes. Each stage returns the next record; none is changed.
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
REPLACED = "replaced"  # a newer frame took its place before it was decoded
BUSY = "busy"  # no room to stage it, or its client still takes the last one
LATE = "late"  # its node or its prompt was over
UNWATCHED = "unwatched"  # its client is not connected
FAILED = "failed"  # no decoder or encoder could make a picture of it

FIRST_IMAGE = range(1)


class Outcomes(Counter[str]):
    """What became of frames, and of how many."""

    @property
    def sent(self) -> int:
        return self[SENT]

    @property
    def dropped(self) -> int:
        return self.total() - self[SENT]


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The node of the prompt that is sampling. `client_id` None stands for everybody."""

    prompt_id: str | None = None
    node_id: str | None = None
    display_node_id: str | None = None
    parent_node_id: str | None = None
    real_node_id: str | None = None
    client_id: str | None = None
    seed: int | None = None
    """Where its graph names one."""
    user: str | None = None
    """Whose prompt it is, as its client says; None is nobody, who shares nothing."""

    def wire(self) -> dict[str, Any]:
        """The keys that ComfyUI gives with a preview."""
        own = ("client_id", "seed", "user")
        return {key: value for key, value in asdict(self).items() if key not in own}


@dataclass(frozen=True, slots=True)
class Video:
    """What the model's videos are made of."""

    fps: float = 16.0
    frames_each: int = 4
    """Frames of the finished video for each latent frame."""


class Socket(NamedTuple):
    """One connected client."""

    id: str
    connection: object
    metadata: bool
    """Whether it announced `supports_preview_metadata`."""


class Run(Protocol):
    """What is asked of a run after its latents were captured; see `capture.runs.Run`."""

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
    def spend(self, seconds: float) -> None: ...
    def is_open(self, label: Label) -> bool: ...
    def close(self, label: Label, outcome: str) -> None: ...
    def abort(self) -> None: ...


class Change(NamedTuple):
    """How far x0 went from one rendered frame of a sampling to a later one."""

    rms: float
    """The root mean square of the difference, by that of the later x0."""
    since: int
    """The step of the earlier one."""


class Label(NamedTuple):  # which the sampler's thread makes in half the time of a dataclass
    """Which frame it is, from its capture to its end."""

    run: Run
    seq: int
    step: int
    total_steps: int
    captured_at: float
    images: range = FIRST_IMAGE
    """Those of the sampler's batch that it shows."""
    held: bool = False
    """Whether the throttle forbids it, unless its node samples no more."""
    is_last: bool = False
    """Whether it is of the last step of its sampling."""

    @property
    def is_outrun(self) -> bool:
        """Whether it was held for the end of its node, which has begun another sampling."""
        return self.held and self.run.is_outrun

    def close(self, outcome: str) -> None:
        """The frame has found its end. Must be called for each; the first call counts."""
        self.run.close(self, outcome)


@dataclass(frozen=True, slots=True)
class Info:
    """What is told of a picture beside its label."""

    size: tuple[int, int]
    """Width and height of the preview, to which the picture is enlarged."""
    decoder: str
    ready_at: float
    """When the sampler's device had made the latent, which may be long after the callback."""
    decode_ms: float = 0.0
    grid: tuple[int, int] | None = None
    """Columns and rows, where several images are shown side by side."""
    animation: tuple[int, int] | None = None
    """Frames and milliseconds, where it plays."""
    not_finite: int = 0
    """Positions of the latent that were not finite, and pixels that the decoder gave as NaN."""
    is_quicker: bool = False
    """Whether it came a quicker way, its decoder being too slow for the budget."""
    sigma: float | None = None
    """The noise level from which x0 was predicted, where ComfyUI tells."""
    change: Change | None = None
    """None of the first frame of a sampling."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A decoded frame."""

    label: Label
    info: Info
    rgb: np.ndarray
    """uint8 [H, W, 3]"""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A frame as it is sent."""

    label: Label
    info: Info
    data: bytes
    mime: str


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """The sound of a step, from its beginning on."""

    label: Label
    """Its number is 0: a sound is no frame, and is not counted."""
    data: bytes
    """A WAV file."""
    rate: int
    channels: int
    seconds: float
    of_seconds: float
    """How long all of it would be."""
    decode_ms: float


def now() -> float:
    """The clock of frames, in seconds."""
    return time.monotonic()
