"""Animations between stills: of their step, in order, within the budget, in nobody's way."""

from __future__ import annotations

import gc
import io
import logging
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sidestream.benchmarks.weights import WAN, video_decoder
from sidestream.preview import records
from sidestream.preview.decoders.taehv import TaehvSource
from sidestream.preview.render import animation as animation_module
from sidestream.preview.render import chain as chain_module
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.chain import FallbackChain
from sidestream.preview.render.job import StreamingRenderJob
from sidestream.preview.render.slots import SLOTS
from sidestream.tests.helpers import (
    AtCall,
    FakeSink,
    FakeSource,
    FlatDecoder,
    FlatVideoDecoder,
    Gate,
    a_book,
    an_engine,
    stage,
    start_run,
    wait_until,
)

FRAMES = 5


def a_video(step: int) -> torch.Tensor:
    """Latent frame i gives the pictures of levels 20 i + step and 20 i + 10 + step."""
    levels = torch.arange(FRAMES).view(1, 1, FRAMES, 1, 1) * 20.0 + step
    video = torch.zeros(1, 4, FRAMES, 8, 12) + levels
    video[:, 0] += 10
    return video / 255


def levels_of(frame):
    """The grey level of each picture that plays, and for how long."""
    animation = Image.open(io.BytesIO(frame.data))
    return [
        (round(float(np.asarray(each.convert("RGB")).mean())), each.info["duration"])
        for each in ImageSequence.Iterator(animation)
    ]


def animations(sink):
    return [frame for frame in sink.frames if frame.info.animation is not None]


def stills(sink):
    return [frame for frame in sink.frames if frame.info.animation is None]


def capture(engine, run, step, latent=None, images=range(1)):
    run.at(step, 20)
    stage(engine, run, a_video(step) if latent is None else latent, images)


def close_to(levels, expected):
    return len(levels) == len(expected) and all(
        abs(a - b) <= 2 for (a, _), b in zip(levels, expected, strict=True)
    )


def test_an_animation_of_all_frames_in_their_order_after_a_still():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatVideoDecoder()), fps=20, quality=100)
    capture(engine, run, 3)
    assert wait_until(lambda: len(sink.frames) == 2)
    still, animation = sink.frames
    assert (still.info.animation, still.label.step, animation.label.step) == (None, 3, 3)
    played = levels_of(animation)
    # Of the first latent frame the first picture is none of the video's.
    assert close_to(played, [13, 23, 33, 43, 53, 63, 73, 83, 93])
    # 20 frames a second of the video, 4 to a latent frame, of which 2 pictures are made.
    assert {duration for _, duration in played} == {100}
    assert animation.info.animation == (9, 900)
    assert (animation.label.seq, animation.info.size, animation.mime) == (2, (12, 8), "image/webp")
    assert run.outcomes == {records.SENT: 2}
    engine.close()


@pytest.mark.parametrize(("detail", "size"), [("auto", (6, 4)), ("full", (8, 5))])
def test_an_animation_is_smaller_than_its_still_but_at_full_detail(detail, size):
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatVideoDecoder()), max_size=8, detail=detail)
    capture(engine, run, 3)
    assert wait_until(lambda: len(sink.frames) == 2)
    still, animation = sink.frames
    assert (still.info.size, animation.info.size) == ((8, 5), size)
    assert Image.open(io.BytesIO(animation.data)).size == size
    engine.close()


def test_what_is_known_of_a_batchs_animation_is_known_of_the_next(monkeypatch):
    monkeypatch.setattr(animation_module, "ENCODING_SHARE", 1e9)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    spent = []
    monkeypatch.setattr(engine._animator.budget, "spend", lambda now, cost: spent.append(cost))
    run = start_run(book, FakeSource(), batch="animation")
    for step in (1, 2, 3):
        capture(engine, run, step, torch.rand(4, 4, 8, 8), range(4))
        assert wait_until(lambda n=step: len(animations(sink)) == n)
    assert len(spent) == 11  # all but the very first, which makes things ready
    engine.close()


def test_each_animation_begins_anew(monkeypatch):
    monkeypatch.setattr(animation_module, "ENCODING_SHARE", 1e9)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatVideoDecoder()), quality=100, video_frames=3)
    for step in (1, 2):
        capture(engine, run, step)
        assert wait_until(lambda n=step: len(animations(sink)) == n)
    assert [animation.label.step for animation in animations(sink)] == [1, 2]
    assert close_to(levels_of(animations(sink)[1]), [12, 42, 72])
    engine.close()


def test_i2_an_animation_is_of_its_own_step_though_the_sampler_goes_on():
    gate, sink, book = Gate(), FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatVideoDecoder(before=AtCall(3, gate))), quality=100)
    latent = a_video(1)
    capture(engine, run, 1, latent)
    latent.fill_(-1)
    assert gate.entered.wait(30)
    for step in range(2, 12):
        capture(engine, run, step)
    gate.open.set()
    assert wait_until(lambda: len(animations(sink)) == 1)
    assert animations(sink)[0].label.step == 1
    assert close_to(levels_of(animations(sink)[0])[:3], [11, 21, 31])
    # Meanwhile the first still pictures came, and the newest.
    assert [frame.label.step for frame in stills(sink)] == [1, 2, 3, 11]
    engine.close()


def test_stills_come_between_the_parts_of_an_animation():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    captured = [1]

    def the_sampler_goes_on():
        captured[0] += 1
        if captured[0] < 8:
            capture(engine, run, captured[0])

    run = start_run(book, FakeSource(FlatVideoDecoder(before=the_sampler_goes_on)))
    capture(engine, run, 1)
    assert wait_until(lambda: len(animations(sink)) >= 1)
    before = sink.frames[: sink.frames.index(animations(sink)[0])]
    assert len(before) >= 3
    engine.close()


def test_animations_leave_the_worker_time(monkeypatch):
    monkeypatch.setattr(animation_module, "ENCODING_SHARE", 1e-9)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatVideoDecoder()))
    for step in range(1, 20):
        capture(engine, run, step)
        assert wait_until(lambda n=step: len(stills(sink)) == n)
    assert wait_until(lambda: len(animations(sink)) == 1)
    engine.close()


def test_animations_and_stills_have_a_share_of_the_budget_each(monkeypatch):
    monkeypatch.setattr(animation_module, "BUDGET_SHARE", 0.5)
    monkeypatch.setattr(engine_module, "BUDGET_SHARE", 0.5)
    clock = [100.0]
    monkeypatch.setattr(records, "now", lambda: clock[0])
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatVideoDecoder()), budget=20)
    films_budget = engine._animator.budget
    for _ in range(2):  # of 0.4 s in 2 s, of which stills take nothing yet
        films_budget.spend(clock[0], 0.15)
    capture(engine, run, 1)
    assert wait_until(lambda: len(stills(sink)) == 1)
    # The animation waits for what stills leave; these have what it does not use.
    for step in (2, 3):
        capture(engine, run, step)
        assert wait_until(lambda n=step: len(stills(sink)) == n)
    assert engine._animator.busy
    assert len(engine._animator._animation.todo) == FRAMES
    engine.budget.renew()
    engine.budget.spend(clock[0], 0.15)
    run.at(4, 20)
    with torch.inference_mode():
        assert engine.capture(run, a_video(4)) is None
    clock[0] += 2.1
    # What is in work counts, too.
    assert wait_until(lambda: len(animations(sink)) == 1 and not engine._in_work)
    capture(engine, run, 4)
    assert wait_until(lambda: len(stills(sink)) == 4)
    engine.close()


def test_an_animation_goes_on_while_the_samplers_device_is_behind(monkeypatch):
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    decoder = FlatVideoDecoder()
    run = start_run(book, FakeSource(decoder))
    gate = Gate()
    decoder.before = gate
    capture(engine, run, 1)
    assert gate.entered.wait(30)
    monkeypatch.setattr(engine.backend, "settled", lambda slot: False)
    capture(engine, run, 2)
    gate.open.set()
    assert wait_until(lambda: len(sink.frames) == 3)
    # All of the animation, though the second still picture was there before its second part.
    assert [(f.label.step, f.info.animation is not None) for f in sink.frames] == [
        (1, False),
        (1, True),
        (2, False),
    ]
    engine.close()


def test_a_batch_plays_as_an_animation():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run = start_run(book, FakeSource(FlatDecoder()), batch="animation", fps=10, quality=100)
    batch = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 4, 8, 8) * 50 / 255
    capture(engine, run, 1, batch, range(4))
    assert wait_until(lambda: len(sink.frames) == 2)
    assert stills(sink)[0].info.grid is None
    played = levels_of(animations(sink)[0])
    assert close_to(played, [0, 50, 100, 150])
    assert {duration for _, duration in played} == {100}
    engine.close()


def test_no_animation_where_none_is_wanted_or_to_be_had():
    for latent, settings, animated in [
        (a_video(1), {"video_frames": 1}, True),
        (a_video(1), {}, False),
        (a_video(1)[:, :, :1], {}, True),
        (a_video(1)[:, :, 0], {"batch": "animation"}, True),
    ]:
        sink, book = FakeSink(animated=animated), a_book()
        engine = an_engine(sink)
        run = start_run(book, FakeSource(FlatVideoDecoder()), **settings)
        capture(engine, run, 1, latent)
        assert wait_until(lambda s=sink: len(s.frames) == 1)
        assert not engine._animator.busy
        engine.close()


def test_i7_an_animation_whose_node_is_over_is_given_up():
    gate, sink, book = Gate(), FakeSink(), a_book()
    engine = an_engine(sink)
    third_waits = AtCall(3, gate)
    run = start_run(book, FakeSource(FlatVideoDecoder(before=third_waits)))
    capture(engine, run, 1)
    assert gate.entered.wait(30)
    sink.alive = False
    gate.open.set()
    assert wait_until(lambda: run.open_frames == 0)
    assert animations(sink) == []
    assert third_waits.calls == 3
    # The slot is free again: all can be had.
    acquire = engine._station.slots.acquire
    slots = [acquire(a_video(1).shape, torch.float32) for _ in range(SLOTS + 1)]
    assert sum(lease is not None for lease in slots) == SLOTS
    engine.close()


def test_i6_an_animation_that_fails_costs_the_animations_and_one_line(caplog):
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)

    def fails():
        raise RuntimeError("no animation today")

    run = start_run(book, FakeSource(FlatVideoDecoder(before=AtCall(3, fails))))
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            capture(engine, run, step)
            assert wait_until(lambda n=step: len(stills(sink)) == n)
            assert wait_until(lambda: not engine._animator.busy)
    assert animations(sink) == []
    assert [r.getMessage() for r in caplog.records] == [
        "[SideStream] Animated previews failed (RuntimeError: no animation today);"
        " this run continues with stills."
    ]
    acquire = engine._station.slots.acquire
    slots = [acquire(a_video(1).shape, torch.float32) for _ in range(SLOTS + 1)]
    assert sum(lease is not None for lease in slots) == SLOTS
    engine.close()


@pytest.mark.parametrize("pause", [0.0, 60.0])
def test_i6_animations_are_made_again_after_memory_was_short(monkeypatch, caplog, pause):
    """After a pause, and in any case of the last step."""
    monkeypatch.setattr(chain_module, "FIRST_PAUSE", pause)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)

    def fails():
        raise torch.cuda.OutOfMemoryError("full")

    run = start_run(book, FakeSource(FlatVideoDecoder(before=AtCall(3, fails))))
    with caplog.at_level(logging.WARNING):
        for step in (1, 2, 3, 4, 20):
            capture(engine, run, step)
            assert wait_until(lambda: run.open_frames == 0)
            assert wait_until(lambda: not engine._animator.busy)
    assert not run.animation_failed
    made = [frame.label.step for frame in animations(sink)]
    assert made == [20] if pause else made[0] == 2
    assert made[-1] == 20
    assert [frame.label.step for frame in stills(sink)] == [1, 2, 3, 4, 20]
    assert [r.getMessage() for r in caplog.records] == [
        "[SideStream] Animated previews failed (OutOfMemoryError: full);"
        " this run continues with stills and retries them later."
    ]
    assert engine._animator._pause is None  # the next one would be short again
    engine.close()


def test_i6_pauses_grow_as_long_as_memory_is_short():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    run, seen = start_run(book, FakeSource(FlatVideoDecoder())), []
    for _ in range(8):
        engine._animator._give_up(run, torch.cuda.OutOfMemoryError("full"))
        seen.append(engine._animator._pause.seconds)
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60]
    # The next run does not wait for it.
    capture(engine, start_run(book, FakeSource(FlatVideoDecoder())), 1)
    assert wait_until(lambda: len(animations(sink)) == 1)
    engine.close()


def test_a_method_that_changes_during_a_still_costs_no_animations(caplog):
    sink = FakeSink()
    engine = an_engine(sink)
    video, other = FakeSource(FlatVideoDecoder()), FakeSource(name="other")
    run = start_run(a_book(), video)

    def change():
        run.chain = FallbackChain([other])  # as the sampler's thread does

    video.decoder.before = AtCall(1, change)
    capture(engine, run, 3)
    assert wait_until(lambda: len(animations(sink)) == 1)
    assert not run.animation_failed
    assert caplog.records == []
    engine.close()


def test_a_finished_animation_waits_for_its_socket():
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    ready, asked = sink.ready, threading.Semaphore(0)

    def nobody_reads():
        sink.stalled = True
        sink.ready = lambda run: asked.release() or ready(run)

    run = start_run(book, FakeSource(FlatVideoDecoder(before=AtCall(2, nobody_reads))))
    capture(engine, run, 1)
    assert all(asked.acquire(timeout=30) for _ in range(3))  # it is finished, and waits
    assert len(stills(sink)) == 1
    assert animations(sink) == []
    sink.stalled = False
    assert wait_until(lambda: len(animations(sink)) == 1)
    engine.close()


@pytest.mark.parametrize("picture", [None, (1, 4, 8, 8), (1, 4, 1, 8, 8)])
def test_i11_a_worker_that_is_idle_or_shows_pictures_keeps_nothing_of_an_animation(
    monkeypatch, picture
):
    idle = picture is None
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05 if idle else 60)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    decoders = []

    def job(*arguments):
        streaming = StreamingRenderJob(*arguments)
        decoders.append(weakref.ref(streaming))
        return streaming

    monkeypatch.setattr(animation_module, "StreamingRenderJob", job)
    run = start_run(book, FakeSource(FlatVideoDecoder()), budget=50)
    capture(engine, run, 1)
    assert wait_until(lambda: len(animations(sink)) == 1)
    run.end()
    if not idle:
        another = FakeSource(FlatVideoDecoder())
        capture(engine, start_run(book, another), 1, torch.rand(*picture))
    assert wait_until(lambda: gc.collect() >= 0 and decoders[0]() is None)
    assert not idle or not engine._station.slots._free
    engine.close()


def test_videos_of_two_sizes_have_an_animation_each(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(animation_module, "ENCODING_SHARE", 1e9)
    torch.save(video_decoder(WAN), tmp_path / "lighttaew2_1.pth")
    source = TaehvSource.of(str(tmp_path / "lighttaew2_1.pth"), 16)
    sink, book = FakeSink(), a_book()
    engine = an_engine(sink)
    for number, (height, width) in enumerate([(4, 6), (6, 4), (4, 6)], 1):
        run = start_run(book, source, video_frames=2)
        capture(engine, run, 1, torch.randn(1, 16, 2, height, width))
        assert wait_until(lambda n=number: len(animations(sink)) == n, 30)
        assert animations(sink)[-1].info.size == (8 * width, 8 * height)
    assert caplog.records == []
    engine.close()
