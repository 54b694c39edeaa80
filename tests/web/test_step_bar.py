"""How far and how long: the bar over all steps of a run, its time, and what came of it."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.web.animations import moving_bar, send_still, webp
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run, png, put_out, tell
from sidestream.tests.web.views import (
    PANEL,
    SEEDS,
    VIEWER,
    open_details,
    part,
    saved,
    wait_over,
    wait_shown,
    wait_until_the_frame_is_shown,
)
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

SLIDER = f"{PANEL} .ss-scrubber"
# Whether the marks of one kind are in those slots, of that many.
MARKED = """
([kind, slots, count]) => {
  const { viewBox } = document.querySelector(".ss-track");
  const path = document.querySelector(`.ss-mark-${kind}`).getAttribute("d") ?? "";
  const marked = [...path.matchAll(/M([0-9.]+) /g)].map(([, at]) => Math.floor(Number(at)));
  return String(marked) === String(slots) && viewBox.baseVal.width === count;
}
"""
# The runs of columns of the small pictures' canvas that are drawn on.
DRAWN = """
() => {
  const canvas = document.querySelector(".ss-thumbnails");
  if (!canvas.width) return { runs: [], height: 0 }; // not laid out yet
  const { data } = canvas.getContext("2d").getImageData(0, 20, canvas.width, 1);
  const runs = [];
  for (let x = 0; x < canvas.width; x++) {
    if (!data[4 * x + 3]) continue;
    if (runs.at(-1)?.[1] === x) runs.at(-1)[1] = x + 1;
    else runs.push([x, x + 1]);
  }
  return { runs: runs.map(([a, b]) => b - a), height: canvas.height };
}
"""


def wait_marked(panel: PanelPage, kind: str, slots: list[int], count: int) -> None:
    panel.wait(MARKED, argument=[kind, slots, count])


# The bar


def test_each_step_has_its_place_from_the_first_and_gaps_where_nothing_was_shown(panel: PanelPage) -> None:
    panel.open_panel()
    wait_marked(panel, "ahead", [], 1)
    deliver(panel, 3)
    wait_shown(panel, 3)
    panel.wait("() => document.querySelector('.ss-scrubber').max === '19'")
    wait_marked(panel, "seen", [0, 1, 2], 20)
    thumb = "() => document.querySelector('.ss-scrubber').value"
    assert panel.page.evaluate(thumb) == "2"
    tell(panel, "progress", node="10", prompt_id="p", value=7, max=20)
    wait_marked(panel, "unseen", [3, 4, 5, 6], 20)
    assert panel.page.evaluate(thumb) == "2"
    expect(part(panel, ".ss-stat-step dd")).to_have_text("7 / 20")
    deliver(panel, 1, first=9)
    wait_shown(panel, 9)
    panel.wait("() => document.querySelector('.ss-scrubber').value === '8'")
    wait_marked(panel, "seen", [0, 1, 2, 8], 20)
    # The keys go from picture to picture; a press in a gap goes to the nearest one.
    panel.page.locator(SLIDER).press("ArrowLeft")
    wait_shown(panel, 3)
    expect(panel.page.locator(SLIDER)).to_have_attribute("aria-valuetext", "3 / 20")
    box = panel.page.locator(SLIDER).bounding_box()
    assert box
    panel.page.mouse.click(box["x"] + box["width"] * 7.5 / 20, box["y"] + 20)
    wait_shown(panel, 9)
    panel.page.keyboard.press("Home")
    wait_shown(panel, 1)


@pytest.mark.parametrize("size", [(64, 200), (200, 64)])
def test_small_pictures_are_squares_whatever_the_aspect(panel: PanelPage, size: tuple[int, int]) -> None:
    panel.open_panel()
    for step in (1, 2, 4):
        send_still(panel, Image.new("RGB", size, (200, 90, 40)), step=step, total_steps=4)
    end_run(panel)
    squares = "({ runs, height }) => runs.length === 3 && runs.every((run) => run === height)"
    panel.wait(f"() => ({squares})(({DRAWN})())")


@on_the_oldest_and_the_newest
def test_a_picture_with_its_step_stands_under_the_pointer(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 15)
    wait_shown(panel, 15)
    expect(page.locator(SLIDER)).to_be_enabled()
    hover = page.locator(f"{PANEL} .ss-hover")
    assert hover.is_hidden()
    box = page.locator(SLIDER).bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] * 4.5 / 20, box["y"] + 20)
    hover.wait_for()
    assert hover.inner_text() == "5 / 20"
    panel.wait("() => document.querySelector('.ss-hover canvas').width === 64")
    red = "() => document.querySelector('.ss-hover canvas').getContext('2d').getImageData(5, 5, 1, 1).data[0]"
    panel.wait(f"() => Math.abs(({red})() - 60) < 5")
    expect(part(panel, ".ss-stat-step dd")).to_have_text("15 / 20")  # nothing else has moved
    shown = hover.bounding_box()
    assert shown
    assert shown["y"] + shown["height"] <= box["y"]
    page.mouse.move(box["x"] + box["width"] * 19.5 / 20, box["y"] + 20)
    panel.wait("() => document.querySelector('.ss-hover span').textContent === '15 / 20'")
    page.mouse.move(box["x"] + 20, box["y"] - 200)
    hover.wait_for(state="hidden")


def test_the_compared_step_is_marked_at_its_place(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 15)
    wait_shown(panel, 15)
    mark = page.locator(f"{PANEL} .ss-compared")
    assert mark.is_hidden()
    page.evaluate("() => sidestream.watching.scrub(4)")
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    page.locator(f"{PANEL} .ss-live-button").click()
    mark.wait_for()
    box, bar = mark.bounding_box(), page.locator(SLIDER).bounding_box()
    assert box
    assert bar
    assert (box["x"] - bar["x"]) / bar["width"] == pytest.approx(4 / 20, abs=0.01)
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    mark.wait_for(state="hidden")


def test_the_bar_is_drawn_at_most_once_in_an_animation_frame(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 1, total=400)
    page.evaluate(
        """() => {
          globalThis.drawn = 0;
          globalThis.frames = 0;
          globalThis.looking = new MutationObserver((seen) => (drawn += seen.length));
          looking.observe(document.querySelector(".ss-mark-seen"), { attributes: true });
          const count = () => { frames += 1; globalThis.counting = requestAnimationFrame(count); };
          count();
        }"""
    )
    deliver(panel, 300, first=2, total=400)
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent === '301 / 400'")
    page.evaluate("() => { cancelAnimationFrame(counting); looking.disconnect(); }")
    drawn, frames = page.evaluate("() => [drawn, frames]")
    assert 0 < drawn <= frames + 1


# The time


OWN_CLOCK = """
() => {
  const now = performance.now();
  globalThis.passed = 0;
  sidestream.store.clock = () => now + passed;
}
"""


def test_what_is_waited_for_is_said_and_then_how_long_it_takes(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    about = {"node_id": "10", "prompt_id": "p", "display_node_id": "10"}
    tell(panel, "sidestream.run", run="r", state="start", total_steps=20, **about)
    for place in (".ss-waiting", ".ss-empty"):
        panel.wait(f"() => document.querySelector('{place}').textContent === 'Waiting for the first step …'")
    ids = {**about, "parent_node_id": None, "real_node_id": "10"}
    loading = {"value": 0, "max": 1, "state": "running", **ids, "activity": "loading"}
    tell(panel, "progress_state", prompt_id="p", nodes={"10": loading})
    for place in (".ss-waiting", ".ss-empty"):
        panel.wait(f"() => document.querySelector('{place}').textContent === 'Loading a model …'")
    tell(panel, "progress_state", prompt_id="p", nodes={})
    page.evaluate(OWN_CLOCK)
    for step in range(1, 5):
        page.evaluate("() => { passed += 200; }")
        tell(panel, "progress", node="10", prompt_id="p", value=step, max=20)
    panel.wait("() => document.querySelector('.ss-waiting').textContent === ''")
    expect(part(panel, ".ss-stat-left dd")).to_have_text("0:03")  # 16 steps of 0.2 s
    expect(part(panel, ".ss-stat-pace dd")).to_have_text("5.0 it/s")
    deliver(panel, 1, first=5)  # of a run without any nothing is left
    page.evaluate("() => { passed += 4000; }")
    ms = page.evaluate("() => sidestream.store.clock() - sidestream.watching.run.begunAt")
    elapsed = "{}:{:02}".format(*divmod(round(ms / 1000), 60))
    end_run(panel)
    panel.wait("() => document.querySelector('.ss-stat-left dd').textContent === '–'")
    for _ in range(2):
        expect(part(panel, ".ss-stat-elapsed dd")).to_have_text(elapsed)
        page.evaluate("() => { passed += 60000; sidestream.store.dispatchEvent(new CustomEvent('runs')); }")
        page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    page.evaluate("() => { sidestream.store.clock = () => performance.now(); }")


def test_the_details_are_closed_at_first_and_stay_as_they_were_left(panel: PanelPage) -> None:
    panel.open_panel()
    latency = panel.page.locator(f"{PANEL} .ss-stat-latency")
    assert latency.is_hidden()
    open_details(panel)
    latency.wait_for()
    panel.close_panel()
    panel.open_panel()
    latency.wait_for()
    panel.page.locator(f"{PANEL} .ss-details summary").click()
    panel.close_panel()
    panel.open_panel()
    assert latency.is_hidden()


# What comes of it


@on_the_oldest_and_the_newest
def test_a_real_run_ends_on_what_comfyui_made_of_it(panel: PanelPage) -> None:
    panel.open_panel()
    prompt = demo_prompt(seed=next(SEEDS) * 10, steps=4)
    prompt["30"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    prompt["31"] = {"class_type": "VAEDecode", "inputs": {"samples": ["10", 0], "vae": ["30", 0]}}
    prompt["32"] = {"class_type": "PreviewImage", "inputs": {"images": ["31", 0]}}
    panel.load(prompt)
    panel.queue()
    panel.wait("() => document.querySelector('.ss-viewer').ariaLabel === 'Result of KSampler A'")
    wait_until_the_frame_is_shown(panel)
    assert panel.page.evaluate("() => sidestream.watching.frame.width") == 64  # the latent's own pixels
    wait_marked(panel, "result", [4], 5)


@on_the_oldest_and_the_newest
def test_a_run_ends_on_its_result_which_is_fetched_once_and_compared_and_saved(panel: PanelPage) -> None:
    page = panel.page
    deliver(panel, 20)
    asked = put_out(panel, "r.png", png((96, 96), (10, 200, 30)), "image/png")
    page.wait_for_timeout(300)
    assert asked == []  # nobody looks
    panel.open_panel()
    panel.wait("() => sidestream.watching.run.results.length === 1")
    wait_shown(panel, 20)  # the sampler has not ended
    end_run(panel)
    panel.wait("() => document.querySelector('.ss-viewer').ariaLabel.startsWith('Result of')")
    wait_until_the_frame_is_shown(panel)
    assert page.locator(f"{VIEWER} .ss-canvas").first.evaluate("canvas => canvas.width") == 96
    panel.wait("() => document.querySelector('.ss-scrubber').getAttribute('aria-valuetext') === 'Result'")
    wait_marked(panel, "result", [20], 21)
    page.locator(SLIDER).press("ArrowLeft")
    wait_shown(panel, 20)
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    page.locator(SLIDER).press("ArrowRight")
    panel.wait("() => document.querySelector('.ss-label-right').textContent === 'Result'")
    expect(part(panel, ".ss-label-left")).to_have_text("20 / 20")
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    run = Image.open(io.BytesIO(saved(panel, "webp")))
    assert (run.n_frames, run.size) == (21, (64, 64))
    run.seek(20)
    assert run.convert("RGB").getpixel((32, 32)) == pytest.approx((10, 200, 30), abs=8)
    page.locator(f"{PANEL} .ss-menu-button").click()
    page.locator(f"{PANEL} [name=result]").uncheck()
    page.locator(f"{PANEL} .ss-menu-button").click()
    assert Image.open(io.BytesIO(saved(panel, "webp"))).n_frames == 20
    page.locator(f"{PANEL} [name=result]").evaluate("(box) => { box.checked = true; }")
    panel.close_panel()
    panel.open_panel()
    panel.wait("() => document.querySelector('.ss-viewer').ariaLabel.startsWith('Result of')")
    assert len(asked) == 1


def test_a_result_that_cannot_be_had_or_shown_is_left_out_without_a_word(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 20)
    end_run(panel)
    for body, status in ((b"", 404), (b"no picture", 200)):
        asked = put_out(panel, "r.png", body, "image/png", status)
        panel.wait("() => sidestream.watching.run.outputs.length === 0")
        for _ in range(100):  # until the request has come
            if asked:
                break
            panel.page.wait_for_timeout(100)
        panel.page.wait_for_timeout(300)
        assert len(asked) == 1
    wait_shown(panel, 20)
    assert panel.page.evaluate("() => sidestream.watching.run.results.length") == 0


def test_a_video_and_an_animated_picture_play_as_results(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 3, total=3)
    video = saved(panel, "webm")
    end_run(panel)
    put_out(panel, "r.webm", video, "video/webm")
    player = page.locator(f"{VIEWER} .ss-video")
    player.wait_for()
    panel.wait("() => document.querySelector('.ss-video').currentTime > 0")
    page.evaluate("() => sidestream.watching.scrub(0)")
    player.wait_for(state="hidden")
    page.evaluate("() => sidestream.store.clear()")
    deliver(panel, 3, total=3, run="other")
    end_run(panel, run="other")
    put_out(panel, "r.webp", webp(moving_bar(5), 100), "image/webp")
    panel.wait("() => document.querySelector('.ss-frame-number').textContent.includes('/ 5')")
    assert player.is_hidden()


def test_what_sampling_starts_from_is_the_first_picture_of_the_bar(panel: PanelPage) -> None:
    panel.open_panel()
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=5, seconds=0.3, step_zero="noise"))
    panel.queue()
    wait_over(panel)
    steps = panel.page.evaluate("() => sidestream.watching.run.frames.map(({ step }) => step)")
    assert steps == sorted({0, *steps, 5})  # a busy machine leaves out some between
    wait_marked(panel, "seen", steps, 6)
    panel.page.locator(SLIDER).press("Home")
    expect(panel.page.locator(SLIDER)).to_have_attribute("aria-valuetext", "0 / 5")
    expect(part(panel, ".ss-stat-step dd")).to_have_text("0 / 5")
