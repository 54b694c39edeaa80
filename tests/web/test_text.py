"""What comes from outside is text on the page, never markup."""

from __future__ import annotations

import re

import pytest
from sidestream.tests.conftest import REPO
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.views import PANEL, wait_shown
from sidestream.tools.page import PanelPage

MARKUP = '<img src="data:," onerror="globalThis.hurt = true"><b class="hurt">bold</b>'


@pytest.mark.browser
def test_names_of_nodes_are_shown_as_text(panel: PanelPage) -> None:
    panel.open_panel()
    for run in ("one", "two"):  # with two samplers their names are on the buttons, too
        deliver(panel, 3, run=run, node=f"{run} {MARKUP}")
        wait_shown(panel, 3)
        end_run(panel, run=run, node=f"{run} {MARKUP}")
    chips = panel.page.locator(f"{PANEL} .ss-samplers .ss-chip")
    assert MARKUP in chips.first.inner_text()
    panel.page.locator(f"{PANEL} .ss-tabs >> text=All").click()
    panel.page.locator(f"{PANEL} .ss-tile").nth(1).wait_for()
    assert panel.page.evaluate("() => globalThis.hurt ?? document.querySelectorAll('.hurt').length") == 0


def test_nothing_in_the_page_turns_text_into_markup_or_code() -> None:
    turning = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment"
        r"|DOMParser|srcdoc|\beval\(|new Function\("
    )
    files = [*(REPO / "web").rglob("*.js")]
    assert files
    assert [file.name for file in files if turning.search(file.read_text("utf-8"))] == []
