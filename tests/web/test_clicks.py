"""Clicks on pictures that change under the pointer."""

from __future__ import annotations

import pytest
from PIL import Image
from sidestream.tests.web.animations import send_still
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import end_run, tell_progress
from sidestream.tests.web.views import VIEWER, fit_view, wait_shown
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = [pytest.mark.browser, on_the_oldest_and_the_newest]

CENTRE = """
() => {
  const node = app.graph._nodes.find(({ type }) => type === "KSampler");
  const [x, y] = app.canvasPosToClientPos([node.pos[0] + node.size[0] / 2, node.pos[1] + node.size[1] * 0.9]);
  return [x, y];
}
"""
SAMPLER = "() => String(app.graph._nodes.find(({ type }) => type === 'KSampler').id)"


def test_clicks_while_frames_come_hit_nothing_wrong(panel: PanelPage) -> None:
    """On the node's picture and on the panel's, between one frame and the next."""
    panel.load(demo_prompt(preview=None))
    page, node = panel.page, panel.page.evaluate(SAMPLER)
    panel.open_panel()
    fit_view(panel)
    tell_progress(panel, node=node, prompt="p")
    nodes = page.evaluate("() => app.graph._nodes.length")
    for step in range(1, 21):
        picture = Image.new("RGB", (64, 64), (step * 12, 80, 40))
        send_still(panel, picture, step=step, prompt="p", node=node, run="r")
        if step % 2:
            page.locator(VIEWER).click(position={"x": 40, "y": 40})
        else:
            page.mouse.click(*page.evaluate(CENTRE))
    wait_shown(panel, 20)
    assert page.evaluate("() => sidestream.watching.isLive")
    assert page.evaluate("() => app.graph._nodes.length") == nodes
    end_run(panel, run="r", node=node, prompt="p")


def test_the_nodes_thumbnail_is_no_field_of_the_properties_panel(panel: PanelPage) -> None:
    panel.load(demo_prompt())
    told = panel.page.evaluate(
        """() => {
          const node = app.graph._nodes.find(({ type }) => type === "SideStreamPreview");
          const widget = node.widgets.find(({ name }) => name === "sidestream_thumbnail");
          return [widget.label, widget.options?.hideInPanel ?? widget.hideInPanel];
        }"""
    )
    assert told[0] not in ("", "sidestream_thumbnail")
    assert told[1]
