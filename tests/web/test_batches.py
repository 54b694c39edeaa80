"""Several images of a batch in one picture, pictures that are none, and the settings about them."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.pictures import label_of
from sidestream.tests.web.animations import cells_picture, colour, send_animation, send_still
from sidestream.tests.web.views import PANEL, VIEWER, nameless, open_details, part, saved, wait_shown
from sidestream.tools.page import PanelPage

pytestmark = pytest.mark.browser

CENTRE = """
(selector) => {
  const source = document.querySelector(selector);
  const canvas = new OffscreenCanvas(source.width, source.height);
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0);
  const { data } = context.getImageData(source.width / 2, source.height / 2, 1, 1);
  return [source.width, source.height, ...data.slice(0, 3)];
}
"""
FIVE = {"columns": 3, "rows": 2, "images": [0, 1, 2, 3, 4]}


def send_batch(panel: PanelPage, images: list[int], step: int, **facts: object) -> None:
    grid = {"columns": 3, "rows": -(-len(images) // 3), "images": images}
    send_still(panel, cells_picture(images, 3), step=step, grid=grid, **facts)


def wait_for_image(panel: PanelPage, image: int, selector: str = f"{VIEWER} .ss-canvas") -> None:
    """Wait until the large picture is that image of the batch, and nothing of the others."""
    wanted = [32, 32, *colour(image / 10)]
    for _ in range(400):  # 20 s
        if panel.page.evaluate(CENTRE, selector) == pytest.approx(wanted, abs=6):
            return
        panel.page.wait_for_timeout(50)
    raise AssertionError(f"{panel.page.evaluate(CENTRE, selector)} is not image {image}")


def wait_for_all(panel: PanelPage) -> None:
    panel.wait(f"() => document.querySelector('{VIEWER} .ss-canvas').width === 96")


BUSY = """
() => {
  const wait = () => { for (const end = performance.now() + 400; performance.now() < end; ); };
  addEventListener("pointerdown", wait, true);
  globalThis.beIdle = () => removeEventListener("pointerdown", wait, true);
}
"""


def double_click(panel: PanelPage, x: float, y: float) -> None:
    """As quick as a hand's on a page that takes its time for each press."""
    panel.page.evaluate(BUSY)
    browser = panel.page.context.new_cdp_session(panel.page)
    at = {"x": x, "y": y, "button": "left", "timestamp": time.time()}
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            browser.send("Input.dispatchMouseEvent", {"type": kind, "clickCount": count, **at})
    browser.detach()
    panel.page.evaluate("() => beIdle()")


def test_an_image_of_the_batch_is_chosen_and_stays(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    send_batch(panel, [0, 1, 2, 3, 4], step=1)
    wait_shown(panel, 1)
    cells = page.locator(f"{PANEL} .ss-cell")
    expect(cells).to_have_count(5)
    expect(cells.nth(3)).to_have_attribute("aria-label", "Image 4 of 5")
    picture = page.locator(f"{VIEWER} .ss-canvas").first.bounding_box()
    box = cells.nth(4).bounding_box()
    assert picture is not None
    assert box is not None
    assert box["x"] == pytest.approx(picture["x"] + picture["width"] / 3, abs=1)
    assert box["y"] == pytest.approx(picture["y"] + picture["height"] / 2, abs=1)
    assert nameless(panel) == []
    cells.nth(3).click()
    wait_for_image(panel, 3)
    assert nameless(panel) == []
    expect(part(panel, ".ss-image-name")).to_have_text("Image 4 of 5")
    expect(cells.first).to_be_hidden()
    send_batch(panel, [0, 1, 2, 3, 4], step=2)
    wait_shown(panel, 2)
    wait_for_image(panel, 3)
    page.evaluate("() => sidestream.watching.scrub(0)")
    wait_shown(panel, 1)
    wait_for_image(panel, 3)
    page.locator(f"{PANEL} [aria-label='Next image']").click()
    wait_for_image(panel, 4)
    page.locator(f"{PANEL} .ss-all-images").click()
    wait_for_all(panel)
    expect(cells.first).to_be_visible()


def test_a_double_click_on_a_cell_does_not_zoom_and_dragging_chooses_nothing(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    send_batch(panel, [0, 1, 2, 3, 4], step=1)
    wait_shown(panel, 1)
    box = page.locator(f"{PANEL} .ss-cell").nth(1).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y + 30, steps=4)
    page.mouse.up()
    assert page.evaluate("() => sidestream.watching.image") is None
    page.locator(f"{PANEL} [aria-label='Fit to view']").click()
    double_click(panel, x, y)
    wait_for_image(panel, 1)
    expect(page.locator(f"{PANEL} [aria-label='Fit to view']")).to_have_attribute("aria-pressed", "true")


def test_keys_choose_an_image(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    send_batch(panel, [0, 1, 2, 3, 4], step=1)
    wait_shown(panel, 1)
    page.locator(f"{PANEL} .ss-cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    wait_for_image(panel, 4)
    page.keyboard.press("ArrowLeft")
    wait_for_image(panel, 3)
    page.keyboard.press("2")
    wait_for_image(panel, 1)
    page.keyboard.press("Escape")
    wait_for_all(panel)
    assert page.evaluate("() => document.activeElement.ariaLabel") == "Image 2 of 5"
    page.keyboard.press("5")
    wait_for_image(panel, 4)
    page.locator(VIEWER).focus()
    page.keyboard.press("Escape")
    wait_for_all(panel)


def test_images_spread_over_the_batch_keep_their_numbers(panel: PanelPage) -> None:
    panel.open_panel()
    send_batch(panel, [0, 4, 9], step=1)
    wait_shown(panel, 1)
    cells = panel.page.locator(f"{PANEL} .ss-cell")
    names = cells.evaluate_all("all => all.map((cell) => cell.ariaLabel)")
    assert names == ["Image 1 of 10", "Image 5 of 10", "Image 10 of 10"]
    cells.nth(1).click()
    wait_for_image(panel, 4)
    send_batch(panel, [0, 1, 2], step=2)  # settings were changed: it is not among them
    wait_shown(panel, 2)
    wait_for_all(panel)
    send_batch(panel, [3, 4, 5], step=3)
    wait_shown(panel, 3)
    wait_for_image(panel, 4)
    send_batch(panel, [0, 1, 2], step=1, run="other")
    panel.wait("() => sidestream.watching.run.id === 'other'")
    wait_for_all(panel)  # each run has its own


def test_an_image_of_an_animated_batch_plays_alone(panel: PanelPage) -> None:
    panel.open_panel()
    send_batch(panel, [0, 1, 2, 3, 4], step=1)
    frames = [cells_picture([0, 1, 2, 3, 4], 3), cells_picture([5, 6, 7, 8, 9], 3)]
    send_animation(panel, frames, step=1, grid=FIVE, duration=150)
    animation = f"{VIEWER} .ss-animation"
    panel.page.locator(animation).wait_for()
    panel.page.locator(f"{PANEL} .ss-cell").nth(2).click()
    wait_for_image(panel, 7, animation)
    wait_for_image(panel, 2, animation)


def test_the_chosen_image_is_what_is_saved(panel: PanelPage) -> None:
    panel.open_panel()
    for step in (1, 2):
        send_batch(panel, [0, 1, 2, 3, 4], step=step)
    wait_shown(panel, 2)
    panel.page.locator(f"{PANEL} .ss-cell").nth(3).click()
    for kind in ("png", "webp"):
        file = saved(panel, kind)
        if kind == "png":
            assert label_of(file)["grid"] == {"columns": 1, "rows": 1, "images": [3]}
        picture = Image.open(io.BytesIO(file))
        assert picture.size == (32, 32)
        assert picture.convert("RGB").getpixel((16, 16)) == pytest.approx(colour(0.3), abs=6)


def test_a_map_of_a_sound_says_that_it_is_no_picture(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    open_details(panel)
    send_still(panel, cells_picture([0], 1), step=1, decoder="spectrogram")
    wait_shown(panel, 1)
    said = page.get_by_text("Not an image: audio latent")
    expect(said).to_be_visible()
    panel.wait("() => document.querySelector('.ss-stat-picture dd').textContent === 'Spectrogram · 32 × 32'")
    send_still(panel, cells_picture([0], 1), step=2, decoder="vae")
    wait_shown(panel, 2)
    expect(said).to_be_hidden()
    panel.wait("() => document.querySelector('.ss-stat-picture dd').textContent === 'VAE · 32 × 32'")


def test_positions_that_are_no_numbers_are_warned_of(panel: PanelPage) -> None:
    panel.open_panel()
    send_still(panel, cells_picture([0], 1), step=1, not_finite=17)
    warning = panel.page.locator(f"{PANEL} .ss-warning")
    warning.wait_for()
    assert warning.inner_text().endswith("17")
    assert (warning.get_attribute("title") or "").startswith("17 latent positions")
    send_still(panel, cells_picture([0], 1), step=2)
    warning.wait_for(state="hidden")


def test_settings_of_videos_and_batches_are_folded_and_change_runs(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    batch = page.locator(f"{PANEL} .ss-control[data-setting=batch] select")
    expect(batch).to_be_hidden()
    page.locator(f"{PANEL} .ss-fold >> text=Videos and batches").click()
    images = page.locator(f"{PANEL} .ss-control[data-setting=batch_images]")
    expect(images).to_be_hidden()  # counts only what stands side by side
    with page.expect_request("**/sidestream/live") as posted:
        batch.select_option("grid")
    assert posted.value.post_data_json["batch"] == "grid"
    images.wait_for()
    frames = page.locator(f"{PANEL} .ss-control[data-setting=video_frames]")
    expect(frames.locator(".ss-unit")).to_have_text("frames")
    with page.expect_request("**/sidestream/live") as posted:
        frames.locator("input[type=number]").fill("0")
        page.keyboard.press("Enter")
    assert posted.value.post_data_json["video_frames"] == 0
    expect(frames.locator(".ss-unit")).to_have_text("all")
    fps = page.locator(f"{PANEL} .ss-control[data-setting=fps]")
    expect(fps.locator(".ss-unit")).to_have_text("model's")
    page.locator(f"{PANEL} .ss-fold >> text=Videos and batches").click()
