"""The engine: I1 never waits, I3 true, I5 bounded, I6 contained, I7 timely, I11 light."""

from __future__ import annotations

import gc
import io
import logging
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from sidestream.preview import records
from sidestream.preview.capture import runs
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.decoders.taesd import TaesdSource, decoder_layers
from sidestream.preview.deliver.messages import told_of
from sidestream.preview.records import Encoded
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.backends.cpu import CpuBackend
from sidestream.preview.render.budget import Budget
from sidestream.preview.render.mailbox import Mailbox, labelled
from sidestream.preview.render.quicker import Quicker, Way
from sidestream.preview.render.slots import SLOTS, Slots
from sidestream.tests.helpers import (
    CPU,
    AtCall,
    FakeSink,
    FakeSource,
    FlatDecoder,
    Gate,
    a_book,
    an_engine,
    capture,
    pictured,
    stage,
    start_run,
    wait_until,
    workers,
)


def grey(frame: Encoded) -> int:
    """The grey level of a frame's picture."""
    pixels = np.asarray(Image.open(io.BytesIO(frame.data)))
    assert pixels.min() == pixels.max()
    return int(pixels.max())


def test_i1_the_sampler_does_not_wait_for_a_slow_decoder():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    gate = Gate()
    run = start_run(book, FakeSource(FlatDecoder(before=gate)))
    took = []
    for step in range(1, 101):
        start = time.perf_counter()
        capture(engine, run, step)
        took.append(time.perf_counter() - start)
        assert step > 1 or gate.entered.wait(30)
    assert sorted(took)[50] < 0.001
    # One is in work; two of the first ones and the last one wait.
    assert run.outcomes == {records.REPLACED: 96}
    gate.open.set()
    assert wait_until(lambda: len(sink.frames) == 4)
    assert [frame.label.step for frame in sink.frames] == [1, 2, 3, 100]
    engine.close()


def test_i3_pictures_are_of_their_step_though_the_sampler_overwrites_its_latent():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource())
    for step in range(1, 201):
        capture(engine, run, step, value=step / 255)
        if step % 3 == 0:
            assert wait_until(lambda: run.open_frames == 0)
    assert wait_until(lambda: run.open_frames == 0)
    assert len(sink.frames) > 60
    assert [grey(frame) for frame in sink.frames] == [frame.label.step for frame in sink.frames]
    assert [f.label.seq for f in sink.frames] == sorted({f.label.seq for f in sink.frames})
    engine.close()


def test_i5_one_in_work_one_waiting_and_the_latest_wins():
    gate, sink, book = Gate(), FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=gate)), throttle_ms=1)
    capture(engine, run, 1)
    assert gate.entered.wait(30)
    for step in range(2, 50):
        time.sleep(0.002)
        capture(engine, run, step)
    assert run.open_frames == 2
    gate.open.set()
    assert wait_until(lambda: len(sink.frames) == 2)
    assert [frame.label.step for frame in sink.frames] == [1, 49]
    assert run.outcomes[records.REPLACED] == 47
    engine.close()


@pytest.mark.parametrize("delayed", [1, 8])
def test_i5_every_step_is_shown_in_spite_of_a_delay(delayed):
    gate, sink, book = Gate(), FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=AtCall(delayed, gate))))
    for step in range(1, delayed + 6):
        capture(engine, run, step)
        if step < delayed:
            assert wait_until(lambda: run.open_frames == 0)
        elif step == delayed:
            assert gate.entered.wait(30)
    assert run.open_frames == 4
    gate.open.set()
    steps = [*range(1, delayed + 3), delayed + 5]  # two wait beside the newest
    assert wait_until(lambda: [frame.label.step for frame in sink.frames] == steps)
    engine.close()


def test_i5_a_decoder_that_does_not_catch_up_shows_the_newest():
    decodes, sink, book = threading.Semaphore(0), FakeSink(), a_book()
    began = []

    def before():
        began.append(True)
        decodes.acquire()

    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=before)))
    for step in range(1, 41):
        capture(engine, run, step)
        if step % 5 == 0:  # a decode takes five steps
            decodes.release()
        # The next step comes when the worker has taken a frame again.
        assert wait_until(lambda n=1 + step // 5: len(began) == n)
    decodes.release(4)
    assert wait_until(lambda: run.open_frames == 0)
    # After the first decode the next two steps are shown, and then always the newest.
    assert [frame.label.step for frame in sink.frames] == [1, 2, 3, 15, 20, 25, 30, 35, 40]
    engine.close()


def test_i5_a_client_that_does_not_read_costs_no_decode():
    source, sink, book = FakeSource(), FakeSink(stalled=True), a_book()
    engine = an_engine(sink)
    run = start_run(book, source)
    for step in range(1, 20):
        capture(engine, run, step)
    time.sleep(0.05)
    assert source.loads == 0
    sink.stalled = False
    engine.notify()
    assert wait_until(lambda: [frame.label.step for frame in sink.frames] == [1, 2, 19])
    engine.close()


def test_i1_a_free_socket_wakes_the_worker_only_where_a_frame_waits():
    mailbox, run = Mailbox(), start_run(a_book(), FakeSource())
    mailbox.notify()
    assert not mailbox.pause(0)
    mailbox.put(pictured(run))
    assert mailbox.pause(0)
    mailbox.notify()
    assert mailbox.pause(0)
    mailbox.remove(lambda frame: True)
    mailbox.notify()
    assert not mailbox.pause(0)
    mailbox.close()
    assert mailbox.pause(0)


def test_i1_without_a_free_slot_the_frame_is_dropped():
    backend = CpuBackend(CPU)
    slots = Slots(backend)
    shape = torch.Size((1, 4, 8, 8))
    taken = [slots.acquire(shape, torch.float32) for _ in range(SLOTS)]
    assert len({id(lease.slot) for lease in taken}) == SLOTS
    assert slots.acquire(shape, torch.float32) is None
    freed = taken[0].slot
    taken[0].close()
    taken[0].close()  # once is enough, and twice does nothing
    assert slots.acquire(shape, torch.float32).slot is freed
    assert slots.acquire(shape, torch.float32) is None


def test_i1_no_memory_is_allocated_after_the_first_frame(monkeypatch):
    backend = CpuBackend(CPU)
    made = []
    original = CpuBackend.slots
    monkeypatch.setattr(
        CpuBackend, "slots", lambda self, *kind: made.append(kind) or original(self, *kind)
    )
    slots = Slots(backend)
    for _ in range(100):
        slots.acquire(torch.Size((1, 4, 8, 8)), torch.float32).close()
    assert made == [(SLOTS, (1, 4, 8, 8), torch.float32)]


def test_slots_of_few_kinds_are_kept():
    slots = Slots(CpuBackend(CPU))
    for size in range(1, 50):
        slots.acquire(torch.Size((1, 4, size, size)), torch.float32).close()
    assert len(slots._free) == Slots.KINDS


def test_i6_a_decoder_that_raises_is_left_for_the_next_decoder(caplog):
    def broken():
        raise RuntimeError("out of luck")

    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=broken), name="first"), FakeSource())
    with caplog.at_level(logging.WARNING):
        for step in range(1, 5):
            capture(engine, run, step)
            assert wait_until(lambda: run.open_frames == 0)
    assert [frame.info.decoder for frame in sink.frames] == ["flat"] * 4
    assert len(caplog.records) == 1
    assert "first previews failed (RuntimeError: out of luck)" in caplog.text
    engine.close()


def test_i6_without_any_working_decoder_the_run_is_left_to_comfyui(caplog):
    source, sink, book = FakeSource(broken=True), FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, source)
    for step in range(1, 5):
        if run.wants(records.now()):
            capture(engine, run, step)
        assert wait_until(lambda: run.open_frames == 0)
    assert sink.frames == []
    assert source.loads == 1
    assert "flat.pth is damaged" in caplog.text
    assert "ComfyUI's own previews" in caplog.text
    engine.close()


def test_i6_an_encoder_that_raises_costs_its_frame_only(monkeypatch):
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource())
    failing = monkeypatch.context()
    with failing as patch:
        patch.setattr(engine_module.encode, "encode", lambda *a: 1 / 0)
        capture(engine, run, 1)
        assert wait_until(lambda: run.outcomes[records.FAILED] == 1)
    capture(engine, run, 2)
    assert wait_until(lambda: [frame.label.step for frame in sink.frames] == [2])
    assert len(engine._station.slots._free[(torch.Size((1, 4, 8, 8)), torch.float32)]) == SLOTS
    engine.close()


def test_i7_frames_of_a_node_that_has_finished_are_dropped_and_counted():
    gate, sink, book = Gate(), FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=gate)))
    capture(engine, run, 1)
    assert gate.entered.wait(30)
    capture(engine, run, 2)
    sink.alive = False
    gate.open.set()
    assert wait_until(lambda: run.outcomes[records.LATE] == 1)
    engine.close()


def test_i11_at_rest_all_frames_that_nobody_will_see_free_their_slots():
    sink, book = FakeSink(stalled=True), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource())
    for step in range(1, 4):
        capture(engine, run, step)
    assert run.open_frames == 3
    sink.alive = False
    engine._rest()
    assert run.outcomes == {records.LATE: 3}
    assert engine._station.slots._free == {}
    engine.close()


def test_the_end_of_a_run_is_told_once_and_after_its_last_frame():
    ended = []
    gate, sink = Gate(), FakeSink()
    book = runs.Runs(lambda run: None, lambda run: ended.append(dict(run.outcomes)))
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=gate)))
    capture(engine, run, 1)
    assert gate.entered.wait(30)
    run.end()
    assert ended == []
    gate.open.set()
    assert wait_until(lambda: ended == [{records.SENT: 1}])
    run.end()
    run.abort()
    assert len(ended) == 1
    assert book.counters()["frames"] == {records.SENT: 1}
    engine.close()


def test_a_decoders_first_picture_is_not_held_against_the_budget(monkeypatch):
    def work():
        end = time.thread_time() + 0.15
        while time.thread_time() < end:
            pass

    # In no time: the budget is that of the last seconds.
    monkeypatch.setattr(records, "now", lambda: 100.0)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder(before=work)), budget=5)
    for step in range(1, 4):
        capture(engine, run, step)
        assert wait_until(lambda: run.open_frames == 0)
    assert [frame.label.step for frame in sink.frames if not frame.info.is_quicker] == [1, 2]
    assert engine.budget.share(records.now()) > 0.05
    engine.close()


def test_i11_decoders_are_loaded_once_and_slots_go_when_idle(monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    source, sink, book = FakeSource(), FakeSink(), a_book()
    engine = an_engine(sink)
    for _ in range(5):
        run = start_run(book, source)
        capture(engine, run, 1)
        assert wait_until(lambda run=run: run.open_frames == 0)
    assert source.loads == 1
    assert wait_until(lambda: not engine._station.slots._free)
    engine.close()


def test_i11_what_a_decoder_keeps_from_picture_to_picture_is_freed_when_none_is_due(monkeypatch):
    class KeepsMemory(FlatDecoder):
        kept = None
        allocations = 0

        def to_picture(self, latent, min_side, width, height):
            if self.kept is None:
                self.kept = bytearray(100)
                self.allocations += 1

        def rest(self):
            self.kept = None

    def soon_idle():
        monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)

    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 60)
    # Within the fifth decode, so that the worker is not idle before it.
    sink, book, decoder = FakeSink(), a_book(), KeepsMemory(AtCall(5, soon_idle))
    engine = an_engine(sink)
    run = start_run(book, FakeSource(decoder))
    for step in range(1, 6):
        capture(engine, run, step)
        assert wait_until(lambda: run.open_frames == 0)
    assert decoder.allocations == 1
    assert wait_until(lambda: decoder.kept is None)  # although the run goes on
    capture(engine, run, 6)
    assert wait_until(lambda: run.open_frames == 0)
    assert decoder.allocations == 2

    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 60)
    capture(engine, run, 7)
    assert wait_until(lambda: run.open_frames == 0)
    before = decoder.allocations

    def full():
        raise torch.cuda.OutOfMemoryError("it is full")

    run = start_run(book, FakeSource(FlatDecoder(before=full)), FakeSource(decoder))
    capture(engine, run, 1)
    assert wait_until(lambda: run.open_frames == 0)
    assert decoder.allocations == before + 1  # freed for the decoder that had no room, in vain
    engine.close()


def test_closing_ends_the_thread():
    engine = an_engine(FakeSink())
    engine.close()
    assert wait_until(lambda: not engine.alive)
    run = start_run(a_book(), FakeSource())
    capture(engine, run, 1)  # a sampler that goes on sees nothing of it
    assert run.open_frames == 0


def test_i7_the_last_frame_of_a_run_waits_beside_the_next_runs():
    book, mailbox = a_book(), Mailbox()
    first, second, third, fourth = (
        start_run(book, FakeSource(), throttle_ms=1) for _ in range(4)
    )

    def frame(run, step):
        run.at(step, 20)
        return pictured(run)

    last, newer, newest = frame(first, 20), frame(second, 1), frame(second, 2)
    assert mailbox.put(last) is None
    first.end()
    assert mailbox.put(newer) is None
    assert mailbox.put(newest) is newer
    second.end()  # at its second step: an adaptive sampler
    assert mailbox.put(frame(third, 20)) is None
    third.end()
    assert mailbox.put(frame(fourth, 1)) is last  # there is room for two
    taken = [mailbox.remove(lambda frame: True) for _ in range(4)]
    expected = [(second, 2), (third, 20), (fourth, 1), None]
    assert [t and (t.label.run, t.label.step) for t in taken] == expected
    mailbox.close()


def test_i7_the_last_frame_of_a_run_goes_before_others_that_wait():
    """Also where every step is wanted, and so others wait beside the newest one."""
    book, mailbox = a_book(), Mailbox()
    first, second, third = (start_run(book, FakeSource()) for _ in range(3))
    dropped = []

    def put(run, step, total):
        run.at(step, total)
        replaced = mailbox.put(pictured(run))
        if replaced is not None:
            dropped.append((replaced.label.run, replaced.label.step))

    put(first, 1, 1)
    first.end()
    for step in (1, 2, 3):
        put(second, step, 3)
    second.end()
    put(third, 1, 1)
    waiting = [(frame.label.run, frame.label.step) for frame in mailbox.waiting]
    assert waiting == [(first, 1), (second, 3), (third, 1)]
    assert dropped == [(second, 2), (second, 1)]
    mailbox.close()


def test_i7_what_was_interrupted_does_not_wait_beside_the_next_run():
    book, mailbox = a_book(), Mailbox()
    first, second = (start_run(book, FakeSource()) for _ in range(2))
    first.at(20, 20)
    last = pictured(first)
    mailbox.put(last)
    first.abort()
    assert mailbox.put(pictured(second)) is last
    mailbox.close()


def test_frames_are_only_kept_where_every_step_is_wanted():
    def replaced(**settings):
        mailbox, run = Mailbox(), start_run(a_book(), FakeSource(), **settings)
        found = []
        for step in range(1, 7):
            run.at(step, 20)
            found.append(mailbox.put(pictured(run)))
        mailbox.close()
        return [i for i, frame in enumerate(found, 1) if frame is not None]

    assert replaced() == [4, 5, 6]  # there is room for two beside the newest
    assert replaced(throttle_ms=1) == [2, 3, 4, 5, 6]
    assert replaced(budget=5) == [2, 3, 4, 5, 6]


def test_a_frame_that_is_held_for_the_end_of_its_node_does_not_block_newer_ones():
    box, run = Mailbox(), start_run(a_book(), FakeSource(), every_n_steps=2)
    run.at(1, 20)
    waiting, newer = pictured(run), pictured(run)
    held = labelled(waiting, waiting.label._replace(held=True))
    assert box.put(held) is None
    assert box.put(newer) is held
    assert box.remove(lambda frame: not frame.label.held) is newer


def test_frames_are_kept_again_after_the_worker_caught_up():
    mailbox, run = Mailbox(), start_run(a_book(), FakeSource())

    def replaced():
        run.at(run.step + 1, 20)
        frame = mailbox.put(pictured(run))
        return None if frame is None else frame.label.step

    def taken():
        frame = mailbox.remove(lambda frame: True)
        return None if frame is None else frame.label.step

    assert [replaced() for _ in range(4)] == [None, None, None, 3]
    assert [taken(), taken()] == [1, 2]
    assert replaced() == 4
    assert [taken(), taken()] == [5, None]
    assert [replaced() for _ in range(4)] == [None, None, None, 8]
    mailbox.close()


def test_no_frame_overtakes_an_older_one_of_its_run():
    box, run = Mailbox(), start_run(a_book(), FakeSource())
    run.at(1, 20)
    older, newer = pictured(run), pictured(run)
    for frame in (older, newer):
        assert box.put(frame) is None
    assert box.remove(lambda frame: frame is newer) is None  # the socket became free in between
    assert [box.remove(lambda frame: True) for _ in range(2)] == [older, newer]


def test_mailbox_gives_nothing_that_is_not_ready():
    box = Mailbox()
    frame = pictured(start_run(a_book(), FakeSource()))
    assert box.put(frame) is None
    assert box.take(lambda frame: False, 0.01) is None
    assert box.take(lambda frame: True, 0.01) is frame
    assert box.take(lambda frame: True, 0.01) is None


def test_the_worker_survives_many_threads():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    all_runs = [start_run(book, FakeSource()) for _ in range(4)]

    def sample(run):
        for step in range(1, 200):
            capture(engine, run, step)

    threads = [threading.Thread(target=sample, args=(run,)) for run in all_runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wait_until(lambda: all(run.open_frames == 0 for run in all_runs))
    assert sum(sum(run.outcomes.values()) for run in all_runs) == 4 * 199
    engine.close()


@pytest.fixture(autouse=True)
def _no_thread_left():
    before = set(threading.enumerate())
    yield
    assert wait_until(lambda: not workers(before))


def test_i6_the_next_decoder_takes_what_was_staged_for_the_one_that_failed(tmp_path):
    torch.save(decoder_layers(4, pooled=False).state_dict(), tmp_path / "taesd_decoder.pth")

    def broken():
        raise RuntimeError("no")

    staged_in_half = FakeSource(FlatDecoder(before=broken), precision=torch.bfloat16)
    sink = FakeSink()
    engine = an_engine(sink)
    taesd = TaesdSource.of(str(tmp_path / "taesd_decoder.pth"), 4)
    run = start_run(a_book(), staged_in_half, taesd)
    capture(engine, run, 1)
    assert wait_until(lambda: len(sink.frames) == 1)
    assert sink.frames[0].info.decoder == "taesd"
    engine.close()


def test_positions_that_are_not_finite_are_grey_and_counted(caplog):
    sink = FakeSink()
    engine = an_engine(sink)
    book = a_book()
    run = start_run(book, FakeSource())
    latent = torch.full((1, 4, 8, 8), 1.0)
    latent[0, 2, 1, 3] = float("nan")
    latent[0, :, 5, 6] = float("inf")
    latent[0, 0, 5, 7] = -float("inf")
    run.at(1, 20)
    stage(engine, run, latent)
    assert wait_until(lambda: len(sink.frames) == 1)
    pixels = np.asarray(Image.open(io.BytesIO(sink.frames[0].data)))[..., 0]
    grey_at = {tuple(map(int, position)) for position in np.argwhere(pixels != 255)}
    assert grey_at == {(1, 3), (5, 6), (5, 7)}
    assert {int(pixels[position]) for position in grey_at} == {128}
    assert told_of(sink.frames[0], 0.0)["not_finite"] == 3
    assert book.counters()["not_finite"] == 1
    assert not caplog.records
    engine.close()


def test_i11_heavy_decoders_leave_an_idle_device_and_light_ones_stay(monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    sink = FakeSink()
    engine = an_engine(sink)
    heavy = FakeSource(FlatDecoder(light=False), name="heavy")
    for source in (heavy, FakeSource(name="light")):
        capture(engine, start_run(a_book(), source), 1)
        assert wait_until(lambda: engine._mailbox._newest is None)
    assert wait_until(lambda: engine._decoders.names() == ["light on cpu"])
    engine.close()


def test_a_decoder_that_lacked_memory_is_tried_again():
    class Short(DecoderError):
        lasting = False

    class Source(FakeSource):
        def load(self, device):
            self.loads += 1
            if self.loads == 1:
                raise Short("too little memory")
            return self.decoder

    source, cache = Source(), DecoderCache()
    with pytest.raises(Short):
        cache.get(source, CPU)
    assert cache.get(source, CPU) is source.decoder


# A decoder that cannot keep up with the budget


class Convolutional(FlatDecoder):
    """Takes `seconds` for a picture of 512 pixels, and less for smaller ones."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def __call__(self, latent, min_side):
        end = time.thread_time() + self.seconds * (min(min_side, 512) / 512) ** 2
        while time.thread_time() < end:
            pass
        return super().__call__(latent, min_side)


def sample(engine, run):
    """20 steps with latents of a picture of 512 pixels, one after the other."""
    for step in range(1, 21):
        run.at(step, 20)
        stage(engine, run, torch.full((1, 4, 64, 64), step / 100))
        assert wait_until(lambda: run.open_frames == 0)


@pytest.mark.parametrize(
    ("seconds", "served"),
    [pytest.param(0.3, "tiny", id="a smaller picture"), pytest.param(1.0, "factors", id="another")],
)
def test_between_the_pictures_of_a_slow_decoder_a_quicker_one_serves(seconds, served):
    sink = FakeSink()
    engine = an_engine(sink)
    tiny = FakeSource(Convolutional(seconds), "tiny")
    tiny.decoder.scale = 8
    factors = FakeSource(FlatDecoder(scale=8), "factors")
    run = start_run(a_book(), tiny, factors, budget=5)
    sample(engine, run)
    told = [(f.label.step, f.info.decoder, "slow" in told_of(f, 0.0)) for f in sink.frames]
    # The first two tell what it takes; the last step passes the budget.
    slow = [(step, "tiny", False) for step in (1, 2, 20)]
    assert [each for each in told if not each[2]] == slow
    quick = [each for each in told if each[2]]
    assert {decoder for _, decoder, _ in quick} == {served}
    assert len(quick) == 17 if served == "factors" else len(quick) >= 2
    facts = told_of(next(each for each in sink.frames if each.info.is_quicker), 0.0)["slow"]
    assert facts["decoder"] == "tiny"
    assert facts["decode_ms"] == pytest.approx(seconds * 1000, rel=0.2)
    assert facts["seconds_between"] == pytest.approx(seconds / 0.025, rel=0.2)
    assert len({frame.info.size for frame in sink.frames}) == 1
    engine.close()


class LoadedAnew(FakeSource):
    """Loads a slow decoder that is too large to stay on a device."""

    def load(self, device):
        decoder = Convolutional(0.3)
        decoder.scale, decoder.light = 8, False
        self.loaded = weakref.ref(decoder)
        return decoder


def test_i11_smaller_pictures_of_a_slow_decoder_do_not_keep_it_in_memory():
    engine = an_engine(FakeSink())
    large = LoadedAnew(name="large")
    run = start_run(a_book(), large, budget=5)
    sample(engine, run)
    assert run.slow is not None
    engine._decoders.release(CPU)
    capture(engine, start_run(a_book(), FakeSource(name="light")), 1)
    assert wait_until(lambda: gc.collect() >= 0 and large.loaded() is None)
    engine.close()


def test_what_is_too_slow_for_a_budget_is_used_with_a_larger_one():
    quicker, slow = Quicker(), Budget()
    tiny, factors = FakeSource(name="tiny"), FakeSource(name="factors")
    run = start_run(a_book(), tiny, factors, max_size=512)
    slow.spend(0, 0.4)
    smaller, other = Way(tiny, 128), Way(factors, 512)
    assert quicker.way(run, tiny, slow, 5, 10, 0) == smaller
    for _ in range(2):  # the first one is not typical
        quicker.spend(smaller, "its kind", 0.08, 5, 10)
    assert quicker.way(run, tiny, slow, 5, 20, 0) == other
    assert quicker.way(run, tiny, slow, 9, 20, 0) == smaller


def test_a_decoder_that_keeps_up_has_nothing_between_its_pictures():
    sink = FakeSink()
    engine = an_engine(sink)
    tiny, factors = FakeSource(Convolutional(0.03), "tiny"), FakeSource(FlatDecoder(), "factors")
    tiny.decoder.scale = 8
    run = start_run(a_book(), tiny, factors, budget=5)
    sample(engine, run)
    assert {frame.info.decoder for frame in sink.frames} == {"tiny"}
    assert len(sink.frames) < 20
    assert run.slow is None
    engine.close()
