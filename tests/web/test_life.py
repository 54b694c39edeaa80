"""What happens to the page in its life: lost connections, reloads, other tabs and workflows, long
runs. And what the panel may cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.web.animations import send_still
from sidestream.tests.web.conftest import on_all_kinds, on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.views import (
    LONG,
    SEEDS,
    finish,
    heap,
    measured,
    shown_step,
    start_run,
    wait_over,
)
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .conftest import Opened

pytestmark = pytest.mark.browser

# 9: robust


# A pack may stand between the page and its socket, and hand on the listeners in its own way.
WRAPPED_SOCKET = """() => {
  const Original = globalThis.WebSocket;
  globalThis.WebSocket = class extends Original {
    addEventListener(type, hear, options) { super.addEventListener(type, (event) => hear(event), options); }
  };
}"""


@on_the_oldest_and_the_newest
def test_frames_go_on_after_a_lost_connection(panel: PanelPage) -> None:
    panel.open_panel()
    panel.page.evaluate(WRAPPED_SOCKET)
    start_run(panel, steps=2000, seconds=0.05)  # it goes on however long the page takes
    panel.wait_frames(3)
    panel.page.evaluate("() => app.api.socket.close()")
    before = panel.page.evaluate("() => sidestream.store.frameCount")
    panel.wait_frames(before + 8)
    panel.page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()
    # One run, each frame with its own label: none taken for another previewer's.
    runs = "() => sidestream.store.runs.map(({ foreign, frames }) => [foreign, frames.every((one) => one.label)])"
    assert panel.page.evaluate(runs) == [[False, True]]


def test_a_run_that_ended_while_the_connection_was_lost_is_over(panel: PanelPage) -> None:
    deliver(panel, 3, prompt="gone")
    assert panel.page.evaluate("() => sidestream.store.live")
    panel.page.evaluate("() => app.api.socket.close()")
    panel.wait("() => !sidestream.store.live")


@on_the_oldest_and_the_newest
def test_reloading_the_page_in_mid_run_finds_the_run_again(panel: PanelPage) -> None:
    start_run(panel, steps=2000, seconds=0.05)  # it goes on however long the page takes
    panel.wait_frames(3)
    before = shown_step(panel)
    elapsed = "() => { const { store } = sidestream; return store.clock() - store.runs[0].begunAt; }"
    known_for = panel.page.evaluate(elapsed)
    panel.page.reload()
    panel.wait_until_ready()
    panel.open_panel()
    panel.wait_frames(3)
    panel.wait(f"() => ({elapsed})() > {known_for}")
    assert panel.page.evaluate("() => sidestream.store.runs[0].begunAt < 0")  # before the page was
    panel.wait("() => sidestream.watching.run.title === 'KSampler A'")
    assert before < shown_step(panel) < 2000
    panel.page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()


def test_another_tab_is_left_alone(panel: PanelPage) -> None:
    page = panel.page.context.new_page()
    other = PanelPage(page, panel.url)
    page.goto(panel.url)
    other.wait_until_ready()
    start_run(panel, steps=10)
    wait_over(panel)
    assert page.evaluate("() => sidestream.store.frameCount") == 0
    page.close()


@on_the_oldest_and_the_newest
def test_switching_workflows_and_deleting_nodes_in_mid_run_does_no_harm(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    start_run(panel, steps=LONG, seconds=0.04)
    panel.wait_frames(3)
    page.evaluate(
        """() => {
          for (const type of ["SideStreamPreview", "KSampler"]) {
            app.graph.remove(app.graph._nodes.find((node) => node.type === type));
          }
        }"""
    )
    count = page.evaluate("() => sidestream.store.frameCount")
    panel.wait_frames(count + 3)
    panel.load(demo_prompt(preview=None))
    count = page.evaluate("() => sidestream.store.frameCount")
    panel.wait_frames(count + 3)
    assert page.evaluate("() => sidestream.watching.run.title") == "KSampler A"
    finish(panel)


@on_all_kinds
def test_samplers_in_subgraphs_have_names_and_thumbnails(panel: PanelPage) -> None:
    page = panel.page
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.08))
    page.evaluate(
        """() => {
          const inside = app.graph._nodes.filter((n) => /SideStreamPreview|KSampler/.test(n.type));
          const { node } = app.graph.convertToSubgraph(new Set(inside));
          app.canvas.openSubgraph ? app.canvas.openSubgraph(node.subgraph, node)
                                  : app.canvas.setGraph(node.subgraph);
        }"""
    )
    panel.queue()
    panel.wait_frames(4)
    run = page.evaluate("() => { const { nodeId, title } = sidestream.watching.run; return { nodeId, title }; }")
    assert ":" in run["nodeId"]
    assert run["title"] == "KSampler A"
    panel.wait("() => document.querySelector('.ss-node-caption')?.textContent.startsWith('KSampler A')")
    finish(panel)


@on_the_oldest_and_the_newest
def test_opening_and_closing_leaves_nothing_behind(panel: PanelPage) -> None:
    def open_and_close(times: int) -> None:
        for _ in range(times):
            panel.open_panel()
            panel.page.wait_for_timeout(30)
            panel.close_panel()

    deliver(panel, 3)
    open_and_close(5)
    before = measured(panel)
    open_and_close(12)
    after = measured(panel)
    # A panel left behind would be some 370 nodes and 80 listeners, twelve times. The browser's
    # counter keeps a few listeners whose objects are gone.
    assert after["Nodes"] - before["Nodes"] < 150
    assert after["JSEventListeners"] - before["JSEventListeners"] < 12 * 20
    assert panel.page.evaluate("() => ownObjectURLs.size") == 0


# What it may cost


def test_two_thousand_frames_leave_memory_bounded(
    panel: PanelPage, record_property: Callable[[str, object], None]
) -> None:
    page = panel.page
    page.evaluate("() => sidestream.settings.set('keep_megabytes', 8)")
    panel.open_panel()
    deliver(panel, 300, side=512, total=2300, noise=True)
    before = heap(panel)
    deliver(panel, 2000, side=512, total=2300, first=301, noise=True)
    after = heap(panel)
    kept, size = page.evaluate("() => [sidestream.store.frameCount, sidestream.store.bytes]")
    addresses = page.evaluate("() => ownObjectURLs.size")
    record_property("heap_mb", {"before": round(before, 1), "after": round(after, 1)})
    print(f"\nheap {before:.1f} -> {after:.1f} MB over 2000 frames; {kept} kept, {size / 2**20:.1f} MB")
    assert shown_step(panel) == 2300
    assert kept <= 600
    assert size <= 8 * 2**20
    assert after - before < 12
    assert addresses == 0
    page.evaluate("() => sidestream.settings.set('keep_megabytes', 128)")


def test_thumbnails_are_within_the_memory_for_frames_and_go_with_them(panel: PanelPage) -> None:
    page = panel.page
    page.evaluate("() => sidestream.settings.set('keep_megabytes', 8)")
    page.evaluate(
        """() => {
          const make = globalThis.createImageBitmap;
          globalThis.thumbnails = [];
          globalThis.createImageBitmap = async (source, options) => {
            const made = await make(source, options);
            if (options?.resizeHeight) thumbnails.push(made);
            return made;
          };
          globalThis.endCounting = () => { globalThis.createImageBitmap = make; };
          globalThis.alive = () => thumbnails.reduce((sum, one) => sum + one.width * one.height * 4, 0);
        }"""
    )
    panel.open_panel()
    wide = Image.new("RGB", (2048, 32), (40, 90, 160))
    for step in range(1, 13):
        send_still(panel, wide, step=step)
        panel.wait("(count) => thumbnails.length >= count", argument=step)
    end_run(panel)
    # Each takes 0.4 MB, and a quarter of 8 MB is theirs.
    assert 2**20 < page.evaluate("() => alive()") <= 2 * 2**20
    assert page.evaluate("() => sidestream.store.frameCount") == 12
    page.evaluate("() => sidestream.store.clear()")
    panel.wait("() => alive() === 0")
    page.evaluate("() => { endCounting(); return sidestream.settings.set('keep_megabytes', 128); }")


def test_a_frame_is_drawn_soon_after_its_arrival_beside_100_nodes(panel: PanelPage) -> None:
    page = panel.page
    prompt = demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.1)
    filler = {
        str(100 + i): {"class_type": "LatentUpscale", "inputs": {
            "samples": ["1", 2], "upscale_method": "area", "width": 64, "height": 64, "crop": "disabled",
        }}
        for i in range(97)
    }  # fmt: skip
    panel.load({**prompt, **filler})
    assert page.evaluate("() => app.graph._nodes.length") >= 100
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    panel.open_panel()
    delays = watch_delays(page, panel)
    assert statistics.median(delays) <= 4  # 67 ms at 60 a second


def watch_delays(page: Page, panel: PanelPage) -> list[int]:
    """From the arrival of each frame to its picture on the canvas, in pictures that the browser drew of
    the page meanwhile."""
    page.evaluate(
        """() => {
          globalThis.delays = [];
          const arrivals = new Map();
          let pictures = 0;
          const count = () => { pictures += 1; globalThis.delays && requestAnimationFrame(count); };
          count();
          app.api.addEventListener("b_preview_with_metadata", ({ detail }) => {
            arrivals.set(detail.sidestream.seq, pictures);
          });
          document.addEventListener("sidestream-drawn", ({ detail }) => {
            globalThis.delays?.push(pictures - arrivals.get(detail.seq));
          });
        }"""
    )
    panel.queue()
    panel.wait("() => delays.length >= 30", 60)
    found: list[int] = page.evaluate("() => { const found = delays; delete globalThis.delays; return found; }")
    return found


# 5 and 8: what is stored for the user


@on_the_oldest_and_the_newest
def test_the_page_loads_the_demo_speaks_its_users_language_and_survives_bad_settings(
    opened: Opened, open_kind: Callable[..., Opened]
) -> None:
    stored = {"Comfy.Locale": "ja", "SideStream.throttle_ms": "soon", "SideStream.quality": 400}
    one = open_kind(opened.kind, stored, "/?sidestream-demo=1")
    panel = one.panel
    # The address of `dev.py demo`: the demo graph is on the canvas, for this once.
    panel.wait("() => app.graph._nodes.some((node) => node.type === 'SideStreamDemoModel')")
    assert panel.page.evaluate("() => location.search") == ""
    panel.open_panel()
    expect(panel.page.locator(".side-bar-panel .sidestream")).to_have_attribute("aria-label", "ライブプレビュー")
    expect(panel.page.locator(".ss-control[data-setting=budget] .ss-control-name")).to_have_text("GPU 時間の上限")
    expect(panel.page.locator("[data-setting=every_n_steps] .ss-unit")).to_have_text("ステップ")
    panel.load(demo_prompt(seed=next(SEEDS), steps=1, preview=None))
    with panel.page.expect_request("**/prompt") as posted:
        panel.queue()
    sent = posted.value.post_data_json["extra_data"]["sidestream"]
    assert (sent["throttle_ms"], sent["quality"]) == (100, 85)
    panel.wait_idle()
    panel.page.wait_for_timeout(300)
    warnings = [problem for problem in one.problems if "The stored value" in problem]
    assert len(warnings) == 2  # one for each, though they were read many times
    assert one.problems == warnings
    panel.page.context.close()
