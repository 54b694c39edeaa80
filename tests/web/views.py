"""What a test sees of the panel."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import expect
from sidestream.tests.web.streams import deliver
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from playwright.sync_api import Download, Locator

PANEL = ".side-bar-panel .sidestream"
VIEWER = f"{PANEL} .ss-viewer"

SEEDS = itertools.count(1000)

SHOWS_THE_FRAME = """
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


LISTEN_TO_TOASTS = """
() => {
  const { toast } = app.extensionManager;
  globalThis.toasts = [];
  globalThis.addToast ??= toast.add;
  toast.add = (message) => (toasts.push(message.detail), addToast.call(toast, message));
}
"""

FITTED = """
() => {
  const now = app.canvas.ds.offset.join();
  const isStill = globalThis.offsetBefore === now;
  globalThis.offsetBefore = now;
  return isStill && app.canvas.visible_nodes.length > 0;
}
"""
# What sticks out of a panel of so many pixels.
OVERFLOWING = """
(width) => {
  const panel = document.querySelector(".side-bar-panel .sidestream");
  panel.style.cssText = `width: ${width ?? 320}px; max-width: ${width ?? 320}px`;
  const room = panel.getBoundingClientRect().right + 0.5;
  const parts = [...panel.querySelectorAll("*")].filter((e) => !e.closest(".ss-viewer, .ss-menu-list, svg"));
  const left = panel.getBoundingClientRect().left - 0.5;
  const isOut = ({ left: from, right: to }) => to > room || from < left;
  const out = parts.filter((e) => e.checkVisibility() && isOut(e.getBoundingClientRect()));
  panel.style.cssText = "";
  return out.map((e) => e.outerHTML.slice(0, 120));
}
"""
# What can be reached in a panel and has no name.
NAMELESS = """
all => all.filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
          .map((e) => e.outerHTML)
"""


def nameless(panel: PanelPage) -> list[str]:
    controls = panel.page.locator(f"{PANEL} :is(button, input, select, [tabindex]):visible")
    found: list[str] = controls.evaluate_all(NAMELESS)
    return found


def start_run(panel: PanelPage, **prompt: Any) -> None:
    """Queue the demo graph with a seed that the server has not cached."""
    panel.load(demo_prompt(seed=next(SEEDS) * 10, **prompt))
    panel.queue()


def settled(prompt: dict[str, Any]) -> dict[str, Any]:
    """The demo graph, each of whose steps waits for its frame: none replaces another.

    However busy the machine is. With the helper `probe` in the server.
    """
    inputs = {"model": ["2", 0], "name": "settled", "decoder_seconds": 0.0, "settles": True}
    prompt["3"] = {"class_type": "ProbeSampling", "inputs": inputs}
    prompt["10"]["inputs"]["model"] = ["3", 0]
    return prompt


LONG = 4000
"""Steps of a run that goes on however long a busy machine takes: its test ends it."""


def fit_view(panel: PanelPage) -> None:
    """Let the page show all nodes; returns once it has moved there."""
    panel.page.evaluate("() => { delete globalThis.offsetBefore; }")
    panel.command("Comfy.Canvas.FitView")
    panel.page.wait_for_function(FITTED, polling=400)


def wait_over(panel: PanelPage, seconds: float = 30.0) -> None:
    """Wait until the newest run is over and its last frame has come, which may take longer."""
    panel.wait("() => (({ closed, frames }) => closed && frames.length > 0)(sidestream.store.runs.at(-1))", seconds)


def finish(panel: PanelPage) -> int:
    """Finish the newest run early; returns its last step, whose frame has come."""
    panel.wait("() => sidestream.store.runs.at(-1).canFinish")
    panel.command("SideStream.FinishHere")
    wait_over(panel)
    return int(panel.page.evaluate("() => sidestream.store.runs.at(-1).finishedAt"))


def confirm(first: Locator, second: Locator) -> None:
    """Press a button that asks, and once more within the 3 s that it does."""
    while True:
        if not second.is_visible():
            first.click()
        with suppress(PlaywrightTimeoutError):  # it asks no longer
            return second.click(timeout=2000)


def listen_to_toasts(panel: PanelPage) -> None:
    """Keep what the page says in its corner, which is gone after some seconds."""
    panel.page.evaluate(LISTEN_TO_TOASTS)


def wait_toast(panel: PanelPage, text: str) -> None:
    """Wait until that was said since `listen_to_toasts`."""
    panel.wait("(text) => toasts.some((one) => one.includes(text))", argument=text)


def part(panel: PanelPage, selector: str) -> Locator:
    return panel.page.locator(f"{PANEL} {selector}").first


def open_details(panel: PanelPage) -> None:
    details = panel.page.locator(f"{PANEL} .ss-details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()


def show_two_samplers(panel: PanelPage) -> None:
    """Let some frames of two arrive at an open panel; returns once it shows all there is to see of them."""
    deliver(panel, 4)
    deliver(panel, 4, run="other", node="11")
    wait_shown(panel, 4)
    expect(panel.page.locator(f"{PANEL} .ss-samplers .ss-chip")).to_have_count(2)


def shown_step(panel: PanelPage) -> int:
    return int(panel.page.evaluate("() => sidestream.watching.frame?.step ?? 0"))


def wait_shown(panel: PanelPage, step: int) -> None:
    """Wait until the large picture has been drawn for that step."""
    label = f"{step} / 20"
    panel.wait("label => document.querySelector('.ss-viewer').ariaLabel.endsWith(label)", argument=label)


def wait_until_the_frame_is_shown(panel: PanelPage) -> None:
    """Wait until the canvas holds the very pixels of the frame that the panel says it shows."""
    panel.wait(SHOWS_THE_FRAME)


def measured(panel: PanelPage) -> dict[str, float]:
    """The browser's own numbers about the page, after its garbage was collected."""
    session = panel.page.context.new_cdp_session(panel.page)
    session.send("Performance.enable")
    for _ in range(2):
        session.send("HeapProfiler.collectGarbage")
        panel.page.wait_for_timeout(150)
    metrics = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return {metric["name"]: metric["value"] for metric in metrics}


def heap(panel: PanelPage) -> float:
    """What the page's objects take, in MB."""
    return measured(panel)["JSHeapUsedSize"] / 2**20


def saved(panel: PanelPage, entry: str, ending: str = "") -> bytes:
    """The file that an entry of the save menu makes."""
    page = panel.page
    with page.expect_download() as download:
        page.locator(f"{PANEL} .ss-menu-button").click()
        page.locator(f"{PANEL} [data-save={entry}]").click()
    done: Download = download.value
    assert done.suggested_filename.endswith(ending or entry)
    return done.path().read_bytes()
