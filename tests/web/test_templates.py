"""What ComfyUI's page itself shows of the pack: help pages in its panel, the templates' graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from sidestream.tests.conftest import REPO
from sidestream.tests.web.conftest import OLDEST, Opened, on_the_oldest_and_the_newest
from sidestream.tests.workflows import to_prompt
from sidestream.tools.page import PanelPage

FILES = sorted((REPO / "example_workflows").glob("*.json"))

SELECT_NEW = """
(type) => {
  app.graph.clear();
  const node = LiteGraph.createNode(type);
  node.pos = [0, 0];
  app.graph.add(node);
  app.canvas.ds.offset = [500, 250];
  app.canvas.selectNode(node);
  app.canvas.setDirty(true, true);
}
"""
PICTURES_ARE_THERE = """
() => {
  const pictures = [...document.querySelectorAll(".node-help-content img")];
  return pictures.length > 0 && pictures.every((picture) => picture.naturalWidth > 100);
}
"""
CLIPPED = "all => all.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent)"
PROMPT = """
async (workflow) => {
  await app.loadGraphData(workflow);
  return (await app.graphToPrompt()).output;
}
"""


@pytest.mark.browser
@on_the_oldest_and_the_newest
@pytest.mark.parametrize(
    ("node", "title", "word"),
    [
        ("SideStreamPreview", "Side-Stream Preview", "throttle_ms"),
        ("SideStreamDemoModel", "Demo Model (no download)", "picture_set"),
    ],
)
def test_a_nodes_info_button_shows_its_help_page(
    panel: PanelPage, node: str, title: str, word: str
) -> None:
    page = panel.page
    page.evaluate(SELECT_NEW, node)
    page.get_by_test_id("info-button").click()
    page.locator(".node-help-content h1", has_text=title).wait_for()
    panel.wait(PICTURES_ARE_THERE)
    expect(page.locator(".node-help-content li code", has_text=word)).to_have_count(1)


@pytest.mark.browser
@on_the_oldest_and_the_newest
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_template_opens_as_it_is_meant(panel: PanelPage, file: Path) -> None:
    """Widget values are saved by position: the page's own prompt shows where each one ended up."""
    workflow = json.loads(file.read_text("utf-8"))
    opened: dict[str, Any] = panel.page.evaluate(PROMPT, workflow)
    info = panel.page.evaluate("async () => (await app.api.fetchApi('/object_info')).json()")
    expected = to_prompt(workflow, lambda kind: info[kind]["input"])
    assert set(opened) == set(expected)
    for number, node in expected.items():
        assert opened[number]["class_type"] == node["class_type"]
        # What a saved list does not reach, the page fills with defaults.
        there = {name: opened[number]["inputs"].get(name) for name in node["inputs"]}
        assert there == node["inputs"]
    # What the node says while it waits is there in full.
    assert panel.page.locator(".ss-node-caption").evaluate_all(CLIPPED) == []
    panel.page.keyboard.press("Escape")  # it may tell which models are missing


@pytest.mark.browser
@pytest.mark.kinds(f"{OLDEST} classic")
def test_the_page_offers_the_decoder_among_the_missing_models(
    opened: Opened, open_kind: Callable[..., Opened]
) -> None:
    """Newer pages offer only what a widget names, and call it required; there the note has it."""
    panel = open_kind(opened.kind, {"Comfy.Workflow.ShowMissingModelsWarning": True}).panel
    workflow = json.loads((FILES[0].parent / "sidestream_text_to_image.json").read_text("utf-8"))
    panel.page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
    (model,) = workflow["models"]
    dialog = panel.page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"{model['directory']} / {model['name']}")
    row = dialog.locator("li, .p-listbox-option", has_text=model["name"])
    expect(row.get_by_role("button", name="Download")).to_be_enabled()
