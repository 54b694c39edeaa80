"""Backends: I1 and I6 on devices of all kinds, in the CPU's memory and without ComfyUI's server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sidestream.preview import records
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.render import engines as engines_module
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.backends import BackendError, backends_for, decoding_device
from sidestream.preview.render.backends.base import check
from sidestream.preview.render.backends.cpu import CpuBackend
from sidestream.preview.render.backends.host_copy import HostCopyBackend
from sidestream.preview.render.backends.pinned import PinnedMemory
from sidestream.preview.render.backends.side_stream import SideStreamBackend
from sidestream.preview.render.backends.staging import StreamStaging
from sidestream.preview.render.engines import Engines
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
    start_run,
    wait_until,
    workers,
)
from sidestream.tests.helpers import stage as staged
from sidestream.tests.stage import all_told, with_settings
from sidestream.tests.streams import FakeDevice

STEPS = 6


@pytest.fixture(autouse=True)
def _no_thread_left():
    before = set(threading.enumerate())
    yield
    assert wait_until(lambda: not workers(before))


def side_stream(device: FakeDevice) -> SideStreamBackend:
    return SideStreamBackend(device, device)


# What fails in a backend


def always(nth: int) -> bool:
    return True


def once(nth: int) -> bool:
    return nth == 3


PARTS = ("stream", "event", "timer", "pinned", "record", "wait", "start or end", "synchronize")


@pytest.mark.parametrize("make", [side_stream, HostCopyBackend], ids=["side stream", "host copy"])
@pytest.mark.parametrize("part", [*PARTS, "elapsed"])
@pytest.mark.parametrize("fails", [always, once])
def test_i6_i14_whatever_part_of_a_device_fails_frames_come_with_one_line(
    stage: Any,
    make_pack: Callable[[], Any],
    client: Any,
    told: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[FakeDevice], Any],
    part: str,
    fails: Callable[[int], bool],
) -> None:
    """Through ComfyUI's own sampler, twice; what SideStream cannot show ComfyUI's own shows."""
    device = FakeDevice(part, fails)
    monkeypatch.setattr(engines_module, "backends_for", lambda *way: iter([lambda: make(device)]))
    model = stage.demo_model()
    with stage.node():
        expected = stage.sample(model, steps=STEPS, sampler="euler_ancestral")
    pack = make_pack()

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line for line in lines if "[SideStream]" in line]

    def wait_for_the_next_backend(*_: Any) -> None:
        # The worker goes over to it just after the frame has found its end.
        ends = pack.status()["counters"]["frames"]
        assert records.FAILED not in ends or wait_until(lambda: bool(said()))

    model.model.diffusion_model.register_forward_pre_hook(wait_for_the_next_backend)
    shown = []
    for _ in range(2):
        client.frames.clear()
        with stage.node():
            latent = stage.sample(with_settings(model), steps=STEPS, sampler="euler_ancestral")
            assert all_told(pack)
        assert torch.equal(latent, expected)
        shown.append(client.steps)
    lost = STEPS - len(shown[0])
    assert shown[0] == list(range(lost + 1, STEPS + 1)) or fails is once
    assert lost <= 1
    assert shown[1] == list(range(1, STEPS + 1)) or (fails is once and len(shown[1]) >= STEPS - 1)
    used = part in device.calls and device.calls.count(part) >= (1 if fails is always else 3)
    assert len(said()) == used, said()
    assert not any("\n" in line for line in said())
    paths = [device["path"] for device in pack.status()["devices"]]
    own = make(FakeDevice()).name
    if part in ("stream", "timer") and fails is always:
        assert paths == []
    else:
        assert paths == [own if part == "pinned" or not used else "ComfyUI's own previewer"]


def test_i6_a_copy_that_gives_other_values_is_noticed_before_the_first_frame():
    class Wrong(CpuBackend):
        def render(self, slot, job):
            (picture,), seconds = super().render(slot, job)
            return (picture * 0,), seconds

    with pytest.raises(BackendError, match="changed the values"):
        check(Wrong(CPU))
    check(CpuBackend(CPU))


def test_the_check_on_a_full_device_says_nothing_of_the_backend():
    class Full(CpuBackend):
        def slots(self, count, shape, dtype):
            raise torch.cuda.OutOfMemoryError("full")

    check(Full(CPU))


def test_i6_the_next_backend_takes_over(caplog):
    class Broken(CpuBackend):
        def render(self, slot, job):
            raise BackendError("no luck")

    sink = FakeSink()
    made = [lambda: Broken(CPU), lambda: CpuBackend(CPU)]
    engine = Engine(made, DecoderCache(), sink)
    assert wait_until(lambda: engine.is_proven)
    run = start_run(a_book(), FakeSource())
    for step in range(1, 4):
        capture(engine, run, step)
        assert wait_until(lambda: run.open_frames == 0)
    assert [frame.label.step for frame in sink.frames] == [1, 2, 3]
    assert engine.problem is None
    [line] = [record.getMessage() for record in caplog.records]
    assert "do not work here: no luck. Falling back to CPU." in line
    engine.close()


# Memory


def test_i4_the_first_copy_into_a_slot_waits_for_the_stream_on_which_it_was_made():
    """That stream may still have to read or write what lay there before."""

    class Stream(FakeDevice):
        def wait_event(self, event):
            self.did("wait")

    made_on, device = Stream(), FakeDevice()
    device.current_stream = lambda: made_on
    staging = StreamStaging(device)
    first, second = staging.slots(2, torch.Size((1, 4, 2, 2)), torch.float32)
    staging.stage(first, torch.zeros(1, 4, 2, 2))
    assert "wait" not in made_on.calls
    other = Stream()
    device.current_stream = lambda: other
    staging.stage(second, torch.zeros(1, 4, 2, 2))
    assert other.calls == ["wait"]


def test_slots_made_while_the_sampler_records_have_no_events_in_its_graph():
    device = FakeDevice()
    device.is_recording = lambda: True
    StreamStaging(device).slots(2, torch.Size((1, 4, 2, 2)), torch.float32)
    assert device.calls == ["event", "event"]


def test_i6_memory_that_could_not_be_pinned_is_tried_again_after_a_rest(caplog):
    device = FakeDevice("pinned", lambda nth: nth <= 2)
    memory = PinnedMemory(device)
    for _ in range(3):
        assert memory.get(torch.Size((2,)), torch.uint8) is None
    assert device.calls == ["pinned"]
    memory.release()
    assert memory.get(torch.Size((2,)), torch.uint8) is None
    memory.release()
    assert memory.get(torch.Size((2,)), torch.uint8) is not None
    assert len(caplog.records) == 1


# When time starts


def test_the_budget_is_for_the_preview_alone():
    """The clock starts behind the snapshot, also where that was made on another device."""
    here, there = FakeDevice(), FakeDevice()
    there.device = torch.device("cuda", 1)
    backend = SideStreamBackend(here, here)
    (slot,) = backend.slots(1, torch.Size((1, 4, 2, 2)), torch.float32)
    backend.stage(slot, torch.zeros(1, 4, 2, 2))
    here.calls.clear()
    backend.render(slot, lambda latent: (latent,))
    assert here.calls == [
        "wait", "start or end", "pinned", "start or end", "synchronize", "elapsed"
    ]  # fmt: skip
    between = SideStreamBackend(here, there)
    slot.latent = torch.zeros(1, 4, 2, 2)
    here.calls.clear()
    there.calls.clear()
    between.render(slot, lambda latent: (latent,))
    assert there.calls == ["wait"]
    assert here.calls[:2] == ["wait", "start or end"]


# Which backend


def test_where_previews_are_decoded():
    cuda, mps = torch.device("cuda", 0), torch.device("mps")
    assert decoding_device("auto", cuda) == decoding_device("same", cuda) == cuda
    assert decoding_device("1", cuda) == torch.device("cuda", 1)
    for device in (CPU, mps, torch.device("privateuseone", 0)):
        for name in ("auto", "same", "cpu"):
            assert decoding_device(name, device) == CPU
    assert decoding_device("cpu", cuda) == CPU
    [made] = [make() for make in backends_for(CPU, mps)]
    assert isinstance(made, CpuBackend)
    assert made.name == "CPU, copied by the sampler's thread"


def test_i6_a_latent_that_holds_nothing_leaves_no_engine_and_no_thread():
    engines = Engines(DecoderCache(), FakeSink())
    with pytest.raises(BackendError, match="meta"):
        engines.of(torch.device("meta"))
    assert engines.all() == []


def test_i6_a_device_that_cannot_be_used_leaves_no_engine_and_one_line(monkeypatch, caplog):
    def broken():
        raise BackendError("no such device")

    monkeypatch.setattr(engines_module, "backends_for", lambda *way: iter([broken]))
    engines = Engines(DecoderCache(), FakeSink())
    for _ in range(3):
        with pytest.raises(BackendError, match="no such device"):
            engines.of(torch.device("cuda", 9))
    assert engines.all() == []
    assert len(caplog.records) == 1


# Devices that only the sampler's thread may touch


class OfOneThread(torch.Tensor):
    """A tensor on a device that only the thread which made it may touch."""

    thread: int

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OfOneThread:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, device=torch.device("mps")
        )
        made.inner, made.thread = inner, threading.get_ident()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def inner(each: Any) -> Any:
            if not isinstance(each, OfOneThread):
                return each
            assert threading.get_ident() == each.thread, f"{func} on another thread"
            return each.inner

        result = func(*map(inner, args), **{k: inner(v) for k, v in (kwargs or {}).items()})
        target = args[0] if args else None
        if func in (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default):
            return result if not isinstance(target, OfOneThread) else target
        return OfOneThread(result) if isinstance(result, torch.Tensor) else result


@pytest.mark.parametrize("device", ["auto", "same", "cpu"])
def test_i1_a_device_that_is_not_safe_is_touched_by_the_samplers_thread_alone(device):
    sink = FakeSink()
    engines = Engines(DecoderCache(), sink)
    run = start_run(a_book(), FakeSource(), device=device)
    for step in range(1, 6):
        latent = OfOneThread(torch.full((1, 4, 8, 8), step / 255))
        engine = engines.of(latent.device, device)
        run.at(step, 6)
        staged(engine, run, latent)
        latent.inner.fill_(-1)
        assert wait_until(lambda: run.open_frames == 0)
    assert [frame.label.step for frame in sink.frames] == [1, 2, 3, 4, 5]
    assert run.outcomes == {records.SENT: 5}
    [status] = [engine.status() for engine in engines.all()]
    assert (status["device"], status["path"]) == ("mps", "CPU, copied by the sampler's thread")
    engines.close()


def test_a_stand_in_notices_another_thread():
    latent = OfOneThread(torch.zeros(2))
    raised = []

    def touch() -> None:
        try:
            latent + 1
        except AssertionError as error:
            raised.append(error)

    thread = threading.Thread(target=touch)
    thread.start()
    thread.join()
    assert len(raised) == 1


# A worker that hangs


def test_i6_after_a_while_a_worker_that_hangs_is_given_up(monkeypatch, caplog):
    monkeypatch.setattr(engine_module, "HANG_SECONDS", 0.2)
    gate, sink = Gate(), FakeSink()
    engines = Engines(DecoderCache(), sink)
    book, hangs = a_book(), FakeSource(FlatDecoder(before=gate), name="hanging")
    first = engines.of(CPU)
    run = start_run(book, hangs)
    capture(first, run, 1)
    assert gate.entered.wait(30)
    assert wait_until(lambda: first.hangs(records.now()))
    assert "busy with one task" in first.status()["problem"]
    second = engines.of(CPU)
    assert second is not first
    assert run.outcomes == {records.FAILED: 1}
    [line] = [record.getMessage() for record in caplog.records]
    assert "The hanging decoder did not return" in line
    again = start_run(book, hangs, FakeSource())
    capture(second, again, 1)
    assert wait_until(lambda: [frame.info.decoder for frame in sink.frames] == ["flat"])
    gate.open.set()
    assert wait_until(lambda: not first.alive)
    assert [frame.info.decoder for frame in sink.frames] == ["flat"]
    engines.close()


@pytest.mark.parametrize(("ran_for", "hangs"), [(9, False), (0, True)])
def test_i6_a_device_that_is_behind_is_no_hanging_worker(monkeypatch, ran_for, hangs):
    clock = [100.0]
    monkeypatch.setattr(records, "now", lambda: clock[0])
    gate = Gate()
    engine, run = an_engine(FakeSink()), start_run(a_book(), FakeSource(FlatDecoder(before=gate)))
    run.began_at = records.now() - ran_for
    capture(engine, run, 1)
    assert gate.entered.wait(30)
    clock[0] += engine_module.HANG_SECONDS + 1
    assert engine.hangs(records.now()) is hangs
    gate.open.set()
    engine.close()
