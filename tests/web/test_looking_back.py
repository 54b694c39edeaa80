"""Looking back while runs come and go, all samplers at once, and the zoom."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.views import PANEL, VIEWER, part, wait_shown
from sidestream.tools.page import PanelPage

pytestmark = pytest.mark.browser

CHIP = f"{PANEL} .ss-new-run"


def watched(panel: PanelPage) -> str:
    found: str = panel.page.evaluate("() => sidestream.watching.run.id")
    return found


def zoom(panel: PanelPage) -> float:
    """In percent, as it is said."""
    return float(part(panel, ".ss-zoom").inner_text().split()[0])


def real_zoom(panel: PanelPage) -> float:
    """In percent, as it is seen."""
    ratio = "canvas => canvas.getBoundingClientRect().width * devicePixelRatio / canvas.width * 100"
    found: float = panel.page.locator(f"{VIEWER} .ss-canvas").first.evaluate(ratio)
    return found


# A new run


def test_a_new_run_says_that_it_is_there_and_is_gone_to(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 6, run="a", prompt="pa")
    page.evaluate("() => sidestream.watching.scrub(1)")
    wait_shown(panel, 2)
    expect(page.locator(CHIP)).to_be_hidden()
    deliver(panel, 3, run="b", prompt="pb", node="11")
    page.locator(CHIP).wait_for()
    assert watched(panel) == "a"
    page.locator(CHIP).click()
    wait_shown(panel, 3)
    assert watched(panel) == "b"
    expect(page.locator(CHIP)).to_be_hidden()


def test_who_has_pinned_a_sampler_stays_there(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 6, run="a", prompt="pa")
    page.evaluate("() => sidestream.watching.pin('10')")
    page.evaluate("() => sidestream.watching.scrub(1)")
    end_run(panel, run="a", prompt="pa")
    deliver(panel, 3, run="b", prompt="pb", node="11")
    page.locator(CHIP).wait_for()
    assert watched(panel) == "a"
    page.locator(f"{PANEL} .ss-live-button").click()
    wait_shown(panel, 6)
    expect(page.locator(f"{PANEL} .ss-on-air")).to_have_count(0)  # what is shown is over
    page.evaluate("() => sidestream.watching.scrub(1)")
    page.locator(CHIP).click()
    wait_shown(panel, 3)
    assert watched(panel) == "b"
    page.locator(f"{PANEL} .ss-on-air").wait_for()


# All samplers


def test_all_ends_where_one_sampler_is_left_and_says_what_it_does_not_do(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    for node, run in (("10", "a"), ("11", "b")):
        deliver(panel, 3, run=run, node=node, prompt="two")
    page.locator(f"{PANEL} .ss-tabs >> text=All").click()
    expect(part(panel, ".ss-grid-hint")).to_contain_text("Select one sampler")
    for control in (".ss-scrubber", "[aria-label^='Compare']", "[aria-label='Zoom in']", "[aria-label^='Previous f']"):
        page.locator(f"{PANEL} {control}:disabled").first.wait_for(state="attached")
    expect(page.locator(f"{PANEL} .ss-menu-button")).to_have_attribute("aria-disabled", "true")
    for node, run in (("10", "a"), ("11", "b")):
        end_run(panel, run=run, node=node, prompt="two")
    deliver(panel, 5, run="c", node="10", prompt="one")
    wait_shown(panel, 5)
    expect(page.locator(VIEWER)).to_be_visible()
    expect(page.locator(f"{PANEL} .ss-grid")).to_be_hidden()
    expect(page.locator(f"{PANEL} .ss-scrubber")).to_be_enabled()
    end_run(panel, run="c", node="10", prompt="one")


# The zoom


def test_what_goes_away_leaves_the_focus_to_the_picture(panel: PanelPage) -> None:
    """Or the page would have the next key."""
    page = panel.page
    panel.open_panel()
    for run, node in (("a", "10"), ("b", "11")):
        deliver(panel, 4, run=run, node=node)
    page.locator(f"{PANEL} .ss-tabs >> text=All").click()
    page.locator(f"{PANEL} .ss-tile").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator(VIEWER)).to_be_focused()
    page.evaluate("() => (sidestream.watching.follow(), sidestream.watching.scrub(1))")
    deliver(panel, 3, run="c", prompt="q", node="11")
    chip = page.locator(f"{PANEL} .ss-new-run")
    chip.focus()
    page.keyboard.press("Enter")
    expect(page.locator(VIEWER)).to_be_focused()
    page.locator(f"{PANEL} [aria-label='Interrupt the run']").focus()
    page.evaluate("() => sidestream.store.end(() => true)")
    expect(page.locator(VIEWER)).to_be_focused()


def test_the_zooms_number_is_true_after_a_resize(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    panel.wait("() => document.querySelector('.sidestream .ss-canvas').width === 64")
    for height in (700, 500, 900):
        page.set_viewport_size({"width": 1400, "height": height})
        page.wait_for_function("height => innerHeight === height", arg=height)
        panel.wait(
            """() => {
              const canvas = document.querySelector(".side-bar-panel .ss-canvas");
              const real = canvas.getBoundingClientRect().width * devicePixelRatio / canvas.width * 100;
              const said = parseFloat(document.querySelector(".side-bar-panel .ss-zoom").textContent);
              return Math.abs(real - said) < 1.5;
            }"""
        )


def test_the_zoom_has_no_number_before_the_first_picture_is_drawn(panel: PanelPage) -> None:
    deliver(panel, 3)
    panel.page.evaluate(
        """() => {
          globalThis.zooms = new Set();
          globalThis.looking = new MutationObserver(() => {
            for (const zoom of document.querySelectorAll(".ss-zoom")) zooms.add(zoom.textContent);
          });
          looking.observe(document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    panel.open_panel()
    wait_shown(panel, 3)
    panel.wait("() => document.querySelector('.ss-zoom').textContent.endsWith('%')")
    zooms = panel.page.evaluate("() => { looking.disconnect(); return [...zooms].filter(Boolean); }")
    assert max(float(zoom.split()[0]) for zoom in zooms) < 2000


def test_the_wheel_zooms_by_how_far_it_is_turned(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    page.locator(VIEWER).focus()
    page.keyboard.press("1")
    page.locator(VIEWER).hover()
    for _ in range(6):
        page.mouse.wheel(0, -4)  # a trackpad's
    assert 110 < zoom(panel) < 130
    assert real_zoom(panel) == pytest.approx(zoom(panel), abs=1.5)
    for _ in range(6):
        page.mouse.wheel(0, 4)
    assert zoom(panel) == pytest.approx(100, abs=1)
    for _ in range(30):
        page.mouse.wheel(0, -100)
    assert zoom(panel) == 1600


TRANSFORM = "() => new DOMMatrix(getComputedStyle(document.querySelector('.ss-canvas')).transform).e"


def test_a_finger_moves_the_picture_all_the_way_and_two_no_further(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 3, side=600)
    wait_shown(panel, 3)
    page.locator(VIEWER).focus()
    page.keyboard.press("1")
    box = page.locator(VIEWER).bounding_box()
    assert box
    browser = page.context.new_cdp_session(page)
    browser.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
    x, y = box["x"] + 40, box["y"] + 40

    def touch(kind: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": at, "y": down, "id": i} for i, (at, down) in enumerate(fingers)]
        browser.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def moved(*fingers: float) -> float:
        before = page.evaluate(TRANSFORM)
        touch("touchStart", *((at, y) for at in fingers))
        for by in range(10, 70, 10):
            touch("touchMove", *((at + by, y) for at in fingers))
            page.wait_for_timeout(40)
        touch("touchEnd")
        return float(page.evaluate(TRANSFORM)) - float(before)

    try:
        assert [moved(x), moved(x, x + 80)] == pytest.approx([60, 60], abs=5)
    finally:
        browser.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
        browser.detach()
