"""The 'Side-Stream Preview' node sets only what is changed on it, and a change computes nothing anew."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import on_all_kinds, on_the_oldest_and_the_newest
from sidestream.tests.web.views import LONG, SEEDS, start_run
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

NODE = "app.graph._nodes.find((node) => node.type === 'SideStreamPreview')"
INHERITED = "as in my settings"

# Between the demo model and its sampler, as if dropped there.
DROP = """
() => {
  const find = (type) => app.graph._nodes.find((node) => node.type === type);
  const node = LiteGraph.createNode("SideStreamPreview");
  app.graph.add(node);
  find("SideStreamDemoModel").connect(0, node, 0);
  node.connect(0, find("KSampler"), 0);
}
"""
SET = """
({ name, value }) => {
  const widget = app.graph._nodes.find((node) => node.type === "SideStreamPreview")
    .widgets.find((one) => one.name === name);
  widget.value = value;
  widget.callback?.(value);
  return widget.value;
}
"""
FIX_SEED = """
() => {
  const { widgets } = app.graph._nodes.find((node) => node.type === "KSampler");
  widgets.find((widget) => widget.name === "control_after_generate").value = "fixed";
}
"""
LISTEN = """
() => {
  if (globalThis.told) return;
  globalThis.told = [];
  for (const name of ["execution_cached", "executing", "sidestream.run", "execution_success"]) {
    app.api.addEventListener(name, ({ detail }) => told.push([name, detail]));
  }
}
"""


def set_field(panel: PanelPage, name: str, value: object) -> object:
    return panel.page.evaluate(SET, {"name": name, "value": value})


def run(panel: PanelPage) -> tuple[dict[str, Any], list[Any]]:
    """Queue the graph; what was posted, and what the server told until the prompt's end."""
    panel.page.evaluate("() => { told.length = 0; }")
    with panel.page.expect_request("**/prompt") as posted:
        panel.queue()
    panel.wait("() => told.some(([name]) => name === 'execution_success')")
    panel.wait_idle()
    return posted.value.post_data_json, panel.page.evaluate("() => told")


def own_inputs(posted: dict[str, Any]) -> tuple[str, set[str]]:
    """The preview node's execution id, and which inputs it has in the prompt."""
    [found] = [
        (key, set(node["inputs"]))
        for key, node in posted["prompt"].items()
        if node["class_type"] == "SideStreamPreview"
    ]
    return found


def settings_of(told: list[Any]) -> dict[str, Any]:
    [start] = [data for name, data in told if name == "sidestream.run" and data["state"] == "start"]
    settings: dict[str, Any] = start["settings"]
    return settings


@on_all_kinds
def test_a_node_that_was_only_dropped_sets_nothing_and_says_so(panel: PanelPage) -> None:
    page = panel.page
    page.evaluate("() => sidestream.settings.set('quality', 61)")
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=2, seconds=0.01, preview=None))
    page.evaluate(DROP)
    page.evaluate(LISTEN)
    posted, told = run(panel)
    assert own_inputs(posted)[1] == {"model"}
    settings = settings_of(told)
    assert settings == page.evaluate("() => sidestream.settings.values()")
    assert settings["quality"] == 61
    words = page.evaluate(f"() => {NODE}.widgets.slice(0, 14).map((widget) => widget._displayValue)")
    assert words == [INHERITED] * 14
    if page.evaluate("() => Boolean(LiteGraph.vueNodesMode)"):
        shown = "(node) => getComputedStyle(node, '::after').content"
        field = page.locator("[data-node-id]:has(.ss-node) :has(> input[aria-valuenow='-1'])").first
        assert field.evaluate(shown) == f'"{INHERITED}"'


@on_all_kinds
def test_a_field_that_is_changed_is_set_and_nothing_lies_between(panel: PanelPage) -> None:
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=2, seconds=0.01, preview=None))
    panel.page.evaluate(DROP)
    panel.page.evaluate(LISTEN)
    assert set_field(panel, "quality", 0) == 1  # one step up from 'as in my settings'
    assert set_field(panel, "quality", 0) == -1
    set_field(panel, "quality", 33)
    set_field(panel, "method", "latent2rgb")
    settings = settings_of(run(panel)[1])
    assert (settings["quality"], settings["method"], settings["throttle_ms"]) == (33, "latent2rgb", 100)


@on_the_oldest_and_the_newest
def test_a_workflow_that_was_saved_with_values_keeps_them(panel: PanelPage) -> None:
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=2, seconds=0.01, preview=None))
    panel.page.evaluate(DROP)
    old = [7, 3, "latent2rgb", 128, 9, "webp", 70, "full", "cpu", 16, 8, "grid", 4]
    panel.page.evaluate(
        """async (values) => {
          const saved = app.graph.serialize();
          const node = saved.nodes.find((one) => one.type === "SideStreamPreview");
          node.widgets_values = values;
          await app.loadGraphData(saved);
        }""",
        old,
    )
    panel.page.evaluate(LISTEN)
    assert list(settings_of(run(panel)[1]).values()) == [*old, "off"]  # there was no step 0 then
    assert panel.page.evaluate(f"() => {NODE}.widgets.map((widget) => widget.value)")[:14] == [*old, INHERITED]


@on_the_oldest_and_the_newest
def test_i13_another_throttle_on_the_node_computes_nothing_anew(panel: PanelPage) -> None:
    page = panel.page
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=2, seconds=0.01, throttle_ms=50))
    page.evaluate(FIX_SEED)
    page.evaluate(LISTEN)
    posted, told = run(panel)
    node, inputs = own_inputs(posted)
    assert inputs == {"model"}
    assert posted["extra_data"]["sidestream"]["nodes"][node]["throttle_ms"] == 50
    assert settings_of(told)["throttle_ms"] == 50
    set_field(panel, "throttle_ms", 900)
    posted, told = run(panel)
    assert posted["extra_data"]["sidestream"]["nodes"][node]["throttle_ms"] == 900
    [cached] = [data["nodes"] for name, data in told if name == "execution_cached"]
    assert set(cached) >= set(posted["prompt"])
    assert not [data for name, data in told if name == "executing" and data]
    # An exported API prompt has them.
    exported = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert exported[node]["inputs"]["throttle_ms"] == 900


@on_all_kinds
def test_values_reach_a_sampler_in_a_subgraph(panel: PanelPage) -> None:
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=2, seconds=0.01, quality=44))
    panel.page.evaluate(
        """() => {
          const inside = app.graph._nodes.filter((n) => /SideStreamPreview|KSampler/.test(n.type));
          app.graph.convertToSubgraph(new Set(inside));
        }"""
    )
    panel.page.evaluate(LISTEN)
    posted, told = run(panel)
    node, inputs = own_inputs(posted)
    assert ":" in node
    assert inputs == {"model"}
    assert settings_of(told)["quality"] == 44


OTHER_PACKS = {
    "one that forwards two arguments": """
      const fetchApi = app.api.fetchApi;
      app.api.fetchApi = (route, options) => fetchApi(route, options);
    """,
    "one that adds data of its own": """
      const fetchApi = app.api.fetchApi;
      app.api.fetchApi = function (route, options) {
        if (route !== "/prompt") return fetchApi.call(this, route, options);
        const body = JSON.parse(options.body);
        body.extra_data.other = 5;
        body.extra_data.sidestream = { quality: 22 };
        return fetchApi.call(this, route, { ...options, body: JSON.stringify(body) });
      };
    """,
    "one that queues with two arguments": """
      const queuePrompt = app.api.queuePrompt;
      app.api.queuePrompt = function (number, data) { return queuePrompt.call(this, number, data); };
    """,
}


@on_the_oldest_and_the_newest
@pytest.mark.parametrize("other", OTHER_PACKS)
def test_packs_that_wrap_the_queueing_lose_nothing_and_make_us_lose_nothing(
    panel: PanelPage, other: str
) -> None:
    page = panel.page
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=2, seconds=0.01, throttle_ms=50))
    page.evaluate(LISTEN)
    page.evaluate(f"() => {{ globalThis.before = {{ ...app.api }}; {OTHER_PACKS[other]} }}")
    posted, told = run(panel)
    page.evaluate(
        """() => {
          for (const name of ["fetchApi", "queuePrompt"]) {
            if (name in before) app.api[name] = before[name];
            else delete app.api[name];
          }
        }"""
    )
    assert settings_of(told)["throttle_ms"] == 50
    if "own" in other:
        assert posted["extra_data"]["other"] == 5
        assert settings_of(told)["quality"] == 85  # the node's, which wins over the client's
        assert posted["extra_data"]["sidestream"]["quality"] == 22



@on_all_kinds
def test_a_bypassed_node_says_that_it_sets_nothing(panel: PanelPage) -> None:
    page = panel.page
    caption = page.locator(".ss-node-caption").first
    for _ in range(2):  # some pages keep the elements of an earlier node of the same id
        panel.load(demo_prompt())
        caption.wait_for()
    idle = "Shows previews of the samplers it feeds"
    for mode, said in ((4, "Bypassed: no effect"), (0, idle), (2, "Bypassed: no effect"), (0, idle)):
        page.evaluate(
            f"""(mode) => {{
              {NODE}.mode = mode;
              app.extensionManager.workflow.activeWorkflow.changeTracker.checkState();
            }}""",
            mode,
        )
        expect(caption).to_have_text(said)
    # Also while a run goes on that still has its settings.
    start_run(panel, steps=LONG, seconds=0.03)
    panel.wait("() => document.querySelector('.ss-node-caption').textContent.startsWith('KSampler')")
    page.evaluate(
        f"() => {{ {NODE}.mode = 4; app.extensionManager.workflow.activeWorkflow.changeTracker.checkState(); }}"
    )
    panel.wait("() => document.querySelector('.ss-node-caption').textContent.startsWith('Bypassed')")
    panel.wait_frames(int(page.evaluate("() => sidestream.store.frameCount")) + 4)
    expect(caption).to_have_text("Bypassed: no effect")
    page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()
