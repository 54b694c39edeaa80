"""All runs as a contact sheet: live tiles, what can be done with a run, what is kept over a reload."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.views import OVERFLOWING, PANEL, SEEDS, nameless, part, start_run, wait_shown
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.browser

SHEET = f"{PANEL} .ss-sheet"
TILE = f"{SHEET} .ss-shot"


def open_sheet(panel: PanelPage) -> None:
    panel.open_panel()
    if not panel.page.evaluate("() => sidestream.watching.sheet"):
        part(panel, "[aria-label^='Show all runs']").click()
    panel.page.locator(SHEET).wait_for()


def deliver_run(panel: PanelPage, name: str, steps: int = 4, *, over: bool = True) -> None:
    """A made-up run of a prompt of its own."""
    deliver(panel, steps, run=name, prompt=f"p{name}", total=steps)
    if over:
        end_run(panel, run=name, prompt=f"p{name}")


def tile(panel: PanelPage, number: int) -> Locator:
    return panel.page.locator(TILE).nth(number)


def runs(panel: PanelPage) -> list[str]:
    found: list[str] = panel.page.evaluate("() => sidestream.store.runs.map(({ id }) => id)")
    return found


def wait_drawn(panel: PanelPage, count: int) -> None:
    drawn = "count => [...document.querySelectorAll('.ss-shot canvas')].filter((c) => c.width > 1).length === count"
    panel.wait(drawn, argument=count)
