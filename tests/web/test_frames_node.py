"""The node 'Side-Stream Frames' on the page: it says why it found no previews."""

from __future__ import annotations

import pytest
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.views import SEEDS, listen_to_toasts, wait_over
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

@on_the_oldest_and_the_newest
def test_the_page_says_why_there_are_no_frames(panel: PanelPage) -> None:
    prompt = demo_prompt(steps=3, seed=next(SEEDS) * 10)
    panel.load(prompt)
    panel.queue()
    wait_over(panel)
    prompt["30"] = {"class_type": "SideStreamFrames", "inputs": {"latent": ["10", 0]}}
    prompt["31"] = {"class_type": "PreviewImage", "inputs": {"images": ["30", 1]}}
    panel.load(prompt)
    listen_to_toasts(panel)
    panel.queue()
    panel.wait("() => toasts.length === 1")
    (said,) = panel.page.evaluate("() => toasts")
    assert said.startswith("Side-Stream Frames found no previews of this sampling")
    assert "Change the seed" in said
