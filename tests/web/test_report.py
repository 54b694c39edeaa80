"""What the server says of itself in the panel, and the button that copies its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.views import PANEL, listen_to_toasts, open_details, wait_toast
from sidestream.tools.page import PanelPage

if TYPE_CHECKING:
    from playwright.sync_api import Route

BUTTON = f"{PANEL} .ss-report"
KEEP = "async () => { globalThis.kept = navigator.clipboard; await kept.writeText('before'); }"
# What a page finds that came over plain HTTP from another machine.
TAKE_AWAY = """
() => Object.defineProperty(navigator, "clipboard", { value: undefined, configurable: true })
"""
GIVE_BACK = "() => { delete navigator.clipboard; }"
COPIED = "async () => (await kept.readText()).startsWith('SideStream report')"


@pytest.mark.browser
@pytest.mark.parametrize("secure", [True, False])
def test_the_report_is_on_the_clipboard(panel: PanelPage, secure: bool) -> None:
    page = panel.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(KEEP)
    listen_to_toasts(panel)
    panel.open_panel()
    if not secure:
        page.evaluate(TAKE_AWAY)
    try:
        page.locator(BUTTON).click()
        panel.wait(COPIED)
    finally:
        page.evaluate(GIVE_BACK)
    assert "in charge: SideStream" in page.evaluate("() => kept.readText()")
    wait_toast(panel, "Report copied to the clipboard.")
    expect(page.locator("textarea[readonly]")).to_have_count(0)


@pytest.mark.browser
def test_a_server_that_does_not_answer_is_told(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    listen_to_toasts(panel)
    page.route("**/sidestream/report", lambda route: route.abort())
    page.locator(BUTTON).click()
    wait_toast(panel, "there is no report")
    page.unroute("**/sidestream/report")


@pytest.mark.browser
def test_the_panel_says_in_words_how_each_device_is_served(panel: PanelPage) -> None:
    page = panel.page
    devices = [
        {"device": "cuda:0", "path": "side stream of cuda:0", "problem": None, "share": 0.02},
        {"device": "mps", "path": "CPU, copied by the sampler's thread", "problem": None, "share": 0},
        {"device": "xpu:0", "path": "ComfyUI's own previewer", "problem": "its events are broken", "share": 0},
        {"device": "tpu", "path": "something new", "problem": None, "share": 0},
    ]
    page.route("**/sidestream/status", lambda route: answer_with(route, devices))
    panel.open_panel()
    open_details(panel)
    lines = page.locator(".ss-devices li")
    lines.nth(3).wait_for()
    assert lines.all_inner_texts() == [
        "Latents on cuda:0 are decoded on a side stream of cuda:0.",
        "Latents on mps are copied to the CPU by the sampler's thread, and decoded there.",
        "Latents on xpu:0 are previewed by ComfyUI's own previewer. ⚠ its events are broken",
        "tpu: something new",
    ]
    page.unroute("**/sidestream/status")


def answer_with(route: Route, devices: list[dict[str, object]]) -> None:
    answer = route.fetch().json()
    route.fulfill(json={**answer, "devices": devices})
