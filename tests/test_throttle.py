"""The throttle is exact: pure arithmetic on a clock of the test's."""

from __future__ import annotations

import bisect
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sidestream.preview.capture.throttle import Throttle
from sidestream.preview.render.budget import Budget


def admitted(
    steps: int, seconds_per_step: float, throttle_ms: int = 0, every: int = 1
) -> list[int]:
    throttle, result = Throttle(), []
    for step in range(1, steps + 1):
        now = 100 + step * seconds_per_step
        last = step == steps
        if throttle.admits(step, last, now, throttle_ms=throttle_ms, every_n_steps=every):
            throttle.mark(now, last)
            result.append(step)
    return result


def test_every_fifth_of_twenty_steps():
    assert admitted(20, 0.06, every=5) == [1, 6, 11, 16, 20]
    assert admitted(21, 0.06, every=5) == [1, 6, 11, 16, 21]


def test_every_step():
    assert admitted(20, 0.0) == list(range(1, 21))


def test_500_ms_over_two_seconds_gives_three_to_six_frames():
    for steps in (4, 20, 100, 2000):
        assert 3 <= len(admitted(steps, 2 / steps, throttle_ms=500)) <= 6


def test_first_and_last_step_pass_the_milliseconds():
    assert admitted(20, 0.01, throttle_ms=60_000) == [1, 20]


def test_the_last_step_comes_in_addition_to_every_n_steps():
    assert admitted(20, 0.01, throttle_ms=60_000, every=3) == [1, 20]
    assert admitted(2, 0.5, every=1000) == [1, 2]


@given(
    steps=st.integers(1, 200),
    every=st.integers(1, 30),
    throttle_ms=st.integers(0, 500),
    pace=st.floats(0.001, 0.5),
)
def test_never_two_too_close_and_never_off_the_grid(steps, every, throttle_ms, pace):
    result = admitted(steps, pace, throttle_ms, every)
    assert result[0] == 1
    assert all((step - 1) % every == 0 for step in result[:-1])
    assert result[-1] == steps
    for before, after in itertools.pairwise(result):
        assert (after - before) * pace >= throttle_ms / 1000 - 1e-6 or after == steps


@settings(max_examples=50)
@given(
    decode=st.floats(0.0005, 1.0),
    percent=st.integers(1, 99),
    pace=st.floats(0.001, 0.3),
)
def test_the_budget_holds_over_any_window(decode, percent, pace):
    budget, now, spans = Budget(), 0.0, []
    while now < 6 or len(spans) < 3:
        now += pace
        if budget.allows(now, percent):
            spans.append((now, now + decode))
            budget.spend(now + decode, decode)
            now += decode
    fits = decode <= percent / 100 * Budget.WINDOW
    ends = [end for _, end in spans[1:]]  # the first cost is not known beforehand
    for i, end in enumerate(ends):
        used = decode * (i + 1 - bisect.bisect_right(ends, end - Budget.WINDOW))
        assert used <= max(percent / 100 * Budget.WINDOW, decode) + 1e-6
    if not fits:
        for (start, _), (following, _) in itertools.pairwise(spans):
            assert following - start >= decode / (percent / 100) - 1e-6
    assert spans


def test_a_budget_of_zero_sets_no_limit():
    budget = Budget()
    budget.spend(1.0, 10.0)
    assert budget.allows(1.0, 0)
    assert not budget.allows(1.0, 5)


def test_share_is_that_of_the_last_window():
    budget = Budget()
    for now in (1.0, 1.5, 2.0):
        budget.spend(now, 0.1)
    assert budget.share(2.0) == pytest.approx(0.15)
    assert budget.share(3.2) == pytest.approx(0.10)
    assert budget.share(10.0) == 0


def test_pending_decodes_count():
    budget = Budget()
    budget.spend(0.0, 0.04)
    assert budget.allows(0.1, 5, pending=0)
    assert not budget.allows(0.1, 5, pending=2)


def test_a_decode_that_was_held_up_costs_what_the_others_of_its_work_do():
    budget = Budget()
    for number in range(4):
        budget.spend(number * 0.2, 0.005)
    budget.spend(1.0, 0.5)
    assert budget.share(1.0) == pytest.approx(0.0125)
    assert budget.allows(1.1, 5)
    budget.renew()
    budget.spend(1.2, 0.5)
    assert budget.share(1.2) == pytest.approx(0.2625)
    assert not budget.allows(1.3, 5)


def test_short_decodes_need_not_wait_as_long_as_the_long_ones_before_them():
    budget = Budget()
    budget.spend(0.0, 0.11)
    assert not budget.allows(2.05, 5)
    budget.renew()
    assert budget.allows(2.05, 5)


def test_work_that_has_become_longer_is_believed_after_five():
    budget = Budget()
    budget.spend(0.0, 0.005)
    for number in range(5):
        budget.spend(10.0 + number, 0.04)
    assert budget.share(14.0) == pytest.approx(0.0225)
