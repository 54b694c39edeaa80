"""The first minute: a hint beside the eye where previews stream unseen, once, and the eye's tooltip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import ALL_KINDS, FAR_APART, on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver
from sidestream.tests.web.views import PANEL, start_run
from sidestream.tools.page import PanelPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

HINT = ".ss-eye-hint"
EYE = ":is(.sidestream-tab-button, [data-testid=sidestream-tab-button])"


@pytest.fixture
def fresh(browser: Browser, address_of: Callable[[str], str]) -> Iterator[Callable[..., PanelPage]]:
    """Call it with a kind for a page in a browser that has never been here."""
    contexts = []

    def start(kind: str = ALL_KINDS[-1], **settings: object) -> PanelPage:
        version, nodes = kind.split()
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}))
        panel = PanelPage(contexts[-1].new_page(), address_of(version))
        panel.open({"Comfy.VueNodes.Enabled": nodes == "vue", **settings})
        return panel

    yield start
    for context in contexts:
        context.close()


def is_beside_the_eye(panel: PanelPage) -> bool:
    eye, hint = (panel.page.locator(place).first.bounding_box() for place in (EYE, HINT))
    assert eye
    assert hint
    size = panel.page.viewport_size
    assert size
    is_inside = hint["x"] >= 0 and hint["x"] + hint["width"] <= size["width"]
    middle = eye["y"] + eye["height"] / 2
    apart = max(hint["x"] - eye["x"] - eye["width"], eye["x"] - hint["x"] - hint["width"])
    return is_inside and 0 < apart < 40 and hint["y"] < middle < hint["y"] + hint["height"]


@pytest.mark.parametrize("kind", FAR_APART)
def test_a_first_preview_that_streams_unseen_points_at_the_eye_once(
    fresh: Callable[..., PanelPage], kind: str
) -> None:
    panel = fresh(kind)
    page = panel.page
    hint = page.locator(HINT)
    expect(hint).to_have_count(0)
    start_run(panel, steps=20)
    hint.wait_for()
    assert is_beside_the_eye(panel)
    expect(hint).to_have_text("Previews are streaming. This eye shows them large (Shift + L).Got it")
    assert hint.get_attribute("role") == "status"
    assert hint.evaluate("e => e.getAnimations({ subtree: true }).length") == 0
    panel.wait_idle()
    expect(hint).to_be_visible()  # until somebody has seen it
    hint.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(hint).to_have_count(0)
    deliver(panel, 3)
    page.reload()
    panel.wait_until_ready()
    deliver(panel, 3)
    page.wait_for_timeout(500)
    expect(hint).to_have_count(0)


def test_who_opens_the_panel_knows_it(fresh: Callable[..., PanelPage]) -> None:
    panel = fresh()
    deliver(panel, 1)
    panel.page.locator(HINT).wait_for()
    panel.page.keyboard.press("Shift+L")
    panel.page.locator(PANEL).wait_for()
    expect(panel.page.locator(HINT)).to_have_count(0)
    panel.close_panel()
    deliver(panel, 1, first=2)
    panel.page.wait_for_timeout(300)
    expect(panel.page.locator(HINT)).to_have_count(0)


FILL = """
() => {
  for (let size = 2 ** 22, full = ""; size >= 1; size /= 2) {
    try { localStorage.setItem("full", full + "x".repeat(size)); full += "x".repeat(size); } catch {}
  }
}
"""


def test_the_panel_opens_though_the_browser_can_remember_nothing_more(fresh: Callable[..., PanelPage]) -> None:
    panel = fresh()
    errors: list[str] = []
    panel.page.on("pageerror", lambda error: errors.append(str(error)))
    panel.page.evaluate(FILL)
    deliver(panel, 1)
    panel.page.locator(HINT).wait_for()
    panel.open_panel()
    expect(panel.page.locator(HINT)).to_have_count(0)
    panel.page.locator(f"{PANEL} .ss-details summary").click()
    expect(panel.page.locator(f"{PANEL} .ss-details")).to_have_attribute("open", "")
    panel.page.wait_for_timeout(100)
    assert errors == []


def test_it_is_not_for_previews_that_are_seen_or_not_ours(fresh: Callable[..., PanelPage]) -> None:
    panel = fresh()
    add = "() => sidestream.store.add(sidestream.store.run('x', {{ promptId: 'p', nodeId: '1', foreign: {} }}),"
    picture = "{ seq: 1, stage: 1, step: 1, totalSteps: 2, blob: new Blob(['x']), label: null })"
    panel.page.evaluate(f"{add.format('true')} {picture}")
    expect(panel.page.locator(HINT)).to_have_count(0)
    panel.open_panel()
    deliver(panel, 1)
    expect(panel.page.locator(HINT)).to_have_count(0)


def test_it_stands_within_the_window_wherever_the_sidebar_is(fresh: Callable[..., PanelPage]) -> None:
    panel = fresh(**{"Comfy.Sidebar.Location": "right", "Comfy.Locale": "ar"})
    deliver(panel, 1)
    panel.page.locator(HINT).wait_for()
    expect(panel.page.locator(HINT)).to_have_attribute("dir", "rtl")
    assert is_beside_the_eye(panel)
    for size in ({"width": 390, "height": 844}, {"width": 1280, "height": 800}):
        panel.page.set_viewport_size(size)
        panel.page.wait_for_function("({ width }) => innerWidth === width", arg=size)
        deliver(panel, 1, first=2)
        for _ in range(200):  # until the page has moved its eye
            if is_beside_the_eye(panel):
                break
            panel.page.wait_for_timeout(100)
        assert is_beside_the_eye(panel)


@on_the_oldest_and_the_newest
def test_the_eyes_tooltip_says_the_shortcut(panel: PanelPage) -> None:
    panel.page.locator(EYE).first.hover()
    tooltip = panel.page.locator("[role=tooltip], .p-tooltip").first
    expect(tooltip).to_contain_text("Shift + L")
