"""Presets and words: in the panel's live settings, and in ComfyUI's settings dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect
from sidestream.preview.settings import FIELDS, PRESETS, Choice
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.test_live_settings import interrupt, settings, stored, type_into
from sidestream.tests.web.views import LONG, PANEL, start_run
from sidestream.tools.page import PanelPage

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.browser

DIALOG = "[role=dialog]"


def preset(panel: PanelPage, place: str = PANEL) -> Locator:
    return panel.page.locator(f"{place} select[name=preset]")


def open_dialog(panel: PanelPage) -> None:
    panel.command("Comfy.ShowSettingsDialog")
    panel.page.get_by_text("SideStream", exact=True).last.click()


def wait_stored(panel: PanelPage, **values: Any) -> None:
    for name, value in values.items():
        panel.wait("([name, value]) => sidestream.settings.get(name) === value", argument=[name, value])


def test_a_preset_sets_its_values_and_values_by_hand_are_ones_own(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    expect(preset(panel)).to_have_value("balanced")
    expect(preset(panel).locator("option[value=own]")).to_be_disabled()
    preset(panel).select_option(label="Light")
    wait_stored(panel, **PRESETS["light"])
    assert stored(panel, "throttle_ms") == 500
    expect(page.locator(f"{PANEL} input[name=budget]")).to_have_value("2")
    expect(preset(panel).locator("xpath=following-sibling::p")).to_contain_text("small or busy")
    type_into(panel, "throttle_ms", 333)
    expect(preset(panel)).to_have_value("own")
    wait_stored(panel, throttle_ms=333)
    preset(panel).select_option(label="Every step")
    wait_stored(panel, **PRESETS["every_step"])
    expect(page.locator(f"{PANEL} [data-setting=budget] .ss-unit")).to_have_text("no limit")
    preset(panel).select_option(label="Own")
    wait_stored(panel, throttle_ms=333, budget=2)
    expect(preset(panel)).to_have_value("own")


def test_while_a_run_goes_on_a_preset_holds_for_it(panel: PanelPage) -> None:
    panel.open_panel()
    start_run(panel, steps=LONG, seconds=0.05)
    panel.wait_frames(3)
    expect(preset(panel)).to_have_value("every_step")  # the node's values
    with panel.page.expect_response("**/sidestream/live") as answered:
        preset(panel).select_option(label="Light")
    told = answered.value.request.post_data_json
    assert {name: told.get(name) for name in PRESETS["light"]} == {
        "throttle_ms": 500, "every_n_steps": None, "budget": 2,
    }  # fmt: skip
    panel.wait("() => sidestream.watching.run.settings.budget === 2")
    assert settings(panel)["throttle_ms"] == 500
    assert stored(panel, "throttle_ms") == 100
    panel.page.locator(f"{PANEL} .ss-changed-bar >> text=Reset").click()
    expect(preset(panel)).to_have_value("every_step")
    interrupt(panel)


@on_the_oldest_and_the_newest
def test_the_panel_has_words_for_values(panel: PanelPage) -> None:
    panel.open_panel()
    for name, field in FIELDS.items():
        if isinstance(field, Choice):
            options = panel.page.locator(f"{PANEL} select[name={name}] option").all_text_contents()
            assert options[: len(field.names)] == [*field.names.values()]
    budget = panel.page.locator(f"{PANEL} [data-setting=budget] .ss-control-name")
    assert budget.inner_text() == FIELDS["budget"].label
    assert budget.locator("span").last.evaluate("e => e.scrollWidth <= e.clientWidth + 1")


@on_the_oldest_and_the_newest
def test_the_dialog_chooses_presets_too_and_has_words(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    open_dialog(panel)
    preset(panel, DIALOG).wait_for()
    expect(page.locator(DIALOG).get_by_text("At most this share of the GPU (%)").first).to_be_visible()
    expect(page.locator(DIALOG).get_by_text("follow ComfyUI").first).to_be_visible()
    preset(panel, DIALOG).select_option(label="Light")
    wait_stored(panel, **PRESETS["light"])
    # By the page's own input for it.
    panel.wait("() => [...document.querySelectorAll('[role=dialog] input')].some((e) => e.value === '500')")
    page.evaluate("() => app.extensionManager.setting.set('SideStream.budget', 7)")
    expect(preset(panel, DIALOG)).to_have_value("own")
    expect(preset(panel)).to_have_value("own")
    page.keyboard.press("Escape")
    page.locator(DIALOG).first.wait_for(state="hidden")
    open_dialog(panel)
    expect(preset(panel, DIALOG)).to_have_value("own")
    page.keyboard.press("Escape")
    page.locator(DIALOG).first.wait_for(state="hidden")
