"""What a test sees of the panel."""

from __future__ import annotations

import itertools
from typing import Any

from sidestream.tools.page import PanelPage, demo_prompt

PANEL = ".side-bar-panel .sidestream"
STAGE = f"{PANEL} .ss-stage"

SEEDS = itertools.count(1000)

STAGE_IS_THE_FRAME = """
async () => {
  const pixels = (source) => {
    const canvas = new OffscreenCanvas(source.width, source.height);
    const context = canvas.getContext("2d");
    context.drawImage(source, 0, 0);
    return context.getImageData(0, 0, source.width, source.height).data;
  };
  const frame = sidestream.watching.frame;
  const expected = pixels(await createImageBitmap(frame.blob));
  const actual = pixels(document.querySelector(".ss-canvas"));
  return actual.length === expected.length && actual.every((v, i) => v === expected[i]);
}
"""


def start_run(panel: PanelPage, **prompt: Any) -> None:
    """Queue the demo graph with a seed that the server has not cached."""
    panel.load(demo_prompt(seed=next(SEEDS) * 10, **prompt))
    panel.queue()


def text(panel: PanelPage, selector: str) -> str:
    return panel.page.locator(f"{PANEL} {selector}").first.inner_text()


def shown_step(panel: PanelPage) -> int:
    return int(panel.page.evaluate("() => sidestream.watching.frame?.step ?? 0"))


def wait_shown(panel: PanelPage, step: int) -> None:
    """Wait until the large picture has been drawn for that step."""
    label = f"{step} / 20"
    panel.wait("label => document.querySelector('.ss-stage').ariaLabel.endsWith(label)", 10, label)


def wait_until_stage_is_the_frame(panel: PanelPage) -> None:
    """Wait until the canvas holds the very pixels of the frame that the panel says it shows."""
    for _ in range(40):
        if panel.page.evaluate(STAGE_IS_THE_FRAME):
            return
        panel.page.wait_for_timeout(50)
    raise AssertionError("the canvas shows other pixels than those of the frame")
