"""An animation in every run: one by three quarters of it, the last step's at its end, and no more
of the device in all than the budget says. With an injected clock and a device that costs time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sidestream.preview import records
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.records import Info, Picture
from sidestream.preview.render import animation
from sidestream.preview.render.animation import PATIENCE, Animator
from sidestream.preview.render.backends import Slot
from sidestream.preview.render.budget import Budget
from sidestream.preview.render.slots import Lease, Snapshot
from sidestream.tests.helpers import FakeSink, FakeSource, FlatVideoDecoder, a_book, start_run

FRAMES = 21
STILL = 0.004


class Device:
    """A backend whose decodes take seconds of the test's clock, and give black pictures."""

    device = torch.device("cpu")

    def __init__(self, clock, seconds_of):
        self.clock = clock
        self.seconds_of = seconds_of
        self.spent = 0.0
        self.busy = []

    def render(self, slot, job):
        seconds = self.seconds_of(job)
        self.clock[0] += seconds
        self.spent += seconds
        self.busy.append((self.clock[0], seconds))
        return (np.zeros((2, 4, 6, 3), np.uint8), np.zeros(())), seconds


class Released:
    """In the place of the slots that a lease goes back to."""

    def release(self, slot):
        pass


class Course:
    """A run of `steps` steps that take `seconds` in all, and what a worker does meanwhile."""

    def __init__(self, monkeypatch, clock, cost, *, tells_cost=True):
        self.clock = clock
        self.tells_cost = tells_cost
        """Whether stills tell what a decode takes."""
        monkeypatch.setattr(records, "now", lambda: clock[0])
        # To encode takes no time, or what is animated would depend on how quick this machine is.
        monkeypatch.setattr(animation, "time", SimpleNamespace(thread_time=lambda: clock[0]))
        self.cost = cost
        self.decoders = {FlatVideoDecoder(scale=8): cost, FlatVideoDecoder(scale=8): 0.0002}
        slow, quick = self.decoders
        self.sources = [FakeSource(slow, "sharp"), FakeSource(quick, "rough")]
        self.device = Device(clock, self._seconds_of)
        self.sink = FakeSink()
        self.stills = Budget()
        self.refused = 0
        """Stills for which the budget had no room."""
        self.animator = Animator(self.device, self.sink, DecoderCache(), [self.stills, Budget()])
        self.book = a_book()

    def _seconds_of(self, job):
        """Leaving out an upsampling saves three quarters, once."""
        decoder, size = job._decoder, job._max_size
        slow, _ = self.decoders
        return self.decoders[decoder] * (0.25 if decoder is slow and size < 300 else 1)

    def __call__(self, steps, seconds, budget=5):
        """Where each animation came, as a share of the run; its step, its decoder."""
        before, self.device.spent = len(self.sink.frames), 0.0
        run = start_run(self.book, *self.sources, budget=budget)
        began = self.clock[0]
        came = []
        for step in range(1, steps + 1):
            self._work_until(run, began + seconds * step / steps, came, began, seconds)
            run.at(step, steps)
            self._still(run)
        run.end()
        self._work_until(run, self.clock[0] + 5, came, began, seconds)
        assert all(frame.label.run is run for frame in self.sink.frames[before:])
        self.used = self.device.spent / seconds
        return came

    def _still(self, run):
        animations = self.animator.budget.used(self.clock[0])
        allowed = self.stills.allows(self.clock[0], run.settings.budget, 0, animations)
        if not (run.is_at_edge or allowed):  # as in `Engine.capture`
            self.refused += 1
            return
        self.clock[0] += STILL
        self.device.spent += STILL
        self.device.busy.append((self.clock[0], STILL))
        self.stills.spend(self.clock[0], STILL)
        run.spent += STILL
        label = run.capture(self.clock[0])
        black = np.zeros((4, 6, 3), np.uint8)
        info = Info((96, 64), "sharp", self.clock[0], self.tells_cost * self.cost * 1000)
        still = Picture(label, info, black)
        slot = Slot(torch.zeros(1, 4, FRAMES, 8, 12))
        snapshot = Snapshot(run, label, Lease(Released(), slot))
        self.animator.begin(snapshot, still, self.sources[0], next(iter(self.decoders)))
        label.close(records.SENT)

    def _work_until(self, run, end, came, began, seconds):
        while self.clock[0] < end and (self.animator.busy or end - self.clock[0] > 1e-9):
            count = len(self.sink.frames)
            if not self.animator.advance():
                self.clock[0] = min(end, self.clock[0] + PATIENCE)
            for frame in self.sink.frames[count:]:
                at = (self.clock[0] - began) / seconds
                came.append((at, frame.label.step, frame.info.decoder))


LENGTHS = [(4, 1.0), (8, 2.0), (8, 8.0), (20, 6.0), (50, 60.0)]


@pytest.mark.parametrize(("steps", "seconds"), LENGTHS)
@pytest.mark.parametrize("cost", [0.0005, 0.01, 0.04, 0.5])
def test_one_by_three_quarters_and_the_last_steps_at_the_end(monkeypatch, cost, steps, seconds):
    clock = [100.0]
    course = Course(monkeypatch, clock, cost)
    course(8, 4.0)  # by now it is known what things take
    for _ in range(2):
        clock[0] += 10
        came = course(steps, seconds)
        during = [(at, step) for at, step, _ in came if step < steps]
        assert during, came
        at, step = during[0]
        assert at <= 0.75
        assert at - step / steps <= 0.5  # not of long ago
        last_at, last, _ = came[-1]
        assert last == steps
        assert last_at <= 1.25
        # The first step's still, the quickest way, and what makes things ready pass.
        passes = STILL + FRAMES * 0.0002 + (cost if cost < 0.1 else 0)
        assert course.used <= 0.05 + 2 * passes / seconds


@pytest.mark.parametrize("cost", [0.0005, 0.01, 0.04, 0.5])
@pytest.mark.parametrize(("steps", "seconds"), LENGTHS)
def test_also_the_very_first_run_has_both(monkeypatch, cost, steps, seconds):
    came = Course(monkeypatch, [100.0], cost)(steps, seconds)
    assert came[0][0] <= 0.75
    assert came[0][1] < steps
    assert came[-1][1] == steps


def test_what_nobody_knows_is_learnt_on_the_way(monkeypatch):
    came = Course(monkeypatch, [100.0], 0.3, tells_cost=False)(20, 6.0)
    assert came[0][0] <= 0.75
    assert came[-1][1] == 20


def test_where_there_is_time_the_best_decoder_makes_them(monkeypatch):
    clock = [100.0]
    course = Course(monkeypatch, clock, 0.01)
    course(8, 4.0)
    clock[0] += 10
    assert {decoder for _, _, decoder in course(20, 60.0)} == {"sharp"}
    clock[0] += 10
    assert "rough" in {decoder for _, _, decoder in course(8, 1.0)}


def test_i6_a_quicker_decoder_that_is_broken_costs_the_animations_and_no_still(monkeypatch, caplog):
    course = Course(monkeypatch, [100.0], 0.5)
    course.sources[1].broken = True
    assert course(20, 6.0) == []
    [line] = [record.getMessage() for record in caplog.records]
    assert "Animated previews failed (rough.pth is damaged)" in line


def test_no_window_has_more_than_the_budget_but_for_the_last_step(monkeypatch):
    clock = [100.0]
    course = Course(monkeypatch, clock, 0.01)
    course(8, 4.0)
    clock[0] += 10
    began, before = clock[0], len(course.device.busy)
    course(60, 30.0)
    times = [(at, cost) for at, cost in course.device.busy[before:] if at <= began + 30]
    assert len(times) > 30
    for now, _ in times:
        used = sum(cost for at, cost in times if now - Budget.WINDOW < at <= now)
        assert used <= 0.05 * Budget.WINDOW + 0.01  # of what makes things ready
    assert course.refused <= 3


def test_without_a_limit_they_still_come_in_time(monkeypatch):
    course = Course(monkeypatch, [100.0], 0.5)
    for _ in range(2):
        came = course(8, 4.0, budget=0)
        course.clock[0] += 10
        assert came[0][0] <= 0.75
        assert came[-1][1] == 8
