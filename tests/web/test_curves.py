"""The curves under the timeline: how much x0 still changes, sigma, and the time of each step."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.views import (
    OVERFLOWING,
    PANEL,
    SEEDS,
    nameless,
    settled,
    wait_over,
    wait_shown,
)
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.browser

CURVES = f"{PANEL} .ss-curves"
NAMES = ["Change per step", "Sigma", "Time per step"]


def curve(panel: PanelPage, name: str) -> Locator:
    return panel.page.get_by_role("img", name=f"{name}:")


def labels(steps: int, *, rate: float = 0.6, ms: float = 200) -> dict[int, Any]:
    """Of a run whose changes become smaller by that `rate`, and whose first step takes long."""
    told: dict[int, Any] = {}
    for step in range(1, steps + 1):
        told[step] = {"sigma": 14.6 * (1 - (step - 1) / steps), "elapsed_ms": 3000 + ms * step}
        if step > 1:
            told[step]["change"] = {"rms": rate**step, "since": step - 1}
    return told


def open_curves(panel: PanelPage) -> None:
    panel.page.locator(f"{CURVES} summary").click()
    panel.page.locator(f"{CURVES} svg").first.wait_for()


def path(panel: PanelPage, name: str, line: str = "own") -> str:
    drawn = curve(panel, name).locator(f"path.ss-curve-{line}").get_attribute("d")
    assert drawn is not None
    return drawn


@on_the_oldest_and_the_newest
def test_a_real_run_has_a_point_for_each_step(panel: PanelPage) -> None:
    panel.open_panel()
    panel.load(settled(demo_prompt(seed=next(SEEDS) * 10, steps=20, seconds=0.15)))
    panel.queue()
    wait_over(panel, 120)
    wait_shown(panel, 20)
    open_curves(panel)
    frames, sent = panel.page.evaluate(
        "() => (({ frames, outcomes }) => [frames.map(({ label }) => label), outcomes.sent])(sidestream.watching.run)"
    )
    assert len(frames) == sent == 20
    for name, points in zip(NAMES, (19, 20, 20), strict=True):
        assert path(panel, name).replace("M", "L").count("L") == points
    expect(panel.page.locator(f"{CURVES} .ss-answer")).to_contain_text("after step")
    taken = curve(panel, "Time per step").get_attribute("aria-label")
    assert taken is not None
    before, last = frames[-2:]
    each = (last["elapsed_ms"] - before["elapsed_ms"]) / (last["step"] - before["step"])
    assert each > 140
    # The page rounds halves up, Python to even.
    tenths = Decimal(each / 1000).quantize(Decimal("0.1"), ROUND_HALF_UP)
    said = f"{math.floor(each + 0.5)} ms" if each < 1000 else f"{tenths} s"
    assert taken.startswith(f"Time per step: {said}")


def test_they_say_at_which_step_one_could_have_stopped(panel: PanelPage) -> None:
    panel.open_panel()
    answer = panel.page.locator(f"{CURVES} .ss-answer")
    deliver(panel, 10, told=labels(20))
    expect(answer).to_have_text("x0 changes by 0.6 % a step")
    deliver(panel, 10, first=11, told=labels(20))
    expect(answer).to_have_text("x0 changes by 0.0037 % a step")
    end_run(panel)
    # 0.6^8 + 0.6^9 + ... is 0.042.
    expect(answer).to_have_text("less than 5 % changes after step 7 of 20")
    deliver(panel, 4, run="short", total=4, told=labels(4))
    end_run(panel, run="short")
    expect(answer).to_have_text("still changing at the end: 13 % in the last step")


def test_each_value_is_shown_and_said_for_the_step_that_is_watched(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    told = labels(20)
    for step in (11, 12, 13):
        del told[step]
    told[14]["change"] = {"rms": 0.02, "since": 10}
    deliver(panel, 10, told=told)
    deliver(panel, 7, first=14, told=told)
    end_run(panel)
    open_curves(panel)
    expect(curve(panel, "Sigma")).to_have_accessible_name(
        "Sigma: 0.73, from 14.6 at first to 0.73 at last."
    )
    page.evaluate("() => sidestream.watching.scrub(10)")  # the frame of step 14
    expect(curve(panel, "Change per step")).to_contain_text("0.5 % (steps 11–14)")
    expect(curve(panel, "Time per step")).to_have_accessible_name(
        "Time per step: 200 ms (steps 11–14), from 3.2 s at first to 200 ms at last."
    )
    box = curve(panel, "Sigma").locator(".ss-curve-here").bounding_box()
    bar = page.locator(f"{PANEL} .ss-scrubber").bounding_box()
    assert box
    assert bar
    assert box["x"] - bar["x"] == pytest.approx(bar["width"] * 13.5 / 20, abs=2)
    # The first step, which took 3.2 s, is beyond the top, and the others are not at the ground.
    assert path(panel, "Time per step").startswith("M0.5 -")
    assert path(panel, "Time per step").endswith(" 0.060")


@on_the_oldest_and_the_newest
def test_two_runs_are_compared_on_one_scale(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 20, told=labels(20))
    end_run(panel)
    open_curves(panel)
    assert path(panel, "Sigma", "other") == ""
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    deliver(panel, 30, run="longer", total=30, told=labels(30, rate=0.8, ms=400))
    end_run(panel, run="longer")
    page.evaluate("() => sidestream.watching.goLive()")
    panel.wait("() => document.querySelector('.ss-viewer').ariaLabel.endsWith('30 / 30')")
    expect(panel.page.locator(f"{PANEL} .ss-stat-step dd")).to_have_text("30 / 30")  # the curves come with it
    assert path(panel, "Sigma", "other").count("L") == 19
    assert path(panel, "Sigma").count("L") == 29
    assert curve(panel, "Sigma").locator("svg").get_attribute("viewBox") == "0 0 30 1"
    expect(curve(panel, "Time per step")).to_have_accessible_name(
        "Time per step: 400 ms, from 3.4 s at first to 400 ms at last. Compared run: 200 ms."
    )
    assert path(panel, "Time per step", "other").endswith(" 0.530")  # half as high


def test_previews_of_others_have_no_curves(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    expect(panel.page.locator(CURVES)).to_be_hidden()


def test_they_stay_as_they_were_left_and_can_be_reached_by_keyboard(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 20, told=labels(20))
    summary = panel.page.locator(f"{CURVES} summary")
    expect(summary).to_be_visible()
    expect(panel.page.locator(f"{CURVES} svg").first).to_be_hidden()
    summary.focus()
    panel.page.keyboard.press("Enter")
    panel.page.locator(f"{CURVES} svg").first.wait_for()
    assert nameless(panel) == []
    assert panel.page.evaluate(OVERFLOWING) == []
    panel.close_panel()
    panel.open_panel()
    panel.page.locator(f"{CURVES} svg").first.wait_for()


def test_an_idle_panel_leaves_the_curves_alone(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 20, told=labels(20))
    end_run(panel)
    open_curves(panel)
    expect(panel.page.locator(f"{CURVES} .ss-answer")).to_contain_text("after step")
    changed = panel.page.evaluate(
        """async () => {
          let changed = 0;
          const watch = new MutationObserver((seen) => (changed += seen.length));
          const all = { subtree: true, attributes: true, childList: true, characterData: true };
          watch.observe(document.querySelector(".ss-curves"), all);
          for (let i = 0; i < 3; i++) {
            sidestream.watching.goLive();
            await new Promise((resolve) => setTimeout(resolve, 200));
          }
          watch.disconnect();
          return changed;
        }"""
    )
    assert changed == 0
    assert panel.page.locator(CURVES).evaluate("e => e.getAnimations({ subtree: true }).length") == 0
