"""The engine's shared state with a pause at every hand-over: I2 ordered, I3 true, I5 bounded.

Several samplers share one worker. Each latent says of which run and step it is, in the two halves
of its picture, so that a slot that is written too early shows, as does a frame of another's run.
"""

from __future__ import annotations

import contextlib
import io
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sidestream.preview import records
from sidestream.preview.capture.runs import Run, Runs, RunSpec, SettingsLayers
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.records import Encoded, Label, NodeContext
from sidestream.preview.render import animation as animation_module
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.animation import Animator
from sidestream.preview.render.backends import Slot, backends_for
from sidestream.preview.render.backends.cpu import CpuBackend
from sidestream.preview.render.mailbox import Mailbox
from sidestream.preview.render.slots import SLOTS, Lease, Slots
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import (
    CPU,
    FakeSink,
    FakeSource,
    FlatDecoder,
    FlatVideoDecoder,
    a_book,
    pictured,
    stage,
    start_run,
    wait_until,
)

SAMPLERS, RUNS, STEPS = 4, 12, 50
STRIDE = 5  # levels between neighbours, which WebP does not blur
SEED = 20

HAND_OVERS: list[tuple[type, str]] = [
    *((Mailbox, name) for name in ("put", "remove")),
    *((Slots, name) for name in ("acquire", "release")),
    *((CpuBackend, name) for name in ("stage", "render", "slots")),
    *((Run, name) for name in ("capture", "another", "change", "end", "close")),
    *((Animator, name) for name in ("begin", "advance", "_stop")),
    *((Engine, name) for name in ("publish", "_picture_of")),
    (DecoderCache, "get"),
]


class Pauses:
    """Short ones now and then, before and after each hand-over."""

    def __init__(self) -> None:
        self._random = random.Random(SEED)

    def __call__(self) -> None:
        if self._random.random() < 0.1:
            time.sleep(self._random.random() * 0.001)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **options: Any) -> Any:
            self()
            try:
                return function(*args, **options)
            finally:
                self()

        return paused


class Witness:
    """What went wrong, and how often each frame was closed."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.closed: Counter[tuple[int, int]] = Counter()
        self.ended: Counter[str] = Counter()
        self._reading: Counter[int] = Counter()
        self._lock = threading.Lock()

    def closing(self, close: Callable[..., None]) -> Callable[..., None]:
        def counted(run: Run, label: Label, outcome: str) -> None:
            with self._lock:
                self.closed[id(run.execution), label.seq] += 1
            close(run, label, outcome)

        return counted

    def releasing(self, release: Callable[..., None]) -> Callable[..., None]:
        def checked(slots: Slots, slot: Slot) -> None:
            if self._reading[memory(slot)]:
                self.wrong.append("a slot is released while it is read")
            if any(slot is free for free in slots._free[slot.latent.shape, slot.latent.dtype]):
                self.wrong.append("a slot is released twice")
            release(slots, slot)

        return checked

    def staging(self, stage: Callable[..., bool]) -> Callable[..., bool]:
        def checked(backend: CpuBackend, slot: Slot, latent: torch.Tensor) -> bool:
            if self._reading[memory(slot)]:
                self.wrong.append("a slot is written while it is read")
            return stage(backend, slot, latent)

        return checked

    def rendering(self, render: Callable[..., Any]) -> Callable[..., Any]:
        def checked(backend: CpuBackend, slot: Slot, job: Any) -> Any:
            self._reading[memory(slot)] += 1
            before = slot.latent.clone()
            try:
                return render(backend, slot, job)
            finally:
                if not torch.equal(before, slot.latent):
                    self.wrong.append("a slot has changed while it was read")
                self._reading[memory(slot)] -= 1

        return checked


def memory(slot: Slot) -> int:
    """Where the slot begins, of whose latent it may be a part; `SLOTS` share a piece of memory."""
    whole = slot.latent.untyped_storage()
    each = whole.nbytes() // SLOTS
    return whole.data_ptr() + (slot.latent.data_ptr() - whole.data_ptr()) // each * each


class SlowSink(FakeSink):
    """A client that takes one frame at a time, on a thread of its own, and comes and goes."""

    def __init__(self, pauses: Pauses, notify: Callable[[], None]) -> None:
        super().__init__()
        self._pauses, self._notify = pauses, notify
        self._queue: queue.SimpleQueue[Encoded | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver)
        self._thread.start()

    def send(self, frame: Encoded) -> None:
        self.stalled = True
        self._queue.put(frame)

    def _deliver(self) -> None:
        while (frame := self._queue.get()) is not None:
            self._pauses()
            self.frames.append(frame)
            frame.label.close(records.SENT)
            self.stalled = False
            self._notify()

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(10)


def latent_of(number: int, step: int, video: bool) -> torch.Tensor:
    """Number in the upper half, step in the lower one."""
    latent = torch.empty(1, 4, *((3,) if video else ()), 16, 16)
    latent[..., :8, :] = STRIDE * number / 255
    latent[..., 8:, :] = STRIDE * step / 255
    return latent


def read(image: Image.Image) -> tuple[int, int] | None:
    """Number and step; None of a mixture."""
    levels = np.asarray(image.convert("L")).astype(float) / STRIDE
    halves = levels[:7], levels[9:]  # between them WebP may blur
    labels = [round(float(half.mean())) for half in halves]
    if any(abs(half - label).max() > 0.45 for half, label in zip(halves, labels, strict=True)):
        return None
    return labels[0], labels[1]


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Iterator[Witness]:
    """Sees to pauses and checks at all hand-overs, and threads that alternate all the time."""
    pauses, witness = Pauses(), Witness()
    monkeypatch.setattr(animation_module, "ENCODING_SHARE", 1e9)
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    for owner, name in HAND_OVERS:
        function = vars(owner).get(name) or getattr(owner, name)
        monkeypatch.setattr(owner, name, pauses.around(function))
    monkeypatch.setattr(Run, "close", witness.closing(Run.close))
    monkeypatch.setattr(Slots, "release", witness.releasing(Slots.release))
    monkeypatch.setattr(CpuBackend, "stage", witness.staging(CpuBackend.stage))
    monkeypatch.setattr(CpuBackend, "render", witness.rendering(CpuBackend.render))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield witness
    sys.setswitchinterval(interval)


class Sampler:
    """Samples one run after the other, of which some are interrupted."""

    def __init__(self, first: int, engine: Engine, book: Runs, sources: list[Any]) -> None:
        self._numbers = range(first, first + RUNS)
        self._random = random.Random(SEED + first)
        self._engine, self._book, self._sources = engine, book, sources
        self.current: Run | None = None
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._sample)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(100)
        assert not self._thread.is_alive()

    def _sample(self) -> None:
        try:
            for number in self._numbers:
                self._run(number)
        except BaseException as error:
            self.errors.append(error)

    def _run(self, number: int) -> None:
        options = {"throttle_ms": 0, "budget": 0, "format": "png", "quality": 100}
        asked = SettingsLayers(node={**options, "video_frames": 4})
        # A live change of the method swaps the decoder.
        chains = {"auto": self._sources, "latent2rgb": self._sources[::-1]}
        plan = RunSpec(
            NodeContext("p", str(number), client_id="c"),
            asked,
            lambda settings: chains.get(settings.method, self._sources),
            512,
        )
        run = self.current = self._book.start(plan)
        video = number % 2 == 0
        last = self._random.choice([STEPS, STEPS, STEPS // 2])
        for step in range(1, last + 1):
            run.at(step, STEPS)
            if run.wants(records.now()):
                latent = latent_of(number, step, video)
                stage(self._engine, run, latent)
                latent.fill_(-1)
            if self._random.random() < 0.15:
                assert wait_until(lambda: run.open_frames == 0, 20)  # with its animation
        if last == STEPS:
            run.end()
        else:
            run.abort()


def meddle(samplers: list[Sampler], sink: SlowSink, over: threading.Event) -> None:
    """Live changes, and a client that goes and comes back."""
    chance = random.Random(SEED)
    while not over.wait(0.002):
        run = chance.choice(samplers).current
        if run is not None:
            method, fps = chance.choice(["auto", "latent2rgb"]), chance.choice([0, 8])
            run.change({"method": method, "fps": fps})
        sink.audience = chance.random() < 0.95


@pytest.mark.timeout(150)
def test_i2_i3_i5_nothing_is_lost_or_mixed_up_at_any_hand_over(witness: Witness) -> None:
    notifies: list[Callable[[], None]] = []
    sink = SlowSink(Pauses(), lambda: notifies[0]())
    book = Runs(lambda run: None, lambda run: witness.ended.update([run.id]))
    engine = Engine(backends_for(CPU, CPU), DecoderCache(), sink)
    notifies.append(engine.notify)
    sources = [FakeSource(FlatVideoDecoder(), "one"), FakeSource(FlatVideoDecoder(), "other")]
    samplers = [Sampler(i * RUNS, engine, book, sources) for i in range(SAMPLERS)]
    over = threading.Event()
    meddler = threading.Thread(target=meddle, args=(samplers, sink, over))
    with contextlib.ExitStack() as at_the_end:
        at_the_end.callback(sink.close)
        at_the_end.callback(engine.close, 10)
        at_the_end.callback(meddler.join, 10)
        at_the_end.callback(over.set)
        meddler.start()
        for sampler in samplers:
            sampler.start()
        for sampler in samplers:
            sampler.join()
        sink.audience = True
        assert wait_until(lambda: book.counters()["active_runs"] == 0, 20)
        assert wait_until(lambda: not engine._animator.busy and not engine._station.slots._free, 20)
    assert not engine.alive
    assert [error for sampler in samplers for error in sampler.errors] == []
    assert witness.wrong == []

    # Each frame has found one end, each run too, and the sum of all is what was captured.
    assert set(witness.closed.values()) == {1}
    assert set(witness.ended.values()) == {1}
    assert len(witness.ended) == SAMPLERS * RUNS
    assert sum(book.counters()["frames"].values()) == len(witness.closed)

    # Each picture is of its run and step.
    animations = [frame for frame in sink.frames if frame.info.animation is not None]
    assert len(sink.frames) - len(animations) > 100
    assert len(animations) > 10
    for frame in sink.frames:
        label = int(frame.label.run.context.node_id or 0), frame.label.step
        animation = Image.open(io.BytesIO(frame.data))
        assert {read(each) for each in ImageSequence.Iterator(animation)} == {label}


def test_i5_samplers_that_begin_together_share_one_set_of_slots() -> None:
    """Who comes second finds the slots that the first has made in the meantime."""
    begin = threading.Barrier(SLOTS)

    class Slow(CpuBackend):
        def slots(self, count: int, shape: torch.Size, dtype: torch.dtype) -> list[Slot]:
            with contextlib.suppress(threading.BrokenBarrierError):
                begin.wait(5)  # all have found nothing
            begin.abort()
            return super().slots(count, shape, dtype)

    slots, shape = Slots(Slow(CPU)), torch.Size((1, 4, 8, 8))
    taken: list[Lease | None] = []
    threads = [
        threading.Thread(target=lambda: taken.append(slots.acquire(shape, torch.float32)))
        for _ in range(SLOTS + 1)
    ]
    for thread in threads[:SLOTS]:
        thread.start()
    for thread in threads[:SLOTS]:
        thread.join(10)
    assert len({id(lease.slot) for lease in taken if lease is not None}) == SLOTS
    assert slots.acquire(shape, torch.float32) is None
    for lease in taken:
        assert lease is not None
        lease.close()
    assert len(slots._free[shape, torch.float32]) == SLOTS


def test_i5_a_kind_of_slots_stays_as_long_as_one_of_them_is_out() -> None:
    slots = Slots(CpuBackend(CPU))
    out = slots.acquire(torch.Size((1, 4, 8, 8)), torch.float32)
    for size in range(9, 20):
        other = slots.acquire(torch.Size((1, 4, size, size)), torch.float32)
        assert other is not None
        other.close()
    slots.clear()
    assert out is not None
    out.close()
    assert [len(free) for free in slots._free.values()] == [SLOTS]
    slots.clear()
    assert not slots._free


def test_a_mailbox_that_is_closed_gives_back_what_it_held() -> None:
    box, run = Mailbox(), start_run(a_book(), FakeSource())
    frames = [pictured(run) for _ in range(3)]
    for frame in frames:
        assert box.put(frame) is None
    assert box.close() == frames
    assert box.close() == []
    assert box.put(frames[0]) is frames[0]


def test_i1_no_lock_is_held_while_a_decoder_loads_or_decodes() -> None:
    """A sampler captures, changes and ends its run at once, whatever the worker is doing."""
    for slow in ("load", "decode"):
        entered, go_on = threading.Event(), threading.Event()

        def wait(entered: threading.Event = entered, go_on: threading.Event = go_on) -> None:
            entered.set()
            assert go_on.wait(20)

        class Source(FakeSource):
            def load(self, device: torch.device, wait: Any = wait, slow: str = slow) -> Any:
                if slow == "load":
                    wait()
                return self.decoder

        before = wait if slow == "decode" else lambda: None
        sink = FakeSink()
        engine = Engine(backends_for(CPU, CPU), DecoderCache(), sink)
        book = Runs(lambda run: None, lambda run: None)
        source = Source(FlatDecoder(before=before))
        asked = SettingsLayers(node={"throttle_ms": 0, "budget": 0})
        context = NodeContext("p", "1", client_id="c")
        run = book.start(RunSpec(context, asked, lambda settings, of=source: [of], 512))

        def sampler(run: Run = run, engine: Engine = engine, book: Runs = book) -> None:
            for step in range(2, 100):
                run.at(step, 100)
                stage(engine, run, torch.zeros(1, 4, 8, 8))
                book.change("c", {"quality": step})
                book.counters()
                engine.status()
                engine._decoders.names()
            run.end()

        run.at(1, 100)
        stage(engine, run, torch.zeros(1, 4, 8, 8))
        assert entered.wait(30)
        thread = threading.Thread(target=sampler)
        thread.start()
        thread.join(15)
        finished = not thread.is_alive()
        go_on.set()
        assert finished
        assert wait_until(lambda run=run: run.open_frames == 0)
        engine.close(5)
