"""The panel, the node and the settings speak each language that ComfyUI's page offers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import ALL_KINDS, Opened, on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.test_curves import labels
from sidestream.tests.web.test_locales import LANGUAGES, RIGHT_TO_LEFT, texts
from sidestream.tests.web.test_templates import SELECT_NEW
from sidestream.tests.web.views import OVERFLOWING, PANEL, SEEDS, part, wait_over, wait_shown
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

OFFERED = "() => app.extensionManager.setting.settings['Comfy.Locale'].options.map((option) => option.value)"
SPEAK = "language => app.extensionManager.setting.set('Comfy.Locale', language)"

# All that is to be read in a panel, and all names and tooltips.
WORDS = """
(panel) => [panel, ...panel.querySelectorAll("*")].flatMap((e) => [
  e.title ?? "", e.ariaLabel ?? "", ...[...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data),
]).filter(Boolean)
"""

IN_WINDOW = "documentPictureInPicture.window?.document"

# Where words of a text are drawn.
BOXES = """
({ firstChild: text }, words) => words.map((word) => {
  const range = document.createRange();
  const start = text.data.indexOf(word);
  range.setStart(text, start);
  range.setEnd(text, start + word.length);
  return range.getBoundingClientRect().toJSON();
})
"""

ARE_BESIDE_EACH_OTHER = """
(panel, selectors) => {
  panel.style.width = "220px";
  const tops = selectors.map((selector) => panel.querySelector(selector).getBoundingClientRect().top);
  panel.style.width = "";
  return tops[0] === tops[1];
}
"""

NOT_YET_OFFERED = {"de"}
"""The newest page has all of its texts in this language, and does not let it be chosen."""


@pytest.fixture
def page_in_english_again(panel: PanelPage) -> Iterator[PanelPage]:
    yield panel
    panel.page.evaluate(SPEAK, "en")


def test_the_pack_has_every_language_that_the_page_offers(panel: PanelPage) -> None:
    offered = set(panel.page.evaluate(OFFERED))
    assert offered == {"en", *LANGUAGES} - NOT_YET_OFFERED


@pytest.mark.parametrize("language", [each for each in LANGUAGES if each not in NOT_YET_OFFERED])
def test_the_panel_the_node_and_the_settings_speak_it(
    page_in_english_again: PanelPage, language: str
) -> None:
    panel = page_in_english_again
    page = panel.page
    page.evaluate(SPEAK, language)
    said, of_nodes, of_settings = (texts(language, name) for name in ("main", "nodeDefs", "settings"))

    panel.load(demo_prompt())
    panel.open_panel()
    shown = page.locator(PANEL)
    direction = "rtl" if language in RIGHT_TO_LEFT else "ltr"
    for element in (shown, page.locator(".ss-node").first):
        expect(element).to_have_attribute("lang", language)
        expect(element).to_have_attribute("dir", direction)
    expect(shown).to_have_attribute("aria-label", said["sideStream.panel.title"])
    expect(part(panel, ".ss-empty")).to_have_text(said["sideStream.viewer.empty"])
    expect(part(panel, ".ss-control[data-setting=budget] .ss-control-name")).to_have_text(
        of_nodes["SideStreamPreview.inputs.budget.name"]
    )
    expect(page.locator(".ss-node-caption").first).to_have_text(said["sideStream.node.idle"])

    deliver(panel, 4)
    deliver(panel, 4, run="other", node="11")
    step = said["sideStream.stats.stepOf"]
    for name, value in (("<step>", "4"), ("<total>", "20")):
        step = step.replace(name, isolated(value, direction))
    expect(part(panel, ".ss-stat-step dd")).to_have_text(step)
    for width in (320, 220):
        assert page.evaluate(OVERFLOWING, width) == []
    assert shown.evaluate(ARE_BESIDE_EACH_OTHER, [".ss-menu-button", ".ss-transport-end > button"])

    panel.command("Comfy.ShowSettingsDialog")
    page.get_by_text("SideStream", exact=True).last.click()
    page.get_by_text(of_settings["SideStream_throttle_ms.name"], exact=True).first.wait_for()
    page.get_by_text(said["settingsCategories.Previews"], exact=True).first.wait_for()
    page.keyboard.press("Escape")
    page.get_by_text(of_settings["SideStream_throttle_ms.name"], exact=True).first.wait_for(state="hidden")


@on_the_oldest_and_the_newest
def test_what_is_open_takes_another_language_at_once(page_in_english_again: PanelPage) -> None:
    panel = page_in_english_again
    page = panel.page
    panel.load(demo_prompt())
    panel.open_panel()
    deliver(panel, 8)
    deliver(panel, 4, run="other", node="11")
    end_run(panel)
    end_run(panel, run="other", node="11")
    page.evaluate("() => sidestream.watching.pin('10')")
    page.evaluate("() => sidestream.watching.scrub(2)")
    wait_shown(panel, 3)
    part(panel, "[aria-label='Open in a separate window']").click()
    panel.wait(f"() => {IN_WINDOW}?.querySelector('.ss-live-button')?.textContent === 'Live'")
    part(panel, "button:text('1:1')").click()
    part(panel, "[aria-label='Enter full screen']").click()
    panel.wait("() => document.fullscreenElement?.classList.contains('sidestream')")
    english = part(panel, "").evaluate(WORDS)

    page.evaluate(SPEAK, "fr")
    said = texts("fr", "main")
    expect(page.locator(PANEL)).to_have_attribute("lang", "fr")
    expect(part(panel, ".ss-viewer")).to_have_attribute("aria-label", re.compile(r"3 / 20$"))
    expect(part(panel, ".ss-chip[aria-pressed=true]")).to_have_text("KSampler A 8/20")
    expect(part(panel, ".ss-zoom")).to_have_text("100 %")
    part(panel, f"[aria-label='{said['sideStream.viewer.leaveFullScreen']}']").click()
    panel.wait("() => !document.fullscreenElement")
    live = f"live => {IN_WINDOW}.querySelector('.ss-live-button').textContent === live"
    panel.wait(live, argument=said["sideStream.timeline.live"])
    assert page.evaluate(f"() => {IN_WINDOW}.title") == said["sideStream.panel.title"]
    page.evaluate("() => documentPictureInPicture.window.close()")
    expect(page.locator(".ss-node-caption").first).to_have_text(said["sideStream.node.idle"])
    eye = page.locator(".side-bar-button").and_(page.get_by_label(said["sideStream.panel.tooltip"]))
    expect(eye).to_be_visible()

    # All of it is in French: a panel that is opened now says the same.
    french = part(panel, "").evaluate(WORDS)
    panel.close_panel()
    panel.open_panel()
    wait_shown(panel, 3)
    part(panel, "button:text('1:1')").click()
    assert part(panel, "").evaluate(WORDS) == french != english


@pytest.mark.kinds(ALL_KINDS[0])
@pytest.mark.parametrize("language", ["ar", "zh-TW", *NOT_YET_OFFERED])
def test_the_oldest_page_speaks_the_language_that_it_was_opened_with(
    opened: Opened, open_kind: Callable[..., Opened], language: str
) -> None:
    """It takes any. (Its own dialog loses what packs say of their settings as it loads its own texts.)"""
    panel = open_kind(opened.kind, {"Comfy.Locale": language}).panel
    panel.open_panel()
    expect(panel.page.locator(PANEL)).to_have_attribute("aria-label", texts(language, "main")["sideStream.panel.title"])
    expect(panel.page.locator(PANEL)).to_have_attribute("lang", language)
    panel.page.context.close()


def test_help_pages_from_right_to_left_run_so(opened: Opened, open_kind: Callable[..., Opened]) -> None:
    page = open_kind(opened.kind, {"Comfy.Locale": "he"}).panel.page
    page.evaluate(SELECT_NEW, "SideStreamPreview")
    page.get_by_test_id("info-button").click()
    expect(page.locator(".node-help-content h2").first).to_have_css("direction", "rtl")
    page.context.close()


def isolated_unit(value: str) -> str:
    """A number that stands before its unit from right to left, too."""
    return f"\u2066{value}\u2069" if " " in value else value


def isolated(value: str, direction: str) -> str:
    """A value within a text: from right to left it has a direction of its own."""
    return f"\u2068{value}\u2069" if direction == "rtl" else value


def test_from_right_to_left_time_and_pictures_keep_their_sides(page_in_english_again: PanelPage) -> None:
    panel = page_in_english_again
    page = panel.page
    page.evaluate(SPEAK, "fa")
    panel.open_panel()
    deliver(panel, 10, told=labels(10))
    page.evaluate("() => sidestream.watching.scrub(4)")
    part(panel, ".ss-curves summary").click()
    values = [isolated_unit(value) for value in ("7.8 %", "8.76", "200 ms")]
    expect(page.locator(f"{PANEL} .ss-curve-value:not(:empty)")).to_have_text(values)

    def left(selector: str) -> float:
        box = part(panel, selector).bounding_box()
        assert box is not None
        return box["x"]

    # What is read begins on the right …
    assert left(".ss-toolbar button:first-child") > left(".ss-toolbar button:nth-of-type(2)")
    assert left(".ss-stat-step") > left(".ss-stat-elapsed")
    assert left(".ss-control input[type=range]") > left(".ss-control input[type=number]")
    # … and time on the left, with the buttons that go back and forth in it.
    assert left("[title='فریم قبلی']") < left("[title='فریم بعدی']")
    slider = part(panel, ".ss-scrubber")
    box = slider.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] * 2.5 / 20, box["y"] + box["height"] / 2)
    panel.wait("() => sidestream.watching.frame.step === 3")
    slider.press("ArrowRight")
    panel.wait("() => sidestream.watching.frame.step === 4")
    page.evaluate("() => sidestream.watching.compare(true)")
    assert left(".ss-label-left") < left(".ss-label-right")


@pytest.mark.parametrize("language", RIGHT_TO_LEFT)
def test_from_right_to_left_a_caption_with_latin_words_and_numbers_is_read_in_order(
    page_in_english_again: PanelPage, language: str
) -> None:
    panel = page_in_english_again
    panel.page.evaluate(SPEAK, language)
    panel.open_panel()
    prompt = demo_prompt(steps=3, seed=next(SEEDS))
    prompt["10"]["inputs"]["cfg"] = 7.5
    panel.load(prompt)
    panel.queue()
    wait_over(panel)
    panel.page.evaluate("() => sidestream.watching.showSheet(true)")
    caption = part(panel, ".ss-shot-seed + span")
    expect(caption).to_contain_text("7.5")
    sampler, steps, cfg, scale = caption.evaluate(BOXES, ["euler", "3", "CFG", "7.5"])
    # Each part is further left than the one before, or on a later line …
    assert sampler["y"] < steps["y"] or steps["right"] <= sampler["left"]
    assert steps["y"] < cfg["y"] or scale["right"] <= steps["left"]
    # … but 'CFG 7.5' is one part, which runs from left to right.
    assert cfg["y"] == scale["y"]
    assert cfg["right"] <= scale["left"]
