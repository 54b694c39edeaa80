"""The picture on a sampler's own node: what the page puts there of the pack's previews, and what not."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from sidestream.tests.web.animations import moving_bar, send_animation, send_still
from sidestream.tests.web.conftest import ALL_KINDS
from sidestream.tests.web.streams import end_run, tell, tell_progress, tell_success
from sidestream.tests.web.views import LONG, SEEDS
from sidestream.tools.page import PanelPage, demo_prompt

# 1.32.9 with Nodes 2.0 draws no preview on a sampler's node, with or without the pack.
DRAWING_KINDS = [kind for kind in ALL_KINDS if kind != "1.32.9 vue"]

pytestmark = [pytest.mark.browser, pytest.mark.kinds(*DRAWING_KINDS)]

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)
SAMPLER = "String(app.graph._nodes.find((node) => node.type === 'KSampler').id)"

# Whether the middle of the picture that a node shows has that colour. It is drawn, not fetched: a server
# without API nodes, as the tests' is, forbids its page to fetch blobs.
SHOWS = """
({ path, colour }) => {
  let graph = app.rootGraph ?? app.graph, node;
  for (const id of path.split(":")) { node = graph.getNodeById(Number(id)); graph = node?.subgraph; }
  if (!node) return false;
  app.canvas.setDirty(true, true);
  const inPage = document.querySelector(`[data-node-id="${node.id}"] img`);
  const picture = LiteGraph.vueNodesMode ? inPage : node.imgs?.[0];
  if (!picture?.src || !picture.complete || !picture.naturalWidth) return false;
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.drawImage(picture, picture.naturalWidth / 2, picture.naturalHeight / 2, 1, 1, 0, 0, 1, 1);
  const pixel = context.getImageData(0, 0, 1, 1).data;
  return colour.every((value, i) => Math.abs(value - pixel[i]) < 12);
}
"""


def flat(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (64, 64), colour)


def wait_node_shows(panel: PanelPage, colour: tuple[int, int, int], node: str) -> None:
    panel.wait(SHOWS, argument={"path": node, "colour": colour})


def settle(panel: PanelPage) -> None:
    """Let the page do what it puts off: it forgets old previews after 400 ms."""
    panel.page.wait_for_timeout(600)


def still(panel: PanelPage, colour: tuple[int, int, int], *, step: int, prompt: str, node: str) -> None:
    send_still(panel, flat(colour), step=step, prompt=prompt, node=node, run=f"run of {prompt}")


def load(panel: PanelPage) -> str:
    """A graph with a sampler; returns its execution id."""
    panel.page.evaluate("() => app.canvas.setGraph(app.rootGraph ?? app.graph)")  # out of the test before's subgraph
    panel.load(demo_prompt(preview=None))
    found: str = panel.page.evaluate(f"() => {SAMPLER}")
    panel.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    return found


def load_in_subgraph(panel: PanelPage) -> tuple[str, str]:
    """The same with the sampler in a subgraph; returns its execution id, and that of the subgraph's node."""
    load(panel)
    path: str = panel.page.evaluate(
        """() => {
          const inside = app.graph._nodes.filter((node) => node.type === "KSampler");
          const { node } = app.graph.convertToSubgraph(new Set(inside));
          return `${node.id}:${node.subgraph._nodes.find((one) => one.type === "KSampler").id}`;
        }"""
    )
    return path, path.split(":")[0]


def begin(panel: PanelPage, prompt: str, node: str) -> None:
    tell(panel, "execution_start", prompt_id=prompt)
    tell_progress(panel, node=node, prompt=prompt)
    # 1.58.1 reads it in its next animation frame, and soon puts away what came until then.
    panel.page.evaluate("() => new Promise((read) => requestAnimationFrame(() => requestAnimationFrame(read)))")


def serve_green_output(panel: PanelPage) -> None:
    file = io.BytesIO()
    flat(GREEN).save(file, "PNG")
    panel.page.route("**/view?*", lambda route: route.fulfill(body=file.getvalue(), content_type="image/png"))


def give_output(panel: PanelPage, prompt: str, node: str) -> None:
    images = [{"filename": "green.png", "subfolder": "", "type": "output"}]
    tell(panel, "executed", node=node, display_node=node, prompt_id=prompt, output={"images": images})


def test_a_late_frame_is_shown_in_the_panel_and_stays_on_a_node_without_output(panel: PanelPage) -> None:
    node = load(panel)
    begin(panel, "l1", node)
    still(panel, RED, step=19, prompt="l1", node=node)
    wait_node_shows(panel, RED, node)
    tell_progress(panel, node=node, prompt="l1", state="finished")
    tell_success(panel, prompt="l1")
    still(panel, BLUE, step=20, prompt="l1", node=node)
    wait_node_shows(panel, BLUE, node)
    settle(panel)
    wait_node_shows(panel, BLUE, node)
    assert panel.page.evaluate("() => sidestream.watching.frame.step") == 20
    assert not panel.page.evaluate("() => sidestream.store.live")
    # As ComfyUI's own last preview it goes when the node is at work again.
    begin(panel, "l2", node)
    panel.wait("(node) => !app.nodePreviewImages[node]?.length", argument=node)


def test_the_only_frame_of_a_run_may_come_when_its_prompt_is_over(panel: PanelPage) -> None:
    node = load(panel)
    begin(panel, "on", node)
    told = {"run": "run of on", "node_id": node, "display_node_id": node, "prompt_id": "on"}
    tell(panel, "sidestream.run", **told, state="start", total_steps=1, settings={"quality": 61})
    tell_success(panel, prompt="on")
    still(panel, BLUE, step=1, prompt="on", node=node)
    wait_node_shows(panel, BLUE, node)
    shown = panel.page.evaluate(
        "() => { const { run, frame } = sidestream.watching; return [run.live, run.settings.quality, frame.step]; }"
    )
    assert shown == [False, 61, 1]
    end_run(panel, run="run of on", node=node, prompt="on")
    assert panel.page.evaluate("() => sidestream.store.runs.length") == 1


def test_a_prompt_may_end_just_before_its_last_frame(panel: PanelPage) -> None:
    node = load(panel)
    begin(panel, "bt", node)
    still(panel, RED, step=19, prompt="bt", node=node)
    tell_success(panel, prompt="bt")
    still(panel, BLUE, step=20, prompt="bt", node=node)
    wait_node_shows(panel, BLUE, node)
    runs = panel.page.evaluate(
        "() => sidestream.store.runs.map(({ id, live, step, foreign }) => [id, live, step, foreign])"
    )
    assert runs == [["run of bt", False, 20, False]]
    # One that is told of late is over, too.
    still(panel, RED, step=1, prompt="bt", node="777")
    assert not panel.page.evaluate("() => sidestream.store.live")


def test_a_late_frame_does_not_paint_over_the_nodes_own_output(panel: PanelPage) -> None:
    serve_green_output(panel)
    node = load(panel)
    begin(panel, "o1", node)
    still(panel, RED, step=19, prompt="o1", node=node)
    wait_node_shows(panel, RED, node)
    give_output(panel, "o1", node)
    wait_node_shows(panel, GREEN, node)
    still(panel, BLUE, step=20, prompt="o1", node=node)
    tell_success(panel, prompt="o1")
    settle(panel)
    wait_node_shows(panel, GREEN, node)
    assert panel.page.evaluate("() => sidestream.watching.frame.step") == 20
    # The next run previews there again.
    begin(panel, "o2", node)
    still(panel, RED, step=1, prompt="o2", node=node)
    wait_node_shows(panel, RED, node)
    panel.page.unroute("**/view?*")


def test_a_late_frame_of_an_older_prompt_does_not_come_between_those_of_a_newer_one(panel: PanelPage) -> None:
    node = load(panel)
    begin(panel, "old", node)
    still(panel, RED, step=19, prompt="old", node=node)
    tell_success(panel, prompt="old")
    begin(panel, "new", node)
    still(panel, GREEN, step=1, prompt="new", node=node)
    wait_node_shows(panel, GREEN, node)
    still(panel, BLUE, step=20, prompt="old", node=node)
    settle(panel)
    assert panel.page.evaluate(SHOWS, {"path": node, "colour": GREEN})
    assert panel.page.evaluate("() => sidestream.watching.run.promptId") == "new"
    tell_success(panel, prompt="new")


def test_in_a_subgraph_a_late_frame_is_shown_outside_and_inside(panel: PanelPage) -> None:
    page = panel.page
    path, outer = load_in_subgraph(panel)
    begin(panel, "dp", path)
    still(panel, RED, step=19, prompt="dp", node=path)
    wait_node_shows(panel, RED, outer)
    tell_progress(panel, node=path, prompt="dp", state="finished")
    tell_success(panel, prompt="dp")
    still(panel, BLUE, step=20, prompt="dp", node=path)
    wait_node_shows(panel, BLUE, outer)
    box = page.evaluate(
        "(id) => { const { size } = app.graph.getNodeById(Number(id)); return size[0] / size[1]; }", outer
    )
    assert 0.2 < box < 3
    page.evaluate(
        """(id) => {
          const node = app.graph.getNodeById(Number(id));
          app.canvas.openSubgraph ? app.canvas.openSubgraph(node.subgraph, node) : app.canvas.setGraph(node.subgraph);
        }""",
        outer,
    )
    wait_node_shows(panel, BLUE, path)


def test_an_animation_makes_a_subgraphs_node_no_higher_than_a_still_does(panel: PanelPage) -> None:
    path, outer = load_in_subgraph(panel)
    size = f"() => [...app.graph.getNodeById({outer}).size].map(Math.round)"
    begin(panel, "sa", path)
    still(panel, RED, step=1, prompt="sa", node=path)
    wait_node_shows(panel, RED, outer)
    settle(panel)
    before = panel.page.evaluate(size)
    frames = [flat(BLUE), flat(GREEN)]
    send_animation(panel, frames, step=2, prompt="sa", node=path, run="run of sa", duration=2000)
    wait_node_shows(panel, BLUE, outer)
    settle(panel)
    assert panel.page.evaluate(size) == before
    tell_success(panel, prompt="sa")


def test_a_run_is_not_painted_onto_another_workflows_node_with_the_same_id(panel: PanelPage) -> None:
    page = panel.page
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.08))
    panel.queue()
    panel.wait_frames(2)
    node = page.evaluate(f"() => {SAMPLER}")
    page.evaluate(
        """async () => {
          globalThis.first = app.extensionManager.workflow.activeWorkflow;
          await app.extensionManager.command.execute("Comfy.NewBlankWorkflow");
        }"""
    )
    page.evaluate("(prompt) => app.loadApiJson(prompt, 'the other one')", demo_prompt())
    assert page.evaluate(f"() => {SAMPLER}") == node
    count = page.evaluate("() => sidestream.store.frameCount")
    panel.wait_frames(count + 4)
    assert page.evaluate("(node) => app.nodePreviewImages[node]?.length ?? 0", node) == 0
    assert page.evaluate("() => document.querySelector('.ss-node:not(.ss-node-idle)')") is None
    # Back, it goes on there.
    page.evaluate("() => app.loadGraphData(first.activeState, true, true, first)")  # as its tab does
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    panel.wait("(node) => app.nodePreviewImages[node]?.length > 0", argument=node)
    panel.wait("() => document.querySelector('.ss-node:not(.ss-node-idle)')")


def test_clearing_a_preview_while_the_page_reads_it_raises_nothing(panel: PanelPage) -> None:
    node = load(panel)
    begin(panel, "cl", node)
    still(panel, RED, step=1, prompt="cl", node=node)
    wait_node_shows(panel, RED, node)
    panel.page.evaluate(
        """(id) => app.api.addEventListener("b_preview", () => {
          const node = app.graph.getNodeById(Number(id));
          node.imgs = node.preview = undefined;
          node.widgets = node.widgets.filter((widget) => !widget.name.startsWith("$$"));
          app.nodePreviewImages = {};
        }, { once: true })""",
        node,
    )
    send_animation(panel, moving_bar(4), step=2, node=node, prompt="cl", run="run of cl")
    settle(panel)  # an error would fail the test in the end
    end_run(panel, run="run of cl", node=node, prompt="cl")


def test_listeners_of_other_packs_hear_of_every_preview(panel: PanelPage) -> None:
    node = load(panel)
    panel.page.evaluate(
        """() => {
          globalThis.heard = [];
          app.api.addEventListener("b_preview_with_metadata", ({ detail }) => heard.push(detail.blob.type));
        }"""
    )
    still(panel, RED, step=1, prompt="hr", node=node)
    send_animation(panel, moving_bar(4), step=1, node=node, prompt="hr", run="run of hr")
    still(panel, GREEN, step=2, prompt="hr", node=node)
    still(panel, BLUE, step=3, prompt="hr", node=node)
    assert panel.page.evaluate("() => heard") == ["image/jpeg", "image/webp", "image/jpeg", "image/jpeg"]
    end_run(panel, run="run of hr", node=node, prompt="hr")
