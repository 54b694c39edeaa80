"""Stand-ins for the pack's neighbours, for tests that need no ComfyUI."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from sidestream.preview import records
from sidestream.preview.capture.runs import Run, Runs, RunSpec, SettingsLayers
from sidestream.preview.decoder_files import Kind
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.records import Encoded, Info, NodeContext, Picture, Sound
from sidestream.preview.render.backends import StagingError, backends_for
from sidestream.preview.render.worker import Engine

CPU = torch.device("cpu")
SAMPLES_ON = {"cpu": "cpu", "cuda": "cuda:0"}[os.environ.get("SIDESTREAM_TEST_DEVICE", "cpu")]
"""The device on which ComfyUI samples, beside the tests and inside them."""
HALF = 0.03
"""How far sounds and pictures from -1 to 1 differ at most where ComfyUI's VAE works in bfloat16."""


def on_the_cpu_only(why: str) -> None:
    """Skip the test where ComfyUI samples on a GPU."""
    if SAMPLES_ON != "cpu":
        pytest.skip(f"for a sampler on the CPU: {why}")


def wait_until(
    condition: Callable[[], bool], seconds: float = 30.0, *, every: float = 0.002
) -> bool:
    """Whether `condition`, asked again and again, came true within `seconds`.

    By default as many as a busy machine may need: how soon it comes true is not what is tested.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


@dataclass(eq=False)
class FlatDecoder:
    """Paints the first channel of the latent as grey."""

    before: Callable[[], None] = lambda: None
    scale: int = 1
    light: bool = True

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        self.before()
        picture = latent[0, :, 0] if latent.ndim == 5 else latent[0]
        return picture[:1].expand(3, -1, -1)


@dataclass(eq=False)
class FlatVideoDecoder(FlatDecoder):
    """Two pictures a latent frame, of which the first latent frame's first one is no frame.

    The second of them is as grey as the latent's first channel, the first one as its second.
    """

    frames_each = 2

    def visible_frames(self, index: int) -> range:
        return range(0 if index else 1, 2)

    def streaming(self) -> FlatStreamingDecoder:
        return FlatStreamingDecoder(self)


class FlatStreamingDecoder:
    """Counts on being rewound before each animation."""

    def __init__(self, decoder: FlatVideoDecoder) -> None:
        self._decoder = decoder
        self._position = -1

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        assert self._position >= 0
        self._position += 1
        self._decoder.before()
        both = latent[0, [1, 0], 0][:, None]
        return both.expand(-1, 3, -1, -1)

    def rewind(self) -> None:
        self._position = 0


@dataclass(eq=False)
class FakeSource:
    """A source that loads what the test gives it, and counts."""

    decoder: Any = field(default_factory=FlatDecoder)
    name: str = "flat"
    broken: bool = False
    loads: int = 0
    precision: torch.dtype = torch.float32

    @property
    def key(self) -> Hashable:
        return (self.name, id(self))

    def dtype(self, device: torch.device) -> torch.dtype:
        return self.precision

    def load(self, device: torch.device) -> Any:
        self.loads += 1
        if self.broken:
            raise DecoderError(f"{self.name}.pth is damaged")
        return self.decoder


@dataclass
class FakeSink:
    """Keeps the frames that it is sent; `stalled` makes it a client that does not read."""

    frames: list[Encoded] = field(default_factory=list)
    sounds: list[Sound] = field(default_factory=list)
    no_sound: list[str] = field(default_factory=list)
    """Why there was none, each time."""
    stalled: bool = False
    alive: bool = True
    audience: bool = True
    animated: bool = True
    kind: str = "png"

    def watched(self, run: Run) -> bool:
        return self.audience

    def ready(self, run: Run) -> bool:
        return not self.stalled

    def at_work(self, run: Run) -> bool:
        return True

    def live(self, run: Run) -> bool:
        return self.alive and not run.aborted

    def quiet(self) -> bool:
        return True

    def animates(self, run: Run) -> bool:
        return self.animated

    def format(self, run: Run) -> str:
        return self.kind

    def send(self, frame: Encoded) -> None:
        self.frames.append(frame)
        frame.label.close(records.SENT)

    def may_sound(self, run: Run) -> bool:
        return self.alive and not run.aborted

    def send_sound(self, sound: Sound) -> None:
        self.sounds.append(sound)

    def send_no_sound(self, run: Run, why: str) -> None:
        self.no_sound.append(why)


def workers(before: set[threading.Thread]) -> list[threading.Thread]:
    """The pack's threads that are there and were not `before`, by another test's fault."""
    started = set(threading.enumerate()) - before
    return [thread for thread in started if thread.name.startswith("SideStream")]


def start_run(
    book: Runs,
    *sources: Any,
    context: NodeContext | None = None,
    is_broken: Callable[[Any], bool] = lambda source: False,
    sound: Any = None,
    **settings: Any,
) -> Run:
    """A run over `sources` with `settings` over throttle 0 and no budget."""
    asked = SettingsLayers(node={"throttle_ms": 0, "budget": 0, **settings})
    context = context or NodeContext("p", "1", client_id="c")
    spec = RunSpec(context, asked, lambda s: sources, 512, 20, is_broken=is_broken, sound=sound)
    return book.start(spec)


def a_book() -> Runs:
    return Runs(lambda run: None, lambda run: None)


def pictured(run: Run) -> Picture:
    """A picture of the run's current step, as ComfyUI's own previewer would make it."""
    info = Info((8, 8), "flat", records.now())
    return Picture(run.capture(records.now()), info, np.zeros((8, 8, 3), np.uint8))


def an_engine(sink: Any) -> Engine:
    return Engine(backends_for(CPU, CPU), DecoderCache(), sink)


def capture(engine: Engine, run: Run, step: int, value: float | None = None) -> None:
    """What a sampler's callback does, with a latent that is all `value` (default step / 100)."""
    run.at(step, 20)
    latent = torch.full((1, 4, 8, 8), step / 100 if value is None else value)
    stage(engine, run, latent)
    latent.fill_(-1)  # samplers go on in place


def stage(engine: Engine, run: Run, latent: torch.Tensor, images: range = range(1)) -> None:
    """Capture and publish, as the provider does in a callback."""
    try:
        with torch.inference_mode():
            frame = engine.capture(run, latent, images)
    except StagingError as error:
        cause = error.__cause__
        run.staging_failed(cause, passes=isinstance(cause, torch.cuda.OutOfMemoryError))
        return
    if frame is not None:
        engine.publish(frame)


def prove(engine: Engine) -> None:
    """Wait until the worker has tried its backend out."""
    assert wait_until(lambda: engine.is_proven)


class Gate:
    """A decoder's `before` that waits until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        assert self.open.wait(60)


class AtCall:
    """A decoder's `before` that acts at its n-th call: for a still, or a part of an animation."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.number = number
        self.act = act
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.number:
            self.act()


def decoder_cells(kind: Kind) -> str:
    """How tables in documents tell of decoder files, but for what they are for."""
    names = ", ".join(f"`{name}`" for name in kind.names)
    size = f", {kind.megabytes:g} MB" if kind.megabytes else ""
    return f"{names} | [{kind.file}]({kind.url}){size}"
