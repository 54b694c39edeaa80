"""I6 contained: whatever fails in a preview, sampling ends with the same latent, bit for bit."""

from __future__ import annotations

import builtins
import errno
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from sidestream.preview import records
from sidestream.preview.capture import runs
from sidestream.preview.capture.runs import Run
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.taesd import TaesdSource, decoder_layers
from sidestream.preview.deliver import encode
from sidestream.preview.deliver.messages import told_of
from sidestream.preview.deliver.transport import Transport
from sidestream.preview.render import animation
from sidestream.preview.render import slots as slots_module
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.backends.cpu import CpuBackend
from sidestream.preview.render.backends.pinned import never_free_of_a_lost_device
from sidestream.preview.render.chain import FallbackChain
from sidestream.preview.render.engines import Engines
from sidestream.preview.render.slots import SLOTS
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import (
    CPU,
    FakeSink,
    FakeSource,
    FlatDecoder,
    FlatStreamingDecoder,
    FlatVideoDecoder,
    Gate,
    a_book,
    an_engine,
    on_the_cpu_only,
    prove,
    stage,
    start_run,
    wait_until,
)
from sidestream.tests.pictures import decoded
from sidestream.tests.stage import all_told, with_settings

STEPS = 12
KIND = (torch.Size((1, 4, 8, 8)), torch.float32)


@pytest.fixture
def sink() -> FakeSink:
    return FakeSink()


@pytest.fixture
def engine(sink: FakeSink, caplog: pytest.LogCaptureFixture) -> Iterator[Engine]:
    caplog.set_level(logging.INFO)
    made = an_engine(sink)
    yield made
    made.close(30)
    assert not made.alive


def sampled(callback: Callable[[int, torch.Tensor], None] = lambda step, x0: None) -> torch.Tensor:
    """What a sampler makes of noise that it draws at each step."""
    torch.manual_seed(7)
    latent = torch.randn(KIND[0])
    for step in range(1, STEPS + 1):
        latent = (0.9 * latent + 0.3 * torch.randn(KIND[0])).tanh()
        denoised = latent.abs()
        callback(step, denoised)
        denoised.fill_(-1)  # samplers go on in place
    return latent


def sample(engine: Engine, run: Run, settle: Callable[[], object] | None = None) -> None:
    """Sample with previews, each of which has found its end before the next step."""

    def callback(step: int, x0: torch.Tensor) -> None:
        run.at(step, STEPS)
        if run.wants(records.now()):
            stage(engine, run, x0)
        assert (settle or (lambda: wait_until(lambda: run.open_frames == 0)))()

    assert torch.equal(sampled(callback), sampled())
    run.end()


def steps(sink: FakeSink) -> list[int]:
    return [frame.label.step for frame in sink.frames]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged: lines, none of which is followed by a traceback."""
    assert not any(record.exc_info for record in caplog.records)
    messages = [record.getMessage() for record in caplog.records]
    assert all("\n" not in message for message in messages)
    return messages


def all_slots_are_free(engine: Engine, kind: Any = KIND) -> bool:
    return len({id(slot) for slot in engine._station.slots._free[kind]}) == SLOTS


# Decoders


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory.\nAdvice to programmers")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory."),
        (MemoryError(), "MemoryError"),
        (ValueError("a bug"), "ValueError: a bug"),
    ],
)
def test_i6_a_decoder_that_raises(engine, sink, caplog, error, said):
    bad = FakeSource(FlatDecoder(before=raising(error)), name="bad")
    sample(engine, start_run(a_book(), bad, FakeSource()))
    assert steps(sink) == list(range(1, STEPS + 1))
    assert {frame.info.decoder for frame in sink.frames} == {"flat"}
    assert lines(caplog) == [
        f"[SideStream] bad previews failed ({said}); this run continues with flat previews and"
        " retries them later."
    ]
    assert all_slots_are_free(engine)


class Odd(FlatDecoder):
    """A decoder that gives what no picture is made of."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._change = change

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        return self._change(super().__call__(latent, min_side))


@pytest.mark.parametrize(
    ("change", "given"),
    [
        (lambda rgb: rgb[:1], "[1, 8, 8] of torch.float32"),
        (lambda rgb: rgb[None], "[1, 3, 8, 8] of torch.float32"),
        (lambda rgb: rgb[0], "[8, 8] of torch.float32"),
        (lambda rgb: rgb.movedim(0, 2), "[8, 8, 3] of torch.float32"),
        (lambda rgb: rgb.to(torch.uint8), "[3, 8, 8] of torch.uint8"),
    ],
)
def test_i6_a_decoder_that_gives_no_rgb(engine, sink, caplog, change, given):
    sample(engine, start_run(a_book(), FakeSource(Odd(change), name="odd"), FakeSource()))
    assert {frame.info.decoder for frame in sink.frames} == {"flat"}
    assert lines(caplog) == [
        f"[SideStream] odd previews failed (the decoder returned {given}, not [3, H, W] of floats);"
        " this run continues with flat previews."
    ]


def test_i6_a_decoder_that_gives_nan_shows_grey_and_is_counted(engine, sink, caplog):
    def broken(rgb: torch.Tensor) -> torch.Tensor:
        rgb = rgb.clone()
        rgb[1, 2, 3] = rgb[:, 5, 6] = float("nan")
        return rgb

    book = a_book()
    sample(engine, start_run(book, FakeSource(Odd(broken))))
    for frame in sink.frames:
        levels = decoded(frame.data)
        assert levels[2, 3].tolist() == levels[5, 6].tolist() == [128] * 3
        assert told_of(frame, 0)["not_finite"] == 2
    assert len(sink.frames) == book.counters()["not_finite"] == STEPS
    assert lines(caplog) == []


def test_i6_an_animation_whose_decoder_gives_no_rgb_costs_the_animations(engine, sink, caplog):
    class Mono(FlatStreamingDecoder):
        def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
            return super().__call__(latent, min_side)[:, :1]

    decoder = FlatVideoDecoder()
    decoder.streaming = lambda: Mono(decoder)
    run = start_run(a_book(), FakeSource(decoder))
    for step in range(1, 4):
        run.at(step, 3)
        stage(engine, run, torch.zeros(1, 4, 5, 8, 8))
        assert wait_until(lambda n=step: len(sink.frames) == n and not engine._animator.busy)
    assert [frame.info.animation for frame in sink.frames] == [None] * 3
    assert len(lines(caplog)) == 1
    assert "the decoder returned [2, 1, 8, 8] of torch.float32, not [2, 3, H, W]" in caplog.text
    assert all_slots_are_free(engine, (torch.Size((1, 4, 5, 8, 8)), torch.float32))


def test_i6_an_animation_that_cannot_be_planned_costs_no_still(engine, sink, caplog):
    decoder = FlatVideoDecoder()
    decoder.streaming = raising(RuntimeError("no streaming"))
    run = start_run(a_book(), FakeSource(decoder))
    for step in range(1, 4):
        run.at(step, 3)
        stage(engine, run, torch.zeros(1, 4, 5, 8, 8))
        assert wait_until(lambda n=step: len(sink.frames) == n)
    assert lines(caplog) == [
        "[SideStream] Animated previews failed (RuntimeError: no streaming);"
        " this run continues with stills."
    ]


def test_i6_an_animation_that_cannot_be_joined_leaves_no_frame_open(engine, sink, monkeypatch):
    monkeypatch.setattr(animation, "animated_webp", lambda *a: 1 / 0)
    run = start_run(a_book(), FakeSource(FlatVideoDecoder()))
    run.at(1, 3)
    stage(engine, run, torch.zeros(1, 4, 5, 8, 8))
    assert wait_until(lambda: run.animation_failed and run.open_frames == 0)


def test_i6_a_decoder_that_hangs_costs_frames_and_holds_up_nobody(sink, caplog):
    engine, gate = an_engine(sink), Gate()
    run = start_run(a_book(), FakeSource(FlatDecoder(before=gate)))
    sample(engine, run, settle=lambda: gate.entered.wait(30))
    assert run.outcomes == {records.REPLACED: STEPS - 4}  # two of the first ones and the last wait
    engine.close(0.01)  # as at ComfyUI's end, which waits no longer than it is told to
    assert engine.alive
    assert run.outcomes[records.LATE] == 3
    gate.open.set()
    assert wait_until(lambda: not engine.alive)
    assert run.open_frames == 0
    assert lines(caplog) == []


def test_i6_a_disk_that_fails_while_a_decoder_loads(engine, sink, caplog, tmp_path, monkeypatch):
    path = tmp_path / "taesd_decoder.pth"
    torch.save(decoder_layers(4, pooled=False).state_dict(), path)
    source = TaesdSource.of(str(path), 4)
    opened = builtins.open

    def failing(file: Any, *rest: Any, **options: Any) -> Any:
        if str(file) == str(path):
            raise OSError(errno.EIO, "Input/output error")
        return opened(file, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing)
        sample(engine, start_run(a_book(), source, FakeSource()))
    assert lines(caplog) == [
        "[SideStream] taesd previews failed (taesd_decoder.pth cannot be read: Input/output"
        " error); this run continues with flat previews and retries them later."
    ]
    assert len(sink.frames) == STEPS
    sample(engine, start_run(a_book(), source, every_n_steps=STEPS))  # the disk is well again
    assert sink.frames[-1].info.decoder == "taesd"


def test_i6_any_error_of_the_disk_in_a_decoders_load(engine, sink, caplog):
    class Source(FakeSource):
        def load(self, device: torch.device) -> Any:
            raise OSError(errno.EIO, "Input/output error")

    sample(engine, start_run(a_book(), Source(name="far"), FakeSource()))
    assert {frame.info.decoder for frame in sink.frames} == {"flat"}
    assert len(lines(caplog)) == 1


# Memory


def test_i6_without_memory_to_stage_sampling_goes_on_and_asks_seldom(
    engine, sink, caplog, monkeypatch
):
    asked = []

    def none_left(*kind: Any) -> Any:
        asked.append(kind)
        raise OUT_OF_MEMORY

    prove(engine)
    now = [0.0]
    monkeypatch.setattr(slots_module.time, "monotonic", lambda: now[0])
    run = start_run(a_book(), FakeSource())
    with monkeypatch.context() as patch:
        patch.setattr(engine.backend, "slots", none_left)
        sample(engine, run)
        assert len(asked) == 1
        now[0] += slots_module.REFUSED_SECONDS
        sample(engine, start_run(a_book(), FakeSource()))
    assert len(asked) == 2
    assert run.outcomes == {records.FAILED: STEPS}  # ComfyUI's own previewer shows them
    assert not run.left_to_host
    assert lines(caplog) == [
        "[SideStream] A latent could not be staged (OutOfMemoryError: CUDA out of memory.);"
        " ComfyUI's own previewer shows such steps."
    ] * 2
    now[0] += slots_module.REFUSED_SECONDS
    sample(engine, start_run(a_book(), FakeSource()))  # there is memory again
    assert steps(sink) == list(range(1, STEPS + 1))


def test_i6_a_copy_that_fails_costs_its_frame_and_no_slot(engine, sink, caplog, monkeypatch):
    prove(engine)
    monkeypatch.setattr(engine.backend, "stage", lambda *a: 1 / 0)
    run = start_run(a_book(), FakeSource())
    sample(engine, run)
    assert run.outcomes == {records.FAILED: STEPS}
    assert run.left_to_host
    assert len(lines(caplog)) == 1
    assert all_slots_are_free(engine)


def test_i6_a_device_that_fails_at_every_decode(engine, sink, caplog, monkeypatch):
    prove(engine)

    def none_left(*args: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory\nAdvice to programmers")

    monkeypatch.setattr(engine.backend, "render", none_left)
    sample(engine, start_run(a_book(), FakeSource()))
    assert sink.frames == []
    assert len(lines(caplog)) == 1
    assert "CUDA error: out of memory); this run continues with ComfyUI's own" in caplog.text
    assert all_slots_are_free(engine)


# Encoders and sockets


def test_i6_an_encoder_that_raises_is_told_once_a_run(engine, sink, caplog, monkeypatch):
    monkeypatch.setattr(engine_module.encode, "encoded", raising_always(OSError("no encoder")))
    for _ in range(2):
        run = start_run(a_book(), FakeSource())
        sample(engine, run)
        assert run.outcomes == {records.FAILED: STEPS}
    assert (
        lines(caplog)
        == [
            "[SideStream] A preview failed (OSError: no encoder); sampling continues."
            " Further failures in this run are not logged."
        ]
        * 2
    )
    assert all_slots_are_free(engine)


def raising_always(error: BaseException) -> Callable[..., None]:
    return lambda *args: raising(error)()


def test_i6_a_server_that_fails_is_told_once_and_no_frame_stays_open(engine, sink, caplog):
    sink.send = raising_always(RuntimeError("Event loop is closed"))
    run = start_run(a_book(), FakeSource())
    sample(engine, run)
    assert run.outcomes == {records.FAILED: STEPS}
    assert len(lines(caplog)) == 1


def test_i6_a_run_whose_start_and_end_cannot_be_told_is_previewed(engine, sink):
    unheard = raising_always(RuntimeError("Event loop is closed"))
    book = runs.Runs(unheard, unheard)
    sample(engine, start_run(book, FakeSource()))
    assert len(sink.frames) == STEPS
    assert book.counters()["active_runs"] == 0


# The worker


class Failing:
    """Fails in the place of `function` the first `times` times that it is called."""

    def __init__(self, function: Callable[..., Any], times: int, error: BaseException) -> None:
        self._function, self._error = function, error
        self.left = times

    def __call__(self, *args: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self._error
        return self._function(*args)


ANYWHERE = ["ready", "live", "watched", "format", "send"]
BEGINS_ANEW = "[SideStream] The worker failed (SystemExit: 3) and restarts; this run continues"


@pytest.mark.parametrize("where", ANYWHERE)
def test_i6_a_worker_that_fails_begins_anew(engine, sink, caplog, where):
    setattr(sink, where, Failing(getattr(sink, where), 1, SystemExit(3)))
    run = start_run(a_book(), FakeSource())
    sample(engine, run)
    assert run.outcomes == {records.FAILED: 1, records.SENT: STEPS - 1}
    assert lines(caplog) == [f"{BEGINS_ANEW} with previews."]
    assert all_slots_are_free(engine)


@pytest.mark.parametrize("where", ANYWHERE)
def test_i6_a_run_at_which_the_worker_fails_twice_goes_on_without_previews(
    engine, sink, caplog, where
):
    failing = Failing(getattr(sink, where), 10**6, SystemExit(3))
    setattr(sink, where, failing)
    run = start_run(a_book(), FakeSource())

    def settled() -> bool:
        # The line comes last: the frame has found its end before the run is given up.
        said = len(caplog.records)
        return run.open_frames == 0 and said == run.outcomes[records.FAILED]

    sample(engine, run, settle=lambda: wait_until(settled))
    assert run.outcomes == {records.FAILED: 2}
    assert lines(caplog) == [f"{BEGINS_ANEW} with previews.", f"{BEGINS_ANEW} without previews."]
    failing.left = 0
    sample(engine, start_run(a_book(), FakeSource()))
    assert steps(sink) == list(range(1, STEPS + 1))
    assert all_slots_are_free(engine)


@pytest.mark.parametrize("part", [2, 3])
def test_i6_a_worker_that_fails_at_an_animation_gives_its_slot_back(engine, sink, part):
    """The decoder's first call is for the still picture, the next ones are for the animation."""
    calls = []

    def fails_once() -> None:
        calls.append(1)
        if len(calls) == part:
            raise SystemExit(3)

    run = start_run(a_book(), FakeSource(FlatVideoDecoder(before=fails_once)))
    video = torch.zeros(1, 4, 5, 8, 8)
    for step in (1, 2):
        run.at(step, 2)
        stage(engine, run, video)
        assert wait_until(lambda: run.open_frames == 0 and not engine._animator.busy)
    assert run.strikes == 1
    assert sink.frames[-1].info.animation is not None
    assert all_slots_are_free(engine, (video.shape, torch.float32))


def test_i6_a_worker_that_fails_while_idle_says_so_once_and_serves_the_next_run(
    engine, sink, caplog, monkeypatch
):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.01)
    sample(engine, start_run(a_book(), FakeSource()))
    rests = threading.Event()
    error = RuntimeError("CUDA error: device-side assert triggered")
    monkeypatch.setattr(engine._station.slots, "clear", Failing(rests.set, 5, error))
    assert rests.wait(30)
    sample(engine, start_run(a_book(), FakeSource()))
    assert len(sink.frames) == 2 * STEPS
    assert lines(caplog) == [
        "[SideStream] The worker failed while idle (RuntimeError: CUDA error: device-side assert"
        " triggered); it keeps running."
    ]


def test_i6_a_frame_that_comes_while_idle_work_fails_is_shown(engine, sink, caplog, monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.01)
    sample(engine, start_run(a_book(), FakeSource()))
    run = start_run(a_book(), FakeSource())
    clear, came = engine._station.slots.clear, threading.Event()

    def fails_when_it_comes() -> None:
        if came.is_set():
            return clear()
        run.at(1, STEPS)
        stage(engine, run, torch.zeros(1, 4, 8, 8))
        came.set()
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(engine._station.slots, "clear", fails_when_it_comes)
    assert came.wait(30)
    assert wait_until(lambda: run.open_frames == 0)
    assert run.outcomes == {records.SENT: 1}
    assert run.strikes == 0
    assert len(lines(caplog)) == 1


def test_i6_a_worker_that_cannot_even_begin_takes_no_processor(sink, monkeypatch):
    tries = []

    def working(self: CpuBackend) -> Any:
        tries.append(1)
        raise RuntimeError("no device")

    monkeypatch.setattr(CpuBackend, "working", working)
    engine = an_engine(sink)
    run = start_run(a_book(), FakeSource())
    sample(engine, run)
    assert run.aborted
    assert run.open_frames == 0
    assert len(tries) <= STEPS
    engine.close(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_i6_a_worker_that_is_dead_is_replaced_for_the_next_run(sink, monkeypatch):
    engines = Engines(DecoderCache(), sink)
    dead = engines.of(CPU)
    monkeypatch.setattr(dead, "_recover", raising_always(SystemExit(3)))
    monkeypatch.setattr(sink, "ready", Failing(sink.ready, 1, SystemExit(3)))
    run = start_run(a_book(), FakeSource())
    sample(dead, run)
    assert wait_until(lambda: not dead.alive)
    assert wait_until(lambda: run.open_frames == 0)  # what it left was dropped
    fresh = engines.of(CPU)
    assert fresh is not dead
    sample(fresh, start_run(a_book(), FakeSource()))
    assert len(sink.frames) == STEPS
    engines.close()


# With ComfyUI's own sampler


FAULTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "staging": (CpuBackend, "slots", raising_always(OUT_OF_MEMORY)),
    "copying": (CpuBackend, "stage", raising_always(OUT_OF_MEMORY)),
    "decoding": (CpuBackend, "render", raising_always(OUT_OF_MEMORY)),
    "loading": (DecoderCache, "get", raising_always(OSError("bad disk"))),
    "encoding": (encode, "encoded", raising_always(OSError("no encoder"))),
    "worker": (Engine, "_process", raising_always(SystemExit(3))),
    "sending": (Transport, "send", raising_always(RuntimeError("closed"))),
    "announcing": (Transport, "announce", raising_always(RuntimeError("closed"))),
}

SHOWN_BY = {
    "staging": {"comfyui"},
    "copying": {"comfyui"},
    "decoding": {"comfyui"},
    "loading": {"comfyui"},
    "announcing": {"latent2rgb"},
}
"""Who makes the pictures then; of the other faults none are shown."""


@pytest.mark.parametrize("fault", FAULTS)
def test_i4_ksampler_gives_the_same_latent_whatever_fails(
    stage, make_pack, client, told, monkeypatch, caplog, fault
):
    on_the_cpu_only("that is where the faults are")
    model = stage.demo_model()
    with stage.node():
        expected = stage.sample(model, steps=6, sampler="euler_ancestral")
    monkeypatch.setattr(*FAULTS[fault])
    pack = make_pack()
    with stage.node():
        latent = stage.sample(with_settings(model), steps=6, sampler="euler_ancestral")
        assert all_told(pack)
    assert torch.equal(latent, expected)
    assert {frame.sidestream["decoder"] for frame in client.frames} == SHOWN_BY.get(fault, set())
    said = [r for r in caplog.records if "SideStream" in r.getMessage()]
    assert 1 <= len(said) <= 2


def test_i4_ksampler_does_not_wait_for_a_decoder_that_hangs(
    stage, make_pack, client, told, monkeypatch
):
    on_the_cpu_only("its backend hangs")
    model = stage.demo_model()
    with stage.node():
        expected = stage.sample(model, steps=6)
    gate = Gate()
    monkeypatch.setattr(CpuBackend, "render", lambda *a: gate())
    make_pack()
    stage.waits_for = None
    with stage.node():
        latent = stage.sample(with_settings(model), steps=6)
    assert not gate.open.is_set()
    gate.open.set()
    assert torch.equal(latent, expected)
    assert client.frames == []


class Stream:
    """As a CUDA stream, of a device that is well or lost."""

    def __init__(self, lost: bool) -> None:
        self.lost = lost

    def query(self) -> bool:
        if self.lost:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return False


class Thing:
    """Something that can be referred to weakly."""


@pytest.mark.parametrize("lost", [False, True])
def test_i6_memory_of_a_lost_device_is_never_freed(lost: bool) -> None:
    """Torch ends the process when pinned memory is freed whose device has failed."""
    owner, buffer = Thing(), Thing()
    memory, seen = {"a picture's": buffer}, weakref.ref(buffer)
    streams: Any = (Stream(False), Stream(lost))
    never_free_of_a_lost_device(owner, memory, *streams)
    del memory, owner, buffer
    gc.collect()
    assert (seen() is not None) == lost


def test_latents_are_staged_as_the_decoder_in_use_wants_them() -> None:
    one, other = FakeSource(name="one"), FakeSource(name="other")
    wanted = {one: torch.float16, other: torch.bfloat16}
    asked = []
    for source in wanted:
        source.dtype = (  # type: ignore[method-assign]
            lambda device, source=source: asked.append(device) or wanted[source]
        )
    chain = FallbackChain([one, other])
    assert [chain.staging_dtype(one, CPU) for _ in range(3)] == [torch.float16] * 3
    assert asked == [CPU]  # once, since it is asked in the sampler's callback
    assert chain.staging_dtype(other, CPU) == torch.bfloat16
