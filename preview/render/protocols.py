"""What the worker needs from a run, and from whatever sends its frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from .. import records
from ..records import Encoded, Label, Sound
from .chain import FallbackChain

if TYPE_CHECKING:
    import torch

    from ..decoders.sound import SoundSource


class Run(records.Run, Protocol):
    """What capturing and decoding needs from a run; see `capture.runs.Run`."""

    step: int
    chain: FallbackChain
    animation_failed: bool
    spent: float
    sound: SoundSource | None
    sound_failed: bool
    sigmas: torch.Tensor | Sequence[float] | None

    @property
    def is_at_edge(self) -> bool: ...
    @property
    def may_be_last(self) -> bool: ...
    def hold_back(self) -> None: ...
    def capture(self, now: float, images: range) -> Label: ...
    def capture_sound(self, now: float) -> Label: ...
    def another(self, label: Label) -> Label: ...
    def acquire(self) -> None: ...
    def release(self) -> None: ...
    @property
    def sampled_for(self) -> float: ...
    @property
    def duration(self) -> float | None: ...
    def latent_rate(self) -> float: ...
    def note_slow(self, decoder: str, seconds: float, between: float) -> None: ...


class Sink(Protocol):
    """Where finished frames go."""

    def watched(self, run: records.Run) -> bool:
        """Whether anybody is watching this run."""

    def ready(self, run: records.Run) -> bool:
        """Whether a frame would be sent at once."""

    def live(self, run: records.Run) -> bool:
        """Whether frames of this run may still be shown."""

    def at_work(self, run: records.Run) -> bool:
        """Whether the node of this run is still running, and may sample again."""

    def animates(self, run: records.Run) -> bool:
        """Whether anybody is watching who can show animated frames of this run."""

    def format(self, run: records.Run) -> str:
        """How to encode frames of this run: a key of `encode.TYPES`."""

    def quiet(self) -> bool:
        """Whether nothing samples, so that memory may be given back to the device."""

    def send(self, frame: Encoded) -> None:
        """Take over a frame, and close its label in the end. Never raises."""

    def may_sound(self, run: records.Run) -> bool:
        """Whether a sound of this run may still be sent."""

    def send_sound(self, sound: Sound) -> None:
        """Take over a sound. Never raises."""

    def send_no_sound(self, run: records.Run, why: str) -> None:
        """Tell the run's client why there is no sound. Never raises."""
