"""The panel in the real page, point by point, on every kind of page."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.pictures import label_of
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run, tell
from sidestream.tests.web.views import (
    OVERFLOWING,
    PANEL,
    VIEWER,
    listen_to_toasts,
    nameless,
    open_details,
    part,
    saved,
    show_two_samplers,
    start_run,
    wait_shown,
    wait_toast,
    wait_until_the_frame_is_shown,
)
from sidestream.tools.page import PanelPage

pytestmark = pytest.mark.browser

TILES_FILL_IT = """
(panel) => {
  panel.style.width = "600px";
  const boxes = [".ss-grid", ".ss-tile:last-child"].map((one) => panel.querySelector(one).getBoundingClientRect());
  panel.style.width = "";
  return Math.abs(boxes[0].right - boxes[1].right) < 1;
}
"""

# 1: a large live picture, several samplers


def test_zoom_is_pixel_exact_and_pans(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    viewer = panel.page.locator(VIEWER)
    canvas = panel.page.locator(f"{VIEWER} .ss-canvas").first
    viewer.focus()
    panel.page.keyboard.press("1")
    box = canvas.bounding_box()
    assert box is not None
    assert box["width"] == 64
    assert "ss-pixels" in (canvas.get_attribute("class") or "")
    viewer.hover()
    panel.page.mouse.wheel(0, -100)
    zoomed = canvas.bounding_box()
    assert zoomed is not None
    assert zoomed["width"] == 128
    panel.page.mouse.down()
    panel.page.mouse.move(zoomed["x"] + 100, zoomed["y"] + 90, steps=3)
    panel.page.mouse.up()
    moved = canvas.bounding_box()
    assert moved is not None
    assert (moved["x"], moved["y"]) != (zoomed["x"], zoomed["y"])
    panel.page.keyboard.press("0")
    fitted = canvas.bounding_box()
    room = viewer.bounding_box()
    assert fitted is not None
    assert room is not None
    assert max(fitted["width"] - room["width"], fitted["height"] - room["height"]) == pytest.approx(0, abs=1)


def test_a_drag_after_one_that_ended_elsewhere_moves_as_far_as_the_pointer(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    room = panel.page.locator(VIEWER).bounding_box()
    assert room is not None
    mouse, x, top = panel.page.mouse, room["x"] + 60, room["y"]
    mouse.move(x, top + 1)
    mouse.down()
    mouse.move(x, top - 1)  # too little to be a drag, and out of it
    mouse.up()
    mouse.move(x, top + 40)
    canvas = panel.page.locator(f"{VIEWER} .ss-canvas").first
    before = canvas.bounding_box()
    mouse.down()
    mouse.move(x + 50, top + 40, steps=5)
    mouse.up()
    after = canvas.bounding_box()
    assert before is not None
    assert after is not None
    assert after["x"] - before["x"] == pytest.approx(50, abs=1)


def test_without_a_worker_the_page_draws(panel: PanelPage) -> None:
    page = panel.page
    page.evaluate("() => { globalThis.kept = Worker; globalThis.Worker = undefined; }")
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    wait_until_the_frame_is_shown(panel)
    page.evaluate("() => { globalThis.Worker = kept; }")


def test_where_the_workers_file_is_refused_the_page_draws_what_the_worker_was_given(
    panel: PanelPage,
) -> None:
    page = panel.page
    page.evaluate(
        """() => {
          const Real = Worker;
          globalThis.Worker = class extends Real {
            constructor(url, options) { super("/no-such-file.js", options); }
          };
        }"""
    )
    try:
        deliver(panel, 3)  # so that the panel has a picture to give to the worker when it opens
        panel.open_panel()
        wait_shown(panel, 3)
        wait_until_the_frame_is_shown(panel)
        panel.close_panel()
        panel.open_panel()
        deliver(panel, 4)
        wait_shown(panel, 4)
        wait_until_the_frame_is_shown(panel)
    finally:
        page.reload()  # with the real one again
        panel.wait_until_ready()


def test_a_window_that_the_browser_blocks_and_a_setting_that_is_not_stored_are_told(
    panel: PanelPage,
) -> None:
    page = panel.page
    panel.open_panel()
    listen_to_toasts(panel)
    page.evaluate(
        """() => {
          const { setting } = app.extensionManager;
          const onTop = Object.getOwnPropertyDescriptor(window, "documentPictureInPicture");
          const before = [window.open, setting.set];
          window.open = () => null;
          Object.defineProperty(window, "documentPictureInPicture", { value: undefined, configurable: true });
          setting.set = () => Promise.reject(new Error("the disk is full"));
          globalThis.restore = () => {
            [window.open, setting.set] = before;
            Object.defineProperty(window, "documentPictureInPicture", onTop);
          };
        }"""
    )
    page.locator(f"{PANEL} [aria-label^='Open in a separate']").click()
    wait_toast(panel, "The browser blocked the window")
    page.locator(f"{PANEL} input[name=throttle_ms]").fill("300")
    page.locator(f"{PANEL} input[name=throttle_ms]").press("Tab")
    wait_toast(panel, "The setting could not be saved")
    page.evaluate("() => restore()")


def test_samplers_are_followed_pinned_or_all_shown(panel: PanelPage) -> None:
    panel.open_panel()
    start_run(panel, seconds=0.05, samplers=2)
    panel.wait("() => sidestream.store.current.length === 2")
    panel.wait_idle()
    chips = panel.page.locator(f"{PANEL} .ss-samplers .ss-chip")
    names = [chips.nth(i).inner_text().rsplit(" ", 1)[0] for i in range(2)]
    assert sorted(names) == ["KSampler A", "KSampler B"]
    assert panel.page.evaluate("() => sidestream.watching.run.title") == names[1]  # the later one
    chips.first.click()
    expect(chips.first).to_have_attribute("aria-pressed", "true")
    assert panel.page.evaluate("() => sidestream.watching.run.title") == names[0]
    panel.page.locator(f"{PANEL} .ss-tabs >> text=All").click()
    tiles = panel.page.locator(f"{PANEL} .ss-tile")
    tiles.nth(1).wait_for()
    expect(tiles).to_have_count(2)
    assert part(panel, "").evaluate(TILES_FILL_IT)
    panel.wait("() => [...document.querySelectorAll('.ss-tile canvas')].every(c => c.width === 512)")
    tiles.nth(1).click()
    assert panel.page.evaluate("() => sidestream.watching.run.title") == names[1]
    panel.page.locator(f"{PANEL} .ss-tabs >> text=Follow").click()
    assert panel.page.evaluate("() => sidestream.watching.pinnedNode") is None


@on_the_oldest_and_the_newest
def test_the_bottom_panel_full_screen_and_a_window_show_it_too(panel: PanelPage) -> None:
    page = panel.page
    deliver(panel, 2)
    panel.command("Workspace.ToggleBottomPanelTab.sidestream")
    bottom = page.locator(".bottom-panel .sidestream, .sidestream")
    bottom.first.wait_for()
    wait_shown(panel, 2)
    page.locator(".sidestream [aria-label='Enter full screen']").click()
    panel.wait("() => document.fullscreenElement?.classList.contains('sidestream')")
    page.locator(".sidestream [aria-label='Exit full screen']").click()
    panel.wait("() => !document.fullscreenElement")
    on_top = "documentPictureInPicture.window"
    page.locator(".sidestream [aria-label^='Open in a separate']").click()
    panel.wait(f"() => {on_top}?.document.querySelector('.ss-viewer')?.ariaLabel.endsWith('2 / 20')")
    page.evaluate(f"() => {on_top}.close()")
    panel.wait(f"() => !{on_top}")
    # And where the browser has no such windows.
    page.evaluate(
        """() => {
          const name = "documentPictureInPicture";
          const { [name]: there } = Object.getOwnPropertyDescriptors(window);
          Object.defineProperty(window, name, { value: undefined, configurable: true });
          globalThis.restore = () => Object.defineProperty(window, name, there);
        }"""
    )
    with page.context.expect_page() as opening:
        page.locator(".sidestream [aria-label^='Open in a separate']").click()
    window = opening.value
    window.wait_for_selector(".sidestream .ss-viewer")
    window.wait_for_function("() => document.querySelector('.ss-canvas').width === 64")
    expect(window.locator("[aria-label^='Open in a separate']")).to_have_count(0)
    assert window.title() == "Live Preview"
    deliver(panel, 1, first=3)
    window.wait_for_function("() => document.querySelector('.ss-viewer').ariaLabel.endsWith('3 / 20')")
    window.close()
    page.evaluate("() => restore()")
    panel.command("Workspace.ToggleBottomPanelTab.sidestream")
    page.locator(".sidestream").wait_for(state="detached")


# 2: the timeline


def test_the_timeline_goes_back_while_the_run_goes_on(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 10)
    wait_shown(panel, 10)
    scrubber = page.locator(f"{PANEL} .ss-scrubber")
    expect(scrubber).to_have_attribute("aria-valuetext", "10 / 20")  # words follow a picture by a frame of the screen
    scrubber.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    wait_shown(panel, 7)
    expect(scrubber).to_have_attribute("aria-valuetext", "7 / 20")
    wait_until_the_frame_is_shown(panel)
    deliver(panel, 4, first=11)
    wait_shown(panel, 7)
    page.locator(f"{PANEL} .ss-live-button").click()
    wait_shown(panel, 14)
    deliver(panel, 1, first=15)
    wait_shown(panel, 15)
    middle = "() => { const f = document.querySelector('.ss-thumbnails'); const d = f.getContext('2d')"
    panel.wait(f"{middle}.getImageData(f.width / 2, 20, 1, 1).data; return d[3] === 255; }}")


def test_thumbnails_that_are_slow_to_make_are_of_the_last_frame_in_the_end(panel: PanelPage) -> None:
    panel.open_panel()
    panel.page.evaluate(
        """() => {
          const { thumbnails } = sidestream.store;
          globalThis.asked = [];
          thumbnails.of = async (frame, height) => {
            asked.push(frame.step);
            await new Promise((done) => setTimeout(done, 500));
            return Object.getPrototypeOf(thumbnails).of.call(thumbnails, frame, height);
          };
        }"""
    )
    deliver(panel, 1)
    panel.wait("() => asked.length === 1")
    deliver(panel, 1, first=2)
    end_run(panel)
    panel.wait("() => asked.includes(2)")
    panel.page.evaluate("() => { delete sidestream.store.thumbnails.of; }")


def test_two_frames_are_compared_with_a_slider(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 9)
    wait_shown(panel, 9)
    page.evaluate("() => sidestream.watching.scrub(1)")
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    page.locator(f"{PANEL} .ss-live-button").click()
    wait_shown(panel, 9)
    expect(part(panel, ".ss-label-left")).to_have_text("2 / 20")
    expect(part(panel, ".ss-label-right")).to_have_text("9 / 20")
    panel.wait("() => document.querySelector('.ss-canvas-left').width === 64")
    left = "() => document.querySelector('.ss-canvas-left').style.clipPath"
    before = page.evaluate(left)
    page.locator(f"{PANEL} .ss-divider").focus()
    page.keyboard.press("ArrowRight")
    by_key = page.evaluate(left)
    assert by_key != before
    box = page.locator(f"{PANEL} .ss-divider").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 70, box["y"] + 20)  # at once, beyond the divider
    page.mouse.up()
    assert page.evaluate(left) != by_key
    page.locator(f"{PANEL} [aria-label^='Compare']").click()
    expect(page.locator(f"{PANEL} .ss-canvas-left")).to_be_hidden()


def test_kept_frames_are_bounded_and_earlier_runs_can_be_chosen(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    page.evaluate("() => sidestream.settings.set('keep_frames', 12)")
    deliver(panel, 9, run="first", prompt="p1")
    end_run(panel, run="first", prompt="p1")
    deliver(panel, 8, run="second", prompt="p2")
    wait_shown(panel, 8)
    assert page.evaluate("() => sidestream.store.frameCount") == 12
    page.locator(f"{PANEL} [aria-label^='Show all runs']").click()
    expect(page.locator(f"{PANEL} .ss-shot")).to_have_count(2)
    page.locator(f"{PANEL} .ss-shot-picture").first.click()
    wait_shown(panel, 9)
    assert page.evaluate("() => sidestream.watching.run.id") == "first"
    assert page.evaluate("() => sidestream.watching.run.frames.length") == 4
    page.evaluate("() => sidestream.settings.set('keep_frames', 600)")


def test_what_was_forgotten_is_watched_no_longer(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 5)
    end_run(panel)
    for look_back in ("scrub(1)", "choose(sidestream.store.runs[0])"):
        page.evaluate(f"() => sidestream.watching.{look_back}")
        assert not page.evaluate("() => sidestream.watching.isLive")
        page.evaluate("() => sidestream.archive.forgetAll()")
        assert page.evaluate("() => sidestream.watching.isLive")
        deliver(panel, 4, run=look_back)
        wait_shown(panel, 4)
        end_run(panel, run=look_back)


def test_frames_and_runs_are_saved(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 6)
    wait_shown(panel, 6)
    file = saved(panel, "png")
    label = label_of(file)
    ids = {"prompt_id": "p", "node_id": "10", "run": "r"}
    assert label.items() >= (ids | {"step": 6, "total_steps": 20, "decoder": "latent2rgb", "width": 64}).items()
    png = Image.open(io.BytesIO(file))
    png.load()
    assert (png.format, png.size) == ("PNG", (64, 64))
    red, _, blue = png.convert("RGB").getpixel((32, 10))  # type: ignore[misc]
    assert (red, blue) == (pytest.approx(72, abs=4), pytest.approx(183, abs=4))
    file = saved(panel, "webp")
    assert label_of(file) == ids | {"steps": [1, 2, 3, 4, 5, 6]}
    plain = Image.open(io.BytesIO(file))
    assert (plain.format, plain.size, plain.n_frames) == ("WEBP", (64, 64), 6)
    panel.page.locator(f"{PANEL} .ss-menu-button").click()
    panel.page.locator(f"{PANEL} .ss-menu [name=burn]").check()
    panel.page.locator(f"{PANEL} .ss-menu-button").click()
    burnt = Image.open(io.BytesIO(saved(panel, "png"))).convert("RGB")
    assert burnt.crop((0, 44, 40, 64)).getcolors() != png.convert("RGB").crop((0, 44, 40, 64)).getcolors()
    panel.page.locator(f"{PANEL} .ss-menu-button").click()
    panel.page.locator(f"{PANEL} .ss-menu [name=burn]").uncheck()
    panel.page.locator(f"{PANEL} .ss-menu-button").click()
    assert saved(panel, "webm")[:4] == b"\x1a\x45\xdf\xa3"
    panel.wait("() => ownObjectURLs.size === 0")


# 3: live settings


def test_changing_a_setting_leaves_the_panel_as_it_is(panel: PanelPage) -> None:
    panel.open_panel()
    panel.page.evaluate(f"() => {{ globalThis.before = document.querySelector('{PANEL}'); }}")
    panel.page.evaluate("() => sidestream.liveSettings.change('throttle_ms', 300)")
    panel.wait("() => document.querySelector('[name=throttle_ms]').value === '300'")
    panel.page.wait_for_timeout(300)
    assert panel.page.evaluate(f"() => before === document.querySelector('{PANEL}')")


def test_the_panel_opens_though_the_server_did_not_say_what_can_be_set(panel: PanelPage) -> None:
    page = panel.page
    page.evaluate("() => { globalThis.known = sidestream.settings.fields; sidestream.settings.fields = {}; }")
    panel.open_panel()
    deliver(panel, 3)
    wait_shown(panel, 3)
    page.locator(f"{PANEL} [aria-label='Pause previews']").click()
    page.locator(f"{PANEL} [aria-label='Resume previews']").click()
    page.locator(f"{PANEL} [aria-label='Pause previews']").wait_for()
    page.evaluate("() => { sidestream.settings.fields = known; }")


# 4: numbers and notices


# It is that of the last 3 s, and then there is none.
WATCH_RATE = """
() => {
  const rate = document.querySelector(".ss-stat-rate dd");
  globalThis.rates = [];
  globalThis.looking = new MutationObserver(() => rates.push(rate.textContent));
  looking.observe(rate, { childList: true, subtree: true, characterData: true });
}
"""


def test_the_numbers_are_those_of_the_frames(panel: PanelPage) -> None:
    panel.open_panel()
    open_details(panel)
    panel.page.evaluate(WATCH_RATE)
    deliver(panel, 12)
    wait_shown(panel, 12)
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent === '12 / 20'")
    expect(part(panel, ".ss-stat-latency dd")).to_have_text("12 ms")
    expect(part(panel, ".ss-stat-dropped dd")).to_have_text("2")
    expect(part(panel, ".ss-stat-picture dd")).to_have_text("Latent2RGB · 64 × 64")
    rates = panel.page.evaluate("() => { looking.disconnect(); return rates; }")
    assert any(rate.endswith("/ s") for rate in rates)
    dropped = panel.page.locator(f"{PANEL} .ss-stat-dropped")
    assert "2 replaced by a newer frame" in (dropped.get_attribute("title") or "")
    panel.wait(f"() => document.querySelector('{PANEL} .ss-spark').ariaLabel.includes('at most')")
    titles = panel.page.locator(f"{PANEL} .ss-stat").evaluate_all("all => all.map(e => e.title)")
    assert all(titles)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"installed": False, "problem": "get_previewer is missing"}, "get_previewer is missing"),
        ({"installed": True, "in_charge": "other_pack"}, "other_pack"),
        (None, "not responding"),
    ],
)
def test_what_is_degraded_is_said(panel: PanelPage, answer: dict[str, Any] | None, said: str) -> None:
    page = panel.page
    if answer is None:
        page.route("**/sidestream/status", lambda route: route.fulfill(status=500, body="no"))
    else:
        page.route("**/sidestream/status", lambda route: route.fulfill(json={"provider": answer}))
    panel.open_panel()
    page.locator(f"{PANEL} .ss-notice:visible").wait_for()
    expect(part(panel, ".ss-notice")).to_contain_text(said)
    page.unroute("**/sidestream/status")
    panel.close_panel()
    panel.open_panel()
    page.locator(f"{PANEL} .ss-notice").wait_for(state="hidden")


@pytest.mark.parametrize(
    ("why", "said"), [("method", "turned off in ComfyUI"), ("latents", "not supported")]
)
def test_why_a_sampler_has_no_previews_is_said(panel: PanelPage, why: str, said: str) -> None:
    panel.open_panel()
    panel.page.evaluate(
        """(why) => app.api.socket.dispatchEvent(new MessageEvent("message", { data: JSON.stringify({
          type: "sidestream.run", data: { node_id: "10", prompt_id: "p", state: "none", why },
        }) }))""",
        why,
    )
    panel.page.locator(f"{PANEL} .ss-notice:visible").wait_for()
    expect(part(panel, ".ss-notice")).to_contain_text(said)
    deliver(panel, 1)
    wait_shown(panel, 1)
    expect(part(panel, ".ss-notice")).not_to_contain_text(said)


def test_who_suppresses_previews_is_said_with_the_place_to_switch_it_off(panel: PanelPage) -> None:
    panel.open_panel()
    about = {"node_id": "10", "prompt_id": "p", "state": "none", "why": "suppressed"}
    where = {"node_id": "7", "title": "Override", "option": "suppress"}
    tell(panel, "sidestream.run", **about, who="APack", where=where)
    panel.page.locator(f"{PANEL} .ss-notice:visible").wait_for()
    expect(part(panel, ".ss-notice")).to_contain_text("APack suppresses")
    expect(part(panel, ".ss-notice")).to_contain_text("Turn off suppress on its node 'Override'")
    # However much is to be said, its button stays in reach.
    tell(panel, "sidestream.run", **about, who="x" * 4000, where=None)
    panel.wait("() => document.querySelector('.ss-notice').innerText.includes('xxxx')")
    notice = panel.page.locator(f"{PANEL} .ss-notice").bounding_box()
    button = panel.page.locator(f"{PANEL} .ss-notice button").bounding_box()
    words = panel.page.locator(f"{PANEL} .ss-notice span").bounding_box()
    assert notice["height"] < 160
    assert words["x"] + words["width"] <= button["x"] + 1


def test_a_model_that_needs_a_decoder_is_told_which(panel: PanelPage) -> None:
    panel.open_panel()
    missing = {"file": "a.pth", "url": "https://example.com/a.pth", "megabytes": 0}
    missing |= {"folder": "models/vae_approx", "models": "Some"}
    about = {"node_id": "10", "prompt_id": "p", "state": "none", "why": "latents"}
    tell(panel, "sidestream.run", **about, missing_decoder=missing)
    notice = part(panel, ".ss-notice")
    expect(notice).to_contain_text("need its decoder: put a.pth into models/vae_approx")
    expect(notice.locator("a")).to_have_text("Download")
    assert notice.locator("a").get_attribute("href") == missing["url"]
    tell(panel, "sidestream.run", **about)
    expect(notice).to_contain_text("not supported")
    expect(notice.locator("a")).to_be_hidden()


def test_a_decoder_that_is_too_slow_is_said_with_what_to_set(panel: PanelPage) -> None:
    panel.open_panel()
    deliver(panel, 1)
    slow = {"decoder": "taesd", "decode_ms": 1250.4, "seconds_between": 25.2}
    tell(panel, "sidestream.run", run="r", prompt_id="p", node_id="10", state="start", slow=slow)
    panel.wait("() => document.querySelector('.ss-notice').innerText.includes('taesd takes 1250 ms')")
    expect(part(panel, ".ss-notice")).to_contain_text("one every 25 s")
    expect(part(panel, ".ss-notice")).to_contain_text("Raise “At most this share of the GPU”")


@on_the_oldest_and_the_newest
def test_a_foreign_preview_is_shown_and_named_so(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    deliver(panel, 1)
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(32, 16);
          canvas.getContext("2d").fillRect(0, 0, 32, 16);
          const detail = { blob: await canvas.convertToBlob(), nodeId: "77", displayNodeId: "77",
                           promptId: "q", jobId: "q" };
          app.api.dispatchEvent(new CustomEvent("b_preview_with_metadata", { detail }));
        }"""
    )
    panel.wait("() => document.querySelector('.ss-canvas').width === 32")
    # Words follow a picture by a frame of the screen.
    panel.wait("() => document.querySelector('.ss-notice').innerText.includes('another previewer')")


# 7: commands and keys


@on_the_oldest_and_the_newest
def test_keys_open_the_panel_and_pause_previews(panel: PanelPage) -> None:
    page = panel.page
    page.locator("canvas#graph-canvas").first.focus()
    page.evaluate("() => document.activeElement?.blur()")
    page.keyboard.press("Shift+L")
    page.locator(PANEL).wait_for()
    page.evaluate("() => document.activeElement?.blur()")
    page.keyboard.press("Shift+K")
    panel.wait("() => sidestream.liveSettings.paused")
    page.keyboard.press("Shift+K")
    panel.wait("() => !sidestream.liveSettings.paused")
    page.keyboard.press("Shift+L")
    page.locator(PANEL).wait_for(state="detached")


@on_the_oldest_and_the_newest
def test_a_dot_on_the_tab_says_that_a_run_streams(panel: PanelPage) -> None:
    dot = """() => {
      const tab = document.querySelector(".sidestream-tab-button, [data-testid=sidestream-tab-button]");
      return getComputedStyle(tab, "::after").content !== "none";
    }"""
    assert not panel.page.evaluate(dot)
    deliver(panel, 1)
    assert panel.page.evaluate(dot)
    end_run(panel)
    assert not panel.page.evaluate(dot)


# 8: people


@on_the_oldest_and_the_newest
def test_everything_can_be_reached_and_has_a_name(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    show_two_samplers(panel)
    assert nameless(panel) == []
    page.locator(VIEWER).focus()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        place = page.evaluate(
            """() => {
              const e = document.activeElement;
              if (!e.closest(".sidestream")) return null;
              const outlined = getComputedStyle(e).outlineStyle !== "none";
              return [e.name || e.ariaLabel || e.textContent, outlined];
            }"""
        )
        if place is None:
            break
        assert place[1], f"{place[0]} shows no focus"
        reached.add(place[0])
    assert {"Frame of the run", "throttle_ms", "method"} <= reached
    page.emulate_media(reduced_motion="reduce")
    animation = page.locator(f"{PANEL} .ss-live-button").evaluate(
        "button => getComputedStyle(button, '::before').animationName"
    )
    assert animation == "none"
    page.emulate_media(reduced_motion="no-preference")


@on_the_oldest_and_the_newest
def test_it_fits_into_320_pixels(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    show_two_samplers(panel)
    assert page.evaluate(OVERFLOWING) == []
