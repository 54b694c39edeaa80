"""The button that copies the server's report."""

from __future__ import annotations

import pytest
from sidestream.tests.web.views import PANEL
from sidestream.tools.page import PanelPage

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
    panel.open_panel()
    if not secure:
        page.evaluate(TAKE_AWAY)
    try:
        page.locator(BUTTON).click()
        panel.wait(COPIED)
    finally:
        page.evaluate(GIVE_BACK)
    assert "in charge: SideStream" in page.evaluate("() => kept.readText()")
    page.get_by_text("The report is on the clipboard.").first.wait_for()
    assert page.locator("body > textarea[readonly]").count() == 0


@pytest.mark.browser
def test_a_server_that_does_not_answer_is_told(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    page.route("**/sidestream/report", lambda route: route.abort())
    page.locator(BUTTON).click()
    page.get_by_text("there is no report").first.wait_for()
    page.unroute("**/sidestream/report")
