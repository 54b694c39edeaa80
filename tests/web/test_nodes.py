"""Real runs in every kind of page: the live picture, the settings, the node on the canvas."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import NEWEST_KINDS, on_all_kinds, on_the_oldest_and_the_newest
from sidestream.tests.web.views import (
    LONG,
    PANEL,
    SEEDS,
    VIEWER,
    finish,
    part,
    shown_step,
    start_run,
    wait_over,
    wait_until_the_frame_is_shown,
)
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser


# 1: the live picture


@on_all_kinds
def test_a_real_run_is_shown_large_and_live(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    expect(part(panel, ".ss-empty")).to_contain_text("No preview yet")
    start_run(panel, steps=LONG, seconds=0.12)
    panel.wait_frames(6)
    expect(page.locator("html.sidestream-streams")).to_have_count(1)
    expect(page.locator(f"{PANEL} .ss-live-button.ss-on-air")).to_have_count(1)
    last = finish(panel)
    assert shown_step(panel) == last
    panel.wait("label => document.querySelector('.ss-viewer').ariaLabel.endsWith(label)", argument=f"{last} / {LONG}")
    wait_until_the_frame_is_shown(panel)
    box = page.locator(f"{VIEWER} .ss-canvas").first.bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(box["height"], abs=1.0)
    assert box["width"] > 250
    expect(page.locator("html.sidestream-streams")).to_have_count(0)


# 5: settings


@on_the_oldest_and_the_newest
def test_settings_are_in_the_dialog_and_go_with_each_prompt(panel: PanelPage) -> None:
    page = panel.page
    page.evaluate("() => sidestream.settings.set('quality', 61)")
    panel.load(demo_prompt(seed=next(SEEDS), preview=None, steps=2))
    with page.expect_request("**/prompt") as posted:
        panel.queue()
    sent = posted.value.post_data_json["extra_data"]
    assert sent["sidestream"]["quality"] == 61
    fields = page.evaluate("() => Object.keys(sidestream.settings.fields)")
    assert set(sent["sidestream"]) == {*fields, "accepts", "user"}
    assert "extra_pnginfo" in sent  # what the page sends is still there
    panel.wait_idle()
    panel.command("Comfy.ShowSettingsDialog")
    page.get_by_text("SideStream", exact=True).last.click()
    page.get_by_text("Shortest interval (ms)").first.wait_for()
    assert page.get_by_text("Frames to keep").count() >= 1
    page.keyboard.press("Escape")
    page.get_by_text("Shortest interval (ms)").first.wait_for(state="hidden")


@on_the_oldest_and_the_newest
def test_previews_switched_off_in_the_settings_do_not_come(panel: PanelPage) -> None:
    panel.page.evaluate("() => sidestream.settings.set('method', 'off')")
    panel.load(demo_prompt(seed=next(SEEDS), preview=None, steps=5, seconds=0.05))
    panel.page.evaluate("() => app.api.addEventListener('execution_success', () => (globalThis.over = true))")
    panel.queue()
    panel.wait("() => globalThis.over")
    assert panel.page.evaluate("() => sidestream.store.frameCount") == 0


# 6: the node

NODE = "app.graph._nodes.find(node => node.type === 'SideStreamPreview')"


@on_all_kinds
def test_the_node_shows_its_samplers_and_folds_its_settings(panel: PanelPage) -> None:
    page = panel.page
    start_run(panel, seconds=0.06, samplers=2)
    caption = page.locator(".ss-node-caption").first
    caption.wait_for()
    panel.wait(
        "() => /^KSampler [AB] · [0-9]+ . 20 · .+ . s$/.test("
        "document.querySelector('.ss-node-caption')?.textContent)"
    )
    panel.wait("() => document.querySelector('.ss-node canvas').width === 512")
    panel.wait_idle()
    order = page.evaluate(f"() => {NODE}.widgets.map(widget => widget.name)")
    assert order[:2] == ["throttle_ms", "every_n_steps"]
    folded = page.evaluate(f"() => {NODE}.widgets.filter(w => w.advanced || w.options?.advanced).map(w => w.name)")
    assert {"method", "max_size", "budget", "format", "quality"} <= set(folded)
    more = page.locator(".ss-node-more").first
    if not page.evaluate("() => Boolean(LiteGraph.vueNodesMode)"):
        for expanded in ("true", "false"):
            more.click()
            expect(more).to_have_attribute("aria-expanded", expanded)
    api = page.evaluate("async () => (await app.graphToPrompt()).output")
    node = next(node for node in api.values() if node["class_type"] == "SideStreamPreview")
    assert "sidestream_thumbnail" not in node["inputs"]


@pytest.mark.kinds(*NEWEST_KINDS)
def test_the_node_is_whole_after_nodes_2_were_switched_on_or_off(panel: PanelPage) -> None:
    page = panel.page
    at_first = page.evaluate("() => Boolean(LiteGraph.vueNodesMode)")
    panel.load(demo_prompt(seed=next(SEEDS)))
    folded = f"() => {NODE}.widgets.filter(w => w.advanced).map(w => w.computeSize?.(100)?.[1] ?? null)"
    try:
        for is_on in (at_first, not at_first, at_first):
            page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", is_on)
            panel.wait("on => Boolean(LiteGraph.vueNodesMode) === on", argument=is_on)
            more = page.locator(".ss-node-more").first
            panel.wait("on => document.querySelector('.ss-node-more')?.hidden === on", argument=is_on)
            assert set(page.evaluate(folded)) == ({None} if is_on else {-4})
            if not is_on:
                more.click()
                expect(more).to_have_attribute("aria-expanded", "true")
                more.click()
    finally:
        page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", at_first)


@on_the_oldest_and_the_newest
def test_a_sampler_elsewhere_leaves_the_node_alone(panel: PanelPage) -> None:
    page = panel.page
    prompt = demo_prompt(seed=next(SEEDS) * 10, samplers=2, steps=4)
    prompt["11"]["inputs"]["model"] = ["1", 0]
    # Behind a sampler that uses the node, but by its latent only.
    prompt["11"]["inputs"]["latent_image"] = ["10", 0]
    del prompt["20"]
    panel.load(prompt)
    panel.queue()
    panel.wait("() => sidestream.store.current.length === 2")
    wait_over(panel)
    page.wait_for_timeout(200)
    assert page.locator(".ss-node-caption").first.inner_text().startswith("KSampler A")
