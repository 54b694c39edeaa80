"""When sounds are made, by a decoder that does what the test says; their files, and the shelf."""

from __future__ import annotations

import gc
import io
import json
import threading
import wave
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.decoders.vae import NotEnoughMemory
from sidestream.preview.deliver.shelf import RUNS, Shelf
from sidestream.preview.deliver.wav import wav
from sidestream.preview.render.slots import SLOTS
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import (
    CPU,
    FakeSink,
    FakeSource,
    FlatDecoder,
    Gate,
    a_book,
    an_engine,
    capture,
    prove,
    start_run,
    wait_until,
)
from sidestream.tests.sounds import read

RATE = 8000
PARTS = 3


@dataclass(eq=False)
class FakeSound:
    """Each part sounds for a second, as loud as the latent's first number says."""

    before: Callable[[], None] = lambda: None
    rate: int = RATE
    light: bool = False
    levelled: bool = True
    calls: int = 0

    def parts(self, latent: torch.Tensor) -> list[slice]:
        return [slice(i, i + 1) for i in range(PARTS)]

    def seconds(self, latent: torch.Tensor) -> float:
        return 10.0

    def __call__(self, latent: torch.Tensor, part: slice) -> torch.Tensor:
        self.calls += 1
        self.before()
        return latent.flatten()[:1].expand(2, RATE)


@dataclass(eq=False)
class FakeSoundSource(FakeSource):
    decoder: Any = field(default_factory=FakeSound)
    name: str = "sound"


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def engine(sink: FakeSink) -> Iterator[Engine]:
    made = an_engine(sink)
    prove(made)
    yield made
    made.close()


def hear(engine: Engine, run: Any, step: int) -> None:
    """What a sampler's callback does for the sound of a step, whose latent is all step / 100."""
    run.at(step, 20)
    latent = torch.full((1, 4, 8), step / 100)
    snapshot = engine.capture_sound(run, latent)
    latent.fill_(-1)  # samplers go on in place
    if snapshot is not None:
        engine.publish_sound(snapshot)


def steps(sink: FakeSink) -> list[int]:
    return [sound.label.step for sound in sink.sounds]


def test_i3_a_sound_is_of_its_step_and_in_the_order_of_its_parts(engine, sink):
    run = start_run(a_book(), sound=FakeSoundSource())
    hear(engine, run, 7)
    assert wait_until(lambda: steps(sink) == [7])
    sound = sink.sounds[0]
    samples, rate = read(sound.data)
    assert (rate, samples.shape) == (RATE, (2, PARTS * RATE))
    assert np.allclose(samples, 0.07, atol=1e-4)
    assert (sound.seconds, sound.of_seconds, sound.channels) == (PARTS, 10.0, 2)


def test_i11_a_sound_that_is_made_keeps_no_decoder_in_memory(engine, sink):
    loaded = []

    class LoadedAnew(FakeSoundSource):
        def load(self, device: torch.device) -> Any:
            decoder = FakeSound()
            loaded.append(weakref.ref(decoder))
            return decoder

    run = start_run(a_book(), sound=LoadedAnew())
    hear(engine, run, 20)
    assert wait_until(lambda: steps(sink) == [20])
    engine._decoders.release(CPU)
    assert wait_until(lambda: gc.collect() >= 0 and [each() for each in loaded] == [None])


def test_i7_that_of_the_last_step_is_made_whatever_the_budget_says(engine, sink):
    run = start_run(a_book(), sound=FakeSoundSource(), budget=1)
    engine._sounder.budget.spend(0, 1000)  # for a day
    engine._sounder._rests_until = float("inf")
    for step in range(1, 21):
        hear(engine, run, step)
    assert wait_until(lambda: steps(sink) == [20])


def test_i7_that_of_the_last_step_has_a_slot_whatever_pictures_hold(engine, sink):
    run = start_run(a_book(), sound=FakeSoundSource())
    slots = engine._station.slots
    held = [slots.acquire(torch.Size((1, 4, 8)), torch.float32) for _ in range(SLOTS)]
    hear(engine, run, 20)
    assert wait_until(lambda: steps(sink) == [20])
    for lease in held:
        lease.close()


def test_i7_what_may_be_the_last_step_is_heard_once_the_sampling_is_over(engine, sink):
    run = start_run(a_book(), sound=FakeSoundSource())
    engine._sounder._rests_until = float("inf")
    run.at(3, 0)  # of an unknown number of steps
    engine.publish_sound(engine.capture_sound(run, torch.full((1, 4, 8), 0.5)))
    assert not wait_until(lambda: sink.sounds, 0.2)
    run.end()
    assert wait_until(lambda: steps(sink) == [3])


def test_i5_one_is_in_work_and_the_last_step_takes_its_place(engine, sink):
    gate, source = Gate(), FakeSoundSource()
    source.decoder.before = gate
    run = start_run(a_book(), sound=source)
    hear(engine, run, 1)
    assert gate.entered.wait(30)
    for step in range(2, 21):
        hear(engine, run, step)
    gate.open.set()
    assert wait_until(lambda: sink.sounds)
    assert steps(sink) == [20]
    run.end()
    assert wait_until(lambda: run.open_frames == 0)


def test_pictures_go_between_the_parts_of_a_sound(engine, sink):
    gate, source, heard = Gate(), FakeSoundSource(), []
    source.decoder.before = gate
    picture = FlatDecoder(before=lambda: heard.append(source.decoder.calls))
    run = start_run(a_book(), FakeSource(picture), sound=source)
    hear(engine, run, 5)
    assert gate.entered.wait(30)
    capture(engine, run, 6)
    gate.open.set()
    assert wait_until(lambda: sink.frames and sink.sounds)
    assert heard == [1]  # of three parts
    assert sink.frames[0].label.step == 6


@pytest.mark.parametrize(
    ("error", "why", "lasts"),
    [
        (DecoderError("it decodes something else"), "failed", True),
        (RuntimeError("whatever"), "failed", True),
        (NotEnoughMemory("a part", 1, 0), "memory", False),
        (torch.cuda.OutOfMemoryError("no memory"), "memory", False),
    ],
)
def test_i6_a_sound_that_fails_costs_sounds_alone(engine, sink, caplog, error, why, lasts):
    source = FakeSoundSource()

    def fail() -> None:
        raise error

    source.decoder.before = fail
    run = start_run(a_book(), FakeSource(FlatDecoder()), sound=source)
    hear(engine, run, 1)
    assert wait_until(lambda: sink.no_sound == [why] and not engine._sounder.busy)
    assert run.sound_failed == lasts
    assert run.wants_sound != lasts
    engine._sounder._rests_until = float("-inf")
    if not lasts:
        hear(engine, run, 2)
        assert wait_until(lambda: sink.no_sound == [why] * 2)
    assert len([r for r in caplog.records if "Sound previews failed" in r.message]) == 1
    capture(engine, run, 3)
    assert wait_until(lambda: sink.frames)
    run.end()
    assert wait_until(lambda: run.open_frames == 0)


@pytest.mark.parametrize("times", [1, 2])
def test_i4_a_callback_that_asks_twice_in_a_step_takes_no_slot_away(
    comfy, engine, sink, times
):
    from sidestream.preview.capture.previewer import Previewer

    run = start_run(a_book(), FakeSource(), sound=FakeSoundSource(), throttle_ms=60000)
    engines = SimpleNamespace(of=lambda *about: engine)
    previewer = Previewer(lambda: run, engines, sink, lambda: None, is_sound=True)

    def callback(step, x0, x, total_steps):
        for _ in range(times):
            previewer.decode_latent_to_preview_image("JPEG", x0)

    tracked = previewer.with_step_tracking(callback, lambda run, asked: None)
    for step in range(20):
        tracked(step, torch.rand(1, 4, 8, 8), None, 20)
        assert wait_until(lambda: not engine._sounder.busy)
    run.end()
    assert wait_until(lambda: run.open_frames == 0)
    [free] = engine._station.sound_slots._free.values()
    assert len(free) == SLOTS
    assert len(sink.sounds) > 2
    assert not run.aborted


def test_i7_nothing_is_heard_of_a_run_that_was_interrupted(engine, sink):
    gate, source = Gate(), FakeSoundSource()
    source.decoder.before = gate
    run = start_run(a_book(), sound=source)
    hear(engine, run, 1)
    assert gate.entered.wait(30)
    run.abort()
    gate.open.set()
    assert wait_until(lambda: run.open_frames == 0)
    assert sink.sounds == []


def test_i1_the_sampler_does_not_wait_for_a_slow_sound(engine):
    gate, source = Gate(), FakeSoundSource()
    source.decoder.before = gate
    run = start_run(a_book(), sound=source)
    hear(engine, run, 1)
    assert gate.entered.wait(30)
    done = threading.Thread(target=lambda: [hear(engine, run, step) for step in range(2, 21)])
    done.start()
    done.join(30)
    assert not done.is_alive()
    gate.open.set()


# Files and their keeping


def test_a_file_says_what_it_is_and_is_as_loud_as_comfyuis():
    loud = np.random.default_rng(1).normal(0, 1, (2, 20_000)).astype(np.float32)
    file = wav(loud, 44100, '{"step":1}')
    samples, rate = read(file)
    assert rate == 44100
    # As VAE Decode Audio does: five standard deviations are full scale.
    assert np.abs(samples - (loud / (loud.std(ddof=1) * 5)).clip(-1, 1)).max() < 1e-4
    as_it_is, _ = read(wav(loud, 44100, levelled=False))
    assert np.abs(as_it_is - loud.clip(-1, 1)).max() < 1e-4
    assert b'ICMT' in file
    assert json.loads(file[file.index(b"{") : file.index(b"}") + 1]) == {"step": 1}
    assert int.from_bytes(file[4:8], "little") == len(file) - 8
    quiet, _ = read(wav(loud * 0.01, 8000))
    assert np.abs(quiet - loud * 0.01).max() < 1e-4
    silent, _ = read(wav(np.array([[np.nan, np.inf, 0.1]], np.float32), 8000))
    assert silent.tolist() == [[0, 0, pytest.approx(0.1, abs=1e-4)]]
    with wave.open(io.BytesIO(file)) as opened:
        assert opened.getnframes() == 20_000


def test_i5_i8_of_each_run_the_newest_is_kept_for_who_knows_its_secret():
    shelf = Shelf()
    first, second = shelf.put("a", b"1"), shelf.put("a", b"2")
    assert first != second
    assert len(second) == 32
    assert shelf.get(first) is None
    assert shelf.get(second) == b"2"
    assert shelf.get("") is None
    for i in range(RUNS):
        shelf.put(f"run {i}", b"3")
    assert shelf.get(second) is None
    assert len(shelf._sounds) == RUNS
