"""What people do with the graph while it runs, and graphs that are not the usual ones."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.web.animations import moving_bar, send_animation, send_still, webp
from sidestream.tests.web.conftest import (
    OLDEST,
    on_the_oldest_and_the_newest,
)
from sidestream.tests.web.streams import end_run, tell_progress
from sidestream.tests.web.views import LONG, PANEL, SEEDS, finish, fit_view, part
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

SAMPLER = "app.graph._nodes.find((node) => node.type === 'KSampler')"
# The address of the picture that the sampler's node shows.
ADDRESS = f"""
() => LiteGraph.vueNodesMode
  ? document.querySelector(`[data-node-id="${{{SAMPLER}.id}}"] img`)?.src ?? ""
  : {SAMPLER}.imgs?.[0]?.src ?? ""
"""
CHANGED = f"(before) => {{ const now = ({ADDRESS})(); return now !== '' && now !== before; }}"
CAPTIONS = "() => [...document.querySelectorAll('.ss-node-caption')].map((one) => one.textContent)"
AWAY = """
(isAway) => {
  globalThis.offset ??= app.canvas.ds.offset[0];
  app.canvas.ds.offset[0] = offset + (isAway ? 6000 : 0);
  if (!isAway) delete globalThis.offset;
  app.canvas.setDirty(true, true);
}
"""


def load(panel: PanelPage, prompt: dict[str, Any]) -> None:
    panel.load(prompt)
    fit_view(panel)


def wait_pictures_go_on(panel: PanelPage) -> None:
    for _ in range(2):
        panel.wait(CHANGED, argument=panel.page.evaluate(ADDRESS))


def wait_step(panel: PanelPage, step: int) -> None:
    panel.wait("(step) => sidestream.watching.frame?.step === step", 30, step)


@on_the_oldest_and_the_newest
def test_previews_go_on_after_a_change_in_mid_run_is_undone(panel: PanelPage) -> None:
    page = panel.page
    load(panel, demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.08))
    panel.queue()
    panel.wait_frames(3)
    wait_pictures_go_on(panel)
    page.evaluate(
        f"""() => {{
          const {{ changeTracker }} = app.extensionManager.workflow.activeWorkflow;
          globalThis.before = {SAMPLER};
          changeTracker.checkState();
          before.pos = [before.pos[0] + 10, before.pos[1] + 10];
          changeTracker.checkState();
        }}"""
    )
    page.locator("canvas#graph-canvas").focus()
    page.keyboard.press("Control+z")
    panel.wait(f"() => {SAMPLER} && {SAMPLER} !== before")
    wait_pictures_go_on(panel)
    seen = page.evaluate(CAPTIONS)
    panel.wait(f"(seen) => !({CAPTIONS})().includes(seen)", argument=seen[0])
    last = finish(panel)
    wait_step(panel, last)
    said = f"KSampler A · {last} / {LONG}"
    panel.wait(f"(said) => ({CAPTIONS})().some((one) => one.startsWith(said))", argument=said)


@on_the_oldest_and_the_newest
def test_a_sampler_that_was_out_of_view_shows_the_newest_again(panel: PanelPage) -> None:
    load(panel, demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.08))
    panel.queue()
    panel.wait_frames(3)
    wait_pictures_go_on(panel)
    panel.page.evaluate(AWAY, True)
    count = panel.page.evaluate("() => sidestream.store.frameCount")
    panel.wait_frames(count + 8)
    panel.page.evaluate(AWAY, False)
    wait_pictures_go_on(panel)
    wait_step(panel, finish(panel))


@pytest.mark.kinds(f"{OLDEST} classic")  # Nodes 2.0 play animations themselves
def test_an_animation_that_came_out_of_view_plays_when_it_is_seen(panel: PanelPage) -> None:
    page = panel.page
    load(panel, demo_prompt(preview=None))
    node = page.evaluate(f"() => String({SAMPLER}.id)")
    page.evaluate(AWAY, True)
    panel.wait("() => app.canvas.visible_nodes.length === 0")
    tell_progress(panel, node=node, prompt="aw")
    send_animation(panel, moving_bar(6), step=3, node=node, prompt="aw", run="aw")
    for _ in range(150):  # longer than the page is waited for
        page.evaluate("() => new Promise(requestAnimationFrame)")
    page.evaluate(AWAY, False)
    panel.wait(f"() => {SAMPLER}.animatedImages && {SAMPLER}.imgs?.[0]?.isConnected")
    end_run(panel, node=node, prompt="aw", run="aw")


@on_the_oldest_and_the_newest
def test_two_preview_nodes_show_the_samplers_of_their_branches(panel: PanelPage) -> None:
    prompt = demo_prompt(seed=next(SEEDS) * 10, steps=4, samplers=2)
    prompt["3"] = {"class_type": "SideStreamPreview", "inputs": {"model": ["1", 0]}}
    prompt["11"]["inputs"]["model"] = ["3", 0]
    load(panel, prompt)
    panel.queue()
    panel.wait(
        f"""() => {{
          const [a, b] = ({CAPTIONS})().sort();
          return a?.startsWith('KSampler A · 4 / 4') && b?.startsWith('KSampler B · 4 / 4');
        }}""",
        30,
    )


@on_the_oldest_and_the_newest
def test_of_two_preview_nodes_in_a_row_the_nearest_shows_the_sampler(panel: PanelPage) -> None:
    prompt = demo_prompt(seed=next(SEEDS) * 10, steps=4)
    prompt["3"] = {"class_type": "SideStreamPreview", "inputs": {"model": ["2", 0]}}
    prompt["10"]["inputs"]["model"] = ["3", 0]
    load(panel, prompt)
    panel.queue()
    panel.wait("() => sidestream.store.runs.some((run) => run.closed && run.frames.at(-1)?.step === 4)", 30)
    panel.wait(f"() => ({CAPTIONS})().some((one) => one.startsWith('KSampler A · 4 / 4'))")
    captions = panel.page.evaluate(CAPTIONS)
    assert sum("KSampler" in caption for caption in captions) == 1
    assert len(captions) == 2


@on_the_oldest_and_the_newest
def test_the_panel_and_comfyui_count_one_step_alike(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    page.evaluate(
        """() => {
          globalThis.progressed = [];
          app.api.addEventListener("progress", ({ detail: { value, max } }) => progressed.push([value, max]));
        }"""
    )
    load(panel, demo_prompt(seed=next(SEEDS) * 10, steps=1, seconds=0.2))
    panel.queue()
    panel.wait("() => sidestream.store.runs.some((run) => run.closed && run.frames.length)", 20)
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent === '1 / 1'")
    assert page.evaluate("() => progressed") == [[1, 1]]
    run = page.evaluate("() => { const { step, totalSteps } = sidestream.watching.run; return [step, totalSteps]; }")
    assert run == [1, 1]
    assert page.evaluate("() => sidestream.store.frameCount") == 1
    expect(part(panel, ".ss-stat-step dd")).to_have_text("1 / 1")
    expect(page.locator(PANEL)).to_have_count(1)


# As a sampler with a prompt on it would look: which node it is does not matter to the page.
ADD_TEXT = """
() => {
  const node = LiteGraph.createNode("CLIPTextEncode");
  node.pos = [900, 400];
  app.graph.add(node);
  node.widgets[0].value = "one\\ntwo";
  return String(node.id);
}
"""
SHOWN_ON = """
(id) => {
  app.canvas.setDirty(true, true);
  if (LiteGraph.vueNodesMode) return document.querySelector(`[data-node-id="${id}"] img`)?.src ?? "";
  return app.graph.getNodeById(Number(id)).imgs?.[0]?.src ?? "";
}
"""


@on_the_oldest_and_the_newest  # 1.32.9 with Nodes 2.0 draws no preview on such a node
def test_a_node_with_a_text_keeps_it_and_its_size_while_previews_come(panel: PanelPage) -> None:
    page = panel.page
    load(panel, demo_prompt(preview=None))
    node = page.evaluate(ADD_TEXT)
    fit_view(panel)
    tell_progress(panel, node=node, prompt="sz")
    sizes = []
    for step in range(1, 7):
        before = page.evaluate(SHOWN_ON, node)
        picture = Image.new("RGB", (512, 512), (40 * step, 90, 160))
        send_still(panel, picture, step=step, node=node, prompt="sz", run="sz")
        panel.wait(
            f"({{ id, before }}) => {{ const now = ({SHOWN_ON})(id); return now !== '' && now !== before; }}",
            30,
            {"id": node, "before": before},
        )
        page.evaluate("() => new Promise(requestAnimationFrame)")
        sizes.append(page.evaluate("(id) => [...app.graph.getNodeById(Number(id)).size].map(Math.round)", node))
    end_run(panel, node=node, prompt="sz", run="sz")
    assert sizes[1:] == [sizes[1]] * 5
    assert page.evaluate("(id) => app.graph.getNodeById(Number(id)).widgets[0].value", node) == "one\ntwo"


RATE = """
async () => {
  const end = performance.now() + 1000;
  let frames = 0;
  while (performance.now() < end) { await new Promise(requestAnimationFrame); frames += 1; }
  return frames;
}
"""


@on_the_oldest_and_the_newest
def test_the_canvas_keeps_its_rate_during_and_after_animations(panel: PanelPage) -> None:
    page = panel.page
    load(panel, demo_prompt(preview=None))
    node = page.evaluate(f"() => String({SAMPLER}.id)")
    tell_progress(panel, node=node, prompt="rt")
    before = page.evaluate(RATE)
    frames = moving_bar(8, (256, 192))
    file = webp(frames, 100)
    during = 0
    for step in range(1, 20, 2):  # until a second in which nothing else keeps the machine busy
        begin = f"() => {{ globalThis.rate = null; void ({RATE})().then((rate) => {{ globalThis.rate = rate; }}); }}"
        page.evaluate(begin)
        for one in (step, step + 1):
            send_animation(panel, frames, step=one, node=node, prompt="rt", run="rt", file=file)
        panel.wait("() => rate !== null")
        during = page.evaluate("() => rate")
        if during > before / 4:
            break
    end_run(panel, node=node, prompt="rt", run="rt")
    page.evaluate(
        """() => {
          globalThis.ask = requestAnimationFrame;
          globalThis.asked = 0;
          globalThis.requestAnimationFrame = (act) => {
            if (new Error().stack.includes("SideStream")) asked += 1;
            return ask.call(window, act);
          };
        }"""
    )
    panel.wait("async () => { asked = 0; await new Promise((done) => setTimeout(done, 300)); return asked === 0; }")
    panel.wait(f"async (before) => (globalThis.rate = await ({RATE})()) > before / 2", argument=before)
    after = page.evaluate("() => rate")
    asked = page.evaluate("() => { globalThis.requestAnimationFrame = ask; return asked; }")
    print(f"\nframes in a second: {before} before, {during} during, {after} after")
    assert asked == 0
    assert during > before / 4
