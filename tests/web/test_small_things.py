"""What people stumbled over: menus, names of files, keys, themes, narrow panels, idle pages."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.pictures import label_of
from sidestream.tests.web.animations import moving_bar, send_animation
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run
from sidestream.tests.web.views import OVERFLOWING, PANEL, SEEDS, show_two_samplers, wait_over, wait_shown
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

MENU = f"{PANEL} .ss-menu-list"
PAUSE = """
(paused) => {
  sidestream.liveSettings.paused = paused;
  sidestream.liveSettings.dispatchEvent(new CustomEvent("change"));
}
"""


def save(panel: PanelPage, entry: str) -> tuple[str, bytes]:
    page = panel.page
    with page.expect_download() as download:
        page.locator(f"{PANEL} .ss-menu-button").click()
        page.locator(f"{PANEL} [data-save={entry}]").click()
    return download.value.suggested_filename, download.value.path().read_bytes()


# Saving


def times_of(webm: bytes) -> list[int]:
    """When the pictures of a video are shown, in milliseconds: its blocks, by cluster."""
    found: list[int] = []
    cluster, group, begins, blocks = b"\x1f\x43\xb6\x75", b"\xa0", b"\xe7", (b"\xa1", b"\xa3")
    begin, at = 0, webm.rindex(cluster)
    while at < len(webm):
        width = 9 - webm[at].bit_length()
        name = webm[at : at + width]
        at += width
        width = 9 - webm[at].bit_length()
        size = int.from_bytes(webm[at : at + width], "big") & ((1 << 7 * width) - 1)
        at += width
        if name in (cluster, group):
            continue  # what follows is within it
        if name == begins:
            begin = int.from_bytes(webm[at : at + size], "big")
        if name in blocks:
            found.append(begin + int.from_bytes(webm[at + 1 : at + 3], "big", signed=True))
        at += size
    return found


def test_the_save_menu_closes_by_a_press_elsewhere_and_is_off_with_nothing_to_save(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    button = page.locator(f"{PANEL} .ss-menu-button")
    expect(button).to_have_attribute("aria-disabled", "true")
    button.click(force=True)
    expect(page.locator(f"{MENU}:popover-open")).to_have_count(0)
    deliver(panel, 2)
    wait_shown(panel, 2)
    for elsewhere in (f"{PANEL} .ss-control", "canvas#graph-canvas"):
        button.click()
        expect(page.locator(f"{MENU}:popover-open")).to_have_count(1)
        page.locator(elsewhere).first.click(position={"x": 5, "y": 5}, force=True)
        expect(page.locator(f"{MENU}:popover-open")).to_have_count(0)
    button.click()
    page.locator(f"{MENU} [name=burn]").check()  # a press within leaves it open
    expect(page.locator(f"{MENU}:popover-open")).to_have_count(1)
    page.locator(f"{MENU} [name=burn]").uncheck()
    button.click()


@on_the_oldest_and_the_newest
def test_names_of_files_say_what_it_is_and_never_collide(panel: PanelPage) -> None:
    panel.open_panel()
    names = []
    seed = next(SEEDS) * 10
    for _ in range(2):
        seed += 1
        panel.load(demo_prompt(seed=seed, steps=4, seconds=0.05))
        panel.queue()
        panel.wait("seed => sidestream.store.current.some((run) => run.origin.seed === seed)", 30, seed)
        wait_over(panel)
        panel.page.evaluate("() => sidestream.watching.scrub(1)")
        name, file = save(panel, "png")
        label = label_of(file)
        assert (label["seed"], label["step"]) == (seed, int(name[-7:-4]))
        workflow = panel.page.evaluate("() => app.extensionManager.workflow.activeWorkflow.filename")
        expected = rf"sidestream_{re.escape(re.sub(r'[^A-Za-z0-9]+', '-', workflow).strip('-'))}_KSampler-A_seed{seed}_"
        assert re.fullmatch(expected + r"\d{8}-\d{9}_step\d{3}\.png", name), name
        names.append(name)
        panel.page.evaluate("() => sidestream.watching.goLive()")
    assert len(set(names)) == 2


def test_the_last_picture_of_a_video_stands_a_while(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 3)
    end_run(panel)
    wait_shown(panel, 3)
    _, file = save(panel, "webm")
    # Two pictures of an eighth of a second, then the last one.
    assert max(times_of(file)) > 1200


# Keys


@on_the_oldest_and_the_newest
@pytest.mark.parametrize("place", [".ss-viewer", "input[name=throttle_ms]", ".ss-live-button", ".ss-scrubber"])
def test_deletion_keys_in_the_panel_do_not_reach_the_graph(panel: PanelPage, place: str) -> None:
    page = panel.page
    panel.load(demo_prompt())
    panel.open_panel()
    deliver(panel, 3)
    expect(page.locator(f"{PANEL} .ss-scrubber")).to_be_enabled()
    page.evaluate("() => app.canvas.selectItems ? app.canvas.selectItems(app.graph._nodes) : app.canvas.selectNodes()")
    page.evaluate(
        """() => {
          globalThis.leaked = 0;
          globalThis.onLeak ??= window.addEventListener("keydown", () => (leaked += 1));
        }"""
    )
    count = page.evaluate("() => app.graph._nodes.length")
    page.locator(f"{PANEL} {place}").focus()
    expect(page.locator(f"{PANEL} {place}")).to_be_focused()
    for key in ("Delete", "Backspace"):
        page.keyboard.press(key)
    assert page.evaluate("() => app.graph._nodes.length") == count
    assert page.evaluate("() => leaked") == 0


# Looks


def test_it_fits_into_220_pixels(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    show_two_samplers(panel)
    for fold in page.locator(f"{PANEL} .ss-fold").all():
        fold.evaluate("(fold) => (fold.open = true)")
    page.locator(f"{PANEL} .ss-menu-button").click()
    assert page.evaluate(OVERFLOWING.replace("320", "220")) == []
    menu, view = page.locator(MENU).bounding_box(), page.viewport_size
    assert menu
    assert view
    assert 0 <= menu["x"] <= view["width"] - menu["width"]
    assert 0 <= menu["y"] <= view["height"] - menu["height"]
    page.locator(f"{PANEL} .ss-menu-button").click()


@on_the_oldest_and_the_newest
def test_a_window_of_its_own_follows_the_theme(panel: PanelPage) -> None:
    page = panel.page
    deliver(panel, 2)
    panel.open_panel()
    on_top = "documentPictureInPicture.window"
    page.locator(f"{PANEL} [aria-label^='Open in a separate']").click()
    panel.wait(f"() => {on_top}?.document.querySelector('.ss-viewer')")
    panel.wait(f"() => [...{on_top}.document.querySelectorAll('link[rel=stylesheet]')].every((one) => one.sheet)")
    colour = f"() => {on_top}.getComputedStyle({on_top}.document.querySelector('.sidestream')).backgroundColor"
    before = page.evaluate(colour)
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    panel.wait(f"before => ({colour})() !== before", argument=before)
    assert page.evaluate(f"() => {on_top}.document.body.classList.contains('dark-theme')") is False
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    panel.wait(f"before => ({colour})() === before", argument=before)
    page.evaluate(f"() => {on_top}.close()")


# What it costs while nothing runs


def test_nothing_moves_while_nothing_runs_and_the_canvas_keeps_its_rate(panel: PanelPage) -> None:
    page = panel.page
    panel.load(demo_prompt())
    panel.open_panel()
    node = page.evaluate("() => String(app.graph._nodes.find((node) => node.type === 'KSampler').id)")
    send_animation(panel, moving_bar(6), step=3, node=node)
    panel.wait("() => document.getAnimations().some((one) => one.animationName === 'ss-pulse')")
    page.evaluate(PAUSE, True)
    panel.wait("() => !document.getAnimations().some((one) => one.animationName === 'ss-pulse')")
    page.evaluate(PAUSE, False)
    end_run(panel, node=node)
    panel.wait("() => !document.getAnimations().some((one) => one.animationName?.startsWith('ss-'))")
    rates: dict[bool, list[int]] = {True: [], False: []}
    for _ in range(3):  # one beside the other, since a busy machine changes
        for is_open in (True, False):
            if is_open:
                panel.open_panel()
            else:
                panel.close_panel()
            rates[is_open].append(page.evaluate(RATE))
    print(f"\nframes in half a second: {rates[True]}, {rates[False]} without a panel")
    assert max(rates[True]) > max(rates[False]) / 2


RATE = """
async () => {
  const end = performance.now() + 500;
  let frames = 0;
  while (performance.now() < end) { await new Promise(requestAnimationFrame); frames += 1; }
  return frames;
}
"""


# A click while pictures come


def test_a_click_on_the_picture_is_one_though_frames_come_every_50_ms(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    grid = {"columns": 2, "rows": 1, "images": [0, 1]}
    from sidestream.tests.web.animations import cells_picture, jpeg, send

    picture = jpeg(cells_picture([0, 1], 2))
    send(panel, picture, "image/jpeg", step=1, grid=grid)
    cell = page.locator(f"{PANEL} .ss-cell").nth(1)
    cell.wait_for()
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent === '1 / 20'")  # all is in its place
    box = cell.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(2, 6):
        send(panel, picture, "image/jpeg", step=step, grid=grid)
        page.wait_for_timeout(50)
    page.mouse.up()
    panel.wait("() => sidestream.watching.image === 1")
    assert Image.open(io.BytesIO(picture)).size == (64, 32)
