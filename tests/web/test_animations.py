"""Animated previews: the player in the panel, on the nodes, in files and in memory."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Sequence
from statistics import median

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.web.animations import colour, moving_bar, send, send_animation, send_still, webp
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import end_run
from sidestream.tests.web.views import (
    OVERFLOWING,
    PANEL,
    VIEWER,
    heap,
    nameless,
    part,
    saved,
    wait_until_the_frame_is_shown,
)
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

ANIMATION = f"{VIEWER} .ss-animation"
PIXELS = """
(selector) => {
  const canvas = document.querySelector(selector);
  const { width, height } = canvas;
  if (canvas.hidden || !width) return null;
  return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
}
"""


def pixels(panel: PanelPage, selector: str = ANIMATION) -> np.ndarray:
    width, height, data = panel.page.evaluate(PIXELS, selector)
    return np.array(data, np.uint8).reshape(height, width, 4)[..., :3]


def pause(panel: PanelPage) -> None:
    panel.page.locator(f"{PANEL} .ss-player [aria-label=Pause]").click()


def go_to(panel: PanelPage, frame: int) -> None:
    """Drag the scrubber there, counted from 0."""
    panel.page.locator(f"{PANEL} .ss-frames").evaluate(
        "(range, frame) => { range.value = frame; range.dispatchEvent(new Event('input')); }", frame
    )


def wait_for_picture(panel: PanelPage, expected: Image.Image, selector: str = ANIMATION) -> None:
    """Wait until a canvas shows the very pixels of a picture."""
    wanted = np.asarray(expected)
    for _ in range(400):  # 20 s
        if panel.page.evaluate(PIXELS, selector):
            shown = pixels(panel, selector)
            if shown.shape == wanted.shape and (shown == wanted).all():
                return
        panel.page.wait_for_timeout(50)
    raise AssertionError(f"{selector} shows another picture")


def wait_for_frame(panel: PanelPage, number: str) -> None:
    """Wait until the player says that it shows that frame, such as `2 / 8`."""
    panel.wait("number => document.querySelector('.ss-frame-number').textContent.startsWith(number)", argument=number)


def show_animation(panel: PanelPage, frames: Sequence[Image.Image], step: int = 5) -> bytes:
    """Open the panel and let an animation arrive."""
    panel.open_panel()
    send_still(panel, frames[0], step=step)
    file = send_animation(panel, frames, step=step)
    panel.page.locator(ANIMATION).wait_for()
    return file


def is_partial(file: bytes) -> bool:
    """Whether some frame of an animated WebP is smaller than its picture."""
    at, sizes = 12, []
    while at + 8 <= len(file):
        name, size = file[at : at + 4], struct.unpack_from("<I", file, at + 4)[0]
        if name == b"ANMF":
            sizes.append(int.from_bytes(file[at + 14 : at + 17], "little") + 1)
        at += 8 + size + size % 2
    return min(sizes) < max(sizes)


# The player


def test_every_frame_is_shown_as_it_was_encoded(panel: PanelPage) -> None:
    frames = moving_bar(8)
    assert is_partial(show_animation(panel, frames))
    pause(panel)
    for i in (0, 3, 7, 2, 6, 0):  # also backwards, which starts from a whole frame again
        go_to(panel, i)
        wait_for_picture(panel, frames[i])
    expect(part(panel, ".ss-frame-number")).to_have_text("1 / 8 · 0.0 s")
    go_to(panel, 7)
    wait_for_picture(panel, frames[7])
    expect(part(panel, ".ss-frame-number")).to_have_text("8 / 8 · 0.7 s")


def test_transparent_frames_are_laid_over_the_ones_before(panel: PanelPage) -> None:
    frames = []
    for i, picture in enumerate(moving_bar(6)):
        seen = picture.convert("RGBA")
        seen.paste((0, 0, 0, 0), (0, 0, 12 + 8 * i, 20))
        frames.append(seen)
    panel.open_panel()
    send_still(panel, moving_bar(1)[0], step=5)
    send_animation(panel, frames, step=5)
    panel.page.locator(ANIMATION).wait_for()
    pause(panel)
    for i in (5, 1, 4):
        go_to(panel, i)
        wait_for_frame(panel, f"{i + 1} / 6")
        _, _, data = panel.page.evaluate(PIXELS, ANIMATION)
        assert data == list(frames[i].tobytes())


def test_it_plays_in_a_loop_each_frame_in_its_time(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    durations = [60, 60, 60, 600, 60, 60]
    send_still(panel, moving_bar(6)[0], step=5)
    send_animation(panel, moving_bar(6), step=5, duration=durations)
    page.locator(ANIMATION).wait_for()
    seen = page.evaluate(
        """async () => {
          const seen = [];
          const range = document.querySelector(".ss-frames");
          const isEnough = () => [0, 1, 2, 3, 4, 5].every((i) => seen.filter(({ index }) => index === i).length > 4);
          while (!isEnough()) { // a busy page may leave out some
            const index = Number(range.value);
            if (seen.at(-1)?.index !== index) seen.push({ index, at: performance.now() });
            await new Promise(requestAnimationFrame);
          }
          return seen;
        }"""
    )
    assert any(b["index"] < a["index"] for a, b in itertools.pairwise(seen))  # round again
    times = [(a["index"], b["at"] - a["at"]) for a, b in itertools.pairwise(seen[1:])]
    long, short = ([ms for i, ms in times if (i == 3) == is_long] for is_long in (True, False))
    # A busy machine may show any of them for longer, and then the next one for less.
    assert median(long) > 2.5 * median(short)


def test_a_newer_animation_goes_on_at_the_same_place_without_a_gap(panel: PanelPage) -> None:
    page = panel.page
    show_animation(panel, moving_bar(8))
    pause(panel)
    go_to(panel, 5)
    wait_for_picture(panel, moving_bar(8)[5])
    page.evaluate(
        """() => {
          const canvas = document.querySelector(".ss-viewer .ss-animation");
          globalThis.gaps = 0;
          const look = () => {
            const empty = canvas.hidden || !canvas.width ||
              canvas.getContext("2d").getImageData(1, 1, 1, 1).data[3] === 0;
            if (empty) globalThis.gaps += 1;
            globalThis.looking = requestAnimationFrame(look);
          };
          look();
        }"""
    )
    other = moving_bar(8, first_hue=0.3)
    send_animation(panel, other, step=9)
    wait_for_picture(panel, other[5])
    expect(part(panel, ".ss-label-left")).to_have_text("9 / 20")
    twice = moving_bar(16, first_hue=0.6)
    send_animation(panel, twice, step=11)
    wait_for_frame(panel, "12 / 16")  # as far into the animation as frame 5 of 8
    assert page.evaluate("() => { cancelAnimationFrame(looking); return gaps; }") == 0


def test_stills_of_newer_steps_stand_in_the_corner(panel: PanelPage) -> None:
    page = panel.page
    show_animation(panel, moving_bar(8), step=5)
    inset = page.locator(f"{PANEL} .ss-inset")
    expect(inset).to_be_hidden()  # nothing is newer
    send_still(panel, moving_bar(8)[0], step=9)
    inset.wait_for()
    expect(inset).to_have_text("9 / 20")
    expect(part(panel, ".ss-label-left")).to_have_text("5 / 20")
    label = page.locator(VIEWER).get_attribute("aria-label") or ""
    assert label.startswith("Animated preview")
    assert label.endswith("5 / 20")
    wait_until_the_frame_is_shown(panel)  # the size of the inset is that of the still
    box, room = inset.bounding_box(), page.locator(VIEWER).bounding_box()
    assert box is not None
    assert room is not None
    assert box["width"] < room["width"] / 2
    canvas = page.locator(f"{VIEWER} .ss-canvas").first.bounding_box()
    assert canvas == pytest.approx(box, abs=1)
    inset.click()
    page.locator(ANIMATION).wait_for(state="hidden")
    wait_until_the_frame_is_shown(panel)
    large = page.locator(f"{VIEWER} .ss-canvas").first.bounding_box()
    assert large is not None
    assert large["width"] == pytest.approx(room["width"], abs=2)
    expect(part(panel, ".ss-frame-number")).to_have_text("Animation of 5 / 20")
    page.locator(f"{PANEL} .ss-player [aria-label=Play]").click()
    page.locator(ANIMATION).wait_for()


def test_a_still_of_the_next_sampling_is_newer_whatever_its_step(panel: PanelPage) -> None:
    show_animation(panel, moving_bar(8), step=5)
    send_still(panel, moving_bar(8)[0], step=1, seq=20, stage=2)
    inset = panel.page.locator(f"{PANEL} .ss-inset")
    inset.wait_for()
    expect(inset).to_have_text("Stage 2: 1 / 20")


def test_the_timeline_shows_the_animation_of_the_step_that_is_chosen(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    for step in (1, 2, 3, 4):
        send_still(panel, moving_bar(1)[0], step=step)
    first = moving_bar(4, first_hue=0.2)
    send_animation(panel, first, step=2)  # late: two stills have come since
    page.locator(ANIMATION).wait_for()
    assert page.evaluate("() => sidestream.watching.run.frames.map((frame) => frame.step)") == [1, 2, 3, 4]
    page.evaluate("() => sidestream.watching.scrub(2)")
    page.locator(ANIMATION).wait_for(state="hidden")
    page.locator(f"{PANEL} .ss-player:not(.ss-sound)").wait_for(state="hidden")
    page.evaluate("() => sidestream.watching.scrub(1)")
    page.locator(ANIMATION).wait_for()
    pause(panel)
    go_to(panel, 1)
    wait_for_picture(panel, first[1])
    # A step that came as an animation alone has its place as well.
    send_animation(panel, moving_bar(4), step=6)
    send_still(panel, moving_bar(1)[0], step=7)
    assert page.evaluate("() => sidestream.watching.run.frames.map((frame) => frame.step)") == [1, 2, 3, 4, 6, 7]
    wait_for_picture(panel, first[1])  # and what was chosen stays


def test_keys_play_and_go_through_the_frames(panel: PanelPage) -> None:
    page = panel.page
    frames = moving_bar(8)
    show_animation(panel, frames)
    page.locator(VIEWER).focus()
    page.keyboard.press("Space")
    page.locator(f"{PANEL} .ss-player [aria-label=Play]").wait_for()
    go_to(panel, 7)
    page.locator(VIEWER).focus()
    page.keyboard.press(".")
    wait_for_picture(panel, frames[0])
    page.keyboard.press(",")
    wait_for_picture(panel, frames[7])
    page.keyboard.press("Space")
    page.locator(f"{PANEL} .ss-player [aria-label=Pause]").wait_for()
    page.locator(f"{PANEL} .ss-frames").focus()
    page.keyboard.press("Space")
    page.locator(f"{PANEL} .ss-player [aria-label=Play]").wait_for()
    go_to(panel, 4)
    page.keyboard.press("Home")
    wait_for_picture(panel, frames[0])
    expect(page.locator(f"{PANEL} .ss-frames")).to_have_attribute("aria-valuetext", "Frame 1 of 8, 0.0 s")


def test_who_wants_little_motion_starts_it_himself(panel: PanelPage) -> None:
    panel.page.emulate_media(reduced_motion="reduce")
    frames = moving_bar(4)
    show_animation(panel, frames)
    wait_for_picture(panel, frames[0])
    panel.page.wait_for_timeout(400)
    wait_for_picture(panel, frames[0])
    panel.page.locator(f"{PANEL} .ss-player [aria-label=Play]").click()
    wait_for_picture(panel, frames[2])
    panel.page.emulate_media(reduced_motion="no-preference")


def test_its_controls_have_names_and_fit_into_320_pixels(panel: PanelPage) -> None:
    show_animation(panel, moving_bar(96), step=5)
    send_still(panel, moving_bar(1)[0], step=9)
    panel.page.locator(f"{PANEL} .ss-inset").wait_for()
    pause(panel)
    go_to(panel, 95)
    wait_for_frame(panel, "96 / 96")
    assert panel.page.evaluate(OVERFLOWING) == []
    assert nameless(panel) == []


@on_the_oldest_and_the_newest
def test_it_plays_in_a_window_of_its_own(panel: PanelPage) -> None:
    page = panel.page
    frames = moving_bar(4)
    show_animation(panel, frames)
    page.locator(f"{PANEL} [aria-label^='Open in a separate']").click()
    animation = "documentPictureInPicture.window?.document.querySelector('.ss-animation')"
    panel.wait(f"() => {animation} && !{animation}.hidden")
    drawn = f"() => {animation}.getContext('2d').getImageData(0, 0, 96, 64).data.join()"
    first = page.evaluate(drawn)
    panel.wait(f"first => ({drawn})() !== first", argument=first)
    page.evaluate("() => documentPictureInPicture.window.close()")
    panel.wait("() => !documentPictureInPicture.window")


def test_what_cannot_be_decoded_leaves_the_still(panel: PanelPage) -> None:
    panel.open_panel()
    send_still(panel, moving_bar(1)[0], step=5)
    file = send_animation(panel, moving_bar(4), step=5)
    panel.page.locator(ANIMATION).wait_for()
    panel.page.evaluate("() => sidestream.store.clear()")
    end_run(panel)
    half = file[: len(file) // 2]
    for number, broken in enumerate((b"no picture", half, webp(moving_bar(1), 100))):
        run = f"broken {number}"
        send_still(panel, moving_bar(1)[0], step=5, run=run)
        facts = {"animation": {"frames": 4, "fps": 10, "duration_ms": 400}, "run": run}
        with panel.page.expect_console_message(lambda said: "could not be decoded" in said.text):
            send(panel, broken, "image/webp", step=5, **facts)
        if broken is not half:  # which is shown as far as it goes
            expect(panel.page.locator(ANIMATION)).to_be_hidden()
        wait_until_the_frame_is_shown(panel)


# On the nodes


SAMPLER = "app.graph._nodes.find((node) => node.type === 'KSampler').id"


def load_and_pretend_to_queue(panel: PanelPage, prompt_id: str) -> dict[str, str]:
    """Put the demo graph on the canvas, and let the page believe that it was queued.

    Returns the owner of its sampler's previews.
    """
    panel.load(demo_prompt())
    answer = {"prompt_id": prompt_id, "number": 1, "node_errors": {}}
    panel.page.route("**/prompt", lambda route: route.fulfill(json=answer))
    with panel.page.expect_response("**/prompt"):
        panel.queue()
    panel.page.unroute("**/prompt")
    return {"node": panel.page.evaluate(f"() => String({SAMPLER})"), "prompt": prompt_id}


@on_the_oldest_and_the_newest
def test_the_samplers_own_picture_plays_on_until_a_newer_animation(panel: PanelPage) -> None:
    page = panel.page
    owner = load_and_pretend_to_queue(panel, "p1")
    address = f"() => app.nodePreviewImages[{SAMPLER}][0]"
    send_still(panel, moving_bar(1)[0], step=1, **owner)
    send_animation(panel, moving_bar(6), step=1, **owner)
    wait_for_node_picture(panel, 0.0)
    before = page.evaluate(address)
    page.evaluate("() => { globalThis.heard = 0; app.api.addEventListener('b_preview', () => (heard += 1)); }")
    for step in (2, 3, 4):
        send_still(panel, moving_bar(1)[0], step=step, **owner)
        page.wait_for_timeout(60)
    assert page.evaluate(address) == before  # the very same picture: it did not begin anew
    assert page.evaluate("() => heard") == 3  # other packs hear of each still
    wait_for_node_picture(panel, 0.0)
    send_animation(panel, moving_bar(12, first_hue=0.4), step=4, **owner)
    wait_for_node_picture(panel, 0.4)
    end_run(panel, **owner)
    # A run without animations has its stills there as ever.
    playing = page.evaluate(address)
    send_still(panel, moving_bar(1)[0], step=1, run="stills", **owner)
    assert page.evaluate(address) != playing
    page.evaluate("() => app.canvas.setDirty(true, true)")
    panel.wait(
        "(address) => ![...document.images].some((one) => one.src === address && one.checkVisibility())",
        argument=playing,
    )
    end_run(panel, run="stills", **owner)


def wait_for_node_picture(panel: PanelPage, hue: float) -> None:
    """Wait until an image element in the page, so that it plays, shows an animation of a ground with that hue."""
    panel.wait(
        """(ground) => [...document.querySelectorAll("img[src^='blob:']")].some((picture) => {
          const { width } = picture.getBoundingClientRect();
          if (!width || width >= 600 || getComputedStyle(picture).visibility === "hidden") return false;
          if (!picture.complete || !picture.naturalWidth) return false;
          const context = new OffscreenCanvas(1, 1).getContext("2d");
          context.drawImage(picture, picture.naturalWidth - 1, 0, 1, 1, 0, 0, 1, 1);
          const pixel = context.getImageData(0, 0, 1, 1).data;
          return ground.every((value, i) => Math.abs(value - pixel[i]) < 12);
        })""",
        argument=colour(hue),
    )


@on_the_oldest_and_the_newest
def test_the_preview_node_plays_it_too(panel: PanelPage) -> None:
    page = panel.page
    owner = load_and_pretend_to_queue(panel, "p2")
    frames = moving_bar(5)
    send_still(panel, frames[0], step=1, **owner)
    send_animation(panel, frames, step=1, **owner)
    animation = ".ss-node .ss-node-animation"
    page.locator(animation).first.wait_for()
    for frame in (frames[3], frames[1]):
        wait_for_picture(panel, frame, animation)
    end_run(panel, **owner)
    send_still(panel, frames[0], step=1, run="stills", **owner)
    page.locator(animation).first.wait_for(state="hidden")
    end_run(panel, run="stills", **owner)


# In files


def test_stills_and_animations_are_saved_apart(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    frames = moving_bar(6)
    for step in (1, 2, 3):
        send_still(panel, Image.new("RGB", (96, 64), colour(0.6)), step=step)
    file = send_animation(panel, frames, step=2)
    send_animation(panel, frames, step=4)  # which has no still
    page.locator(ANIMATION).wait_for()
    page.evaluate("() => sidestream.watching.scrub(1)")
    pause(panel)
    go_to(panel, 4)
    wait_for_picture(panel, frames[4])
    assert saved(panel, "animation", "webp") == file
    burn = page.locator(f"{PANEL} .ss-menu [name=burn]")
    burn.evaluate("(box) => { box.checked = true; }")
    with page.expect_download() as download:
        page.locator(f"{PANEL} [data-save=animation]").evaluate("(button) => button.click()")
    assert "labelled" not in download.value.suggested_filename  # nothing is written into it
    burn.evaluate("(box) => { box.checked = false; }")
    picture = Image.open(io.BytesIO(saved(panel, "png"))).convert("RGB")
    assert (np.asarray(picture) == np.asarray(frames[4])).all()
    run = Image.open(io.BytesIO(saved(panel, "webp")))
    assert run.n_frames == 3
    for i in range(3):
        run.seek(i)
        assert run.convert("RGB").getpixel((5, 5)) == pytest.approx(colour(0.6), abs=6)
    panel.wait("() => ownObjectURLs.size === 0")


# In memory


def test_many_animations_leave_memory_bounded(panel: PanelPage) -> None:
    page = panel.page
    noise = np.random.default_rng(1).integers(0, 256, (8, 120, 160, 3), np.uint8)
    frames = [Image.fromarray(each) for each in noise]
    page.evaluate("() => sidestream.settings.set('keep_megabytes', 8)")
    panel.open_panel()
    file = webp(frames, 40)
    for step in range(1, 11):
        send_animation(panel, frames, step=step, duration=40, file=file)
    page.locator(ANIMATION).wait_for()
    before = heap(panel)
    for step in range(11, 41):
        send_animation(panel, frames, step=step, duration=40, file=file)
        page.wait_for_timeout(20)
    after = heap(panel)
    size = page.evaluate("() => sidestream.store.bytes")
    print(f"\nheap {before:.1f} -> {after:.1f} MB over 30 animations; {size / 2**20:.1f} MB kept")
    assert 4 * 2**20 < size <= 8 * 2**20
    assert after - before < 12
    assert page.evaluate("() => ownObjectURLs.size") == 0
    # And where nobody looks nothing is decoded.
    panel.close_panel()
    page.evaluate("() => app.graph.clear()")
    page.evaluate(
        """() => {
          globalThis.decoded = 0;
          const make = globalThis.createImageBitmap;
          globalThis.createImageBitmap = (...what) => (globalThis.decoded++, make(...what));
          globalThis.endCounting = () => { globalThis.createImageBitmap = make; };
        }"""
    )
    # Once what was begun is done.
    panel.wait("async () => { decoded = 0; await new Promise((done) => setTimeout(done, 500)); return decoded === 0; }")
    page.evaluate("() => endCounting()")
    page.evaluate("() => sidestream.settings.set('keep_megabytes', 128)")
