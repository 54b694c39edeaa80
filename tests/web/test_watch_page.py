"""The watch page in a browser of its own, and what ComfyUI's settings say of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
import zxingcpp
from PIL import Image
from playwright.sync_api import expect
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.proxies import proxy
from sidestream.tests.web.views import LONG, NAMELESS, SEEDS, confirm, finish, wait_over
from sidestream.tools.local import opened
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

SETTING = ".ss-sharing"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
PICTURE = "img:not([hidden])"

# Watches what moves: animations, timers that repeat, and pictures that are drawn.
COUNT_TICKS = """
() => {
  globalThis.ticks = 0;
  const { setInterval, requestAnimationFrame } = window;
  window.setInterval = (act, ms) => setInterval(() => { ticks += 1; act(); }, ms);
  window.requestAnimationFrame = (act) => requestAnimationFrame((now) => { ticks += 1; act(now); });
}
"""
# The screen's locks, as a phone's browser gives them on HTTPS.
LOCKS = """
() => {
  globalThis.locks = [];
  const request = async (kind) => {
    const lock = { kind, released: false, release: async () => { lock.released = true; } };
    locks.push(lock);
    return lock;
  };
  Object.defineProperty(navigator, "wakeLock", { value: { request }, configurable: true });
}
"""

# A connection whose messages a test makes up, and pictures that are counted until they are freed.
SOCKETS = """
() => {
  globalThis.WebSocket = class { constructor() { globalThis.socket = this; } send() {} close() {} };
  globalThis.kept = new Set();
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (blob) => { const made = createObjectURL(blob); kept.add(made); return made; };
  URL.revokeObjectURL = (address) => { kept.delete(address); revokeObjectURL(address); };
}
"""
TELL = """
async (code) => {
  const canvas = new OffscreenCanvas(8, 8);
  canvas.getContext("2d");
  const data = await canvas.convertToBlob();
  socket.onmessage({ data: '{"run": "r", "stage": 1, "step": 1, "total_steps": 2}' });
  socket.onmessage({ data });
  if (code) socket.onclose({ code });
}
"""


def ask(url: str, body: dict[str, Any]) -> Any:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with opened(urllib.request.Request(f"{url}/sidestream/sharing", data, headers), timeout=10) as got:
        return json.load(got)


@pytest.fixture
def shared(panel: PanelPage) -> Iterator[str]:
    """The watch page's address, while the server shares."""
    key = ask(panel.url, {"on": True})["key"]
    yield f"{panel.url}/extensions/ComfyUI-SideStream/watch.html#{key}"
    ask(panel.url, {"on": False})


Watch = Callable[..., "Page"]


@pytest.fixture
def watch(browser: Browser) -> Iterator[Watch]:
    """Call it with an address for a watch page in a browser of its own, whose console must stay silent."""
    contexts, said = [], []

    def start(address: str, *scripts: str, **options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        for script in scripts:
            page.add_init_script(f"({script})()")
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    assert [line for line in said if "WebSocket" not in line and "Failed to load" not in line] == []


def start(panel: PanelPage, steps: int = 60, seconds: float = 0.1) -> None:
    panel.load(demo_prompt(steps=steps, seconds=seconds, seed=next(SEEDS), method="latent2rgb"))
    panel.queue()


def idle_text(page: Page) -> Any:
    return page.get_by_text("Nothing is running.")


@on_the_oldest_and_the_newest
def test_from_the_settings_to_the_phone(panel: PanelPage, watch: Watch, tmp_path: Path) -> None:
    """Switched on in the dialog; the QR code's page shows the run; a new address ends the old one."""
    page = panel.page
    panel.command("Comfy.ShowSettingsDialog")
    page.get_by_text("SideStream", exact=True).last.click()
    switch = page.get_by_role("switch", name="Share previews")
    expect(switch).not_to_be_checked()
    expect(page.locator(".ss-qr")).to_have_count(0)
    try:
        switch.check()
        page.get_by_text("Only this computer can reach this address.").wait_for()
        code = page.locator(".ss-qr")
        code.scroll_into_view_if_needed()
        code.screenshot(path=tmp_path / "code.png")
        [read] = zxingcpp.read_barcodes(Image.open(tmp_path / "code.png"))
        address = page.get_by_label("Address of the watch page").input_value()
        assert read.text == address
        assert page.locator(f"{SETTING} :is(button, input, a)").evaluate_all(NAMELESS) == []
        phone = watch(address, **PHONE)
        expect(idle_text(phone)).to_be_visible()
        expect(page.get_by_text("Watching now: 1")).to_be_visible()
        # What is asked first, and does nothing by itself.
        new = page.get_by_role("button", name="New address")
        confirm(new, page.get_by_role("button", name="Replace the address?"))
        expect(page.get_by_label("Address of the watch page")).not_to_have_value(address)
        expect(phone.get_by_text("Nothing is shared at this address.")).to_be_visible()
        again = watch(page.get_by_label("Address of the watch page").input_value(), **PHONE)
        expect(idle_text(again)).to_be_visible()
        switch.uncheck()
        expect(again.get_by_text("Nothing is shared at this address.")).to_be_visible()
        expect(page.locator(".ss-shared > *")).to_have_count(0)
        switch.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
    finally:
        ask(panel.url, {"on": False})


def test_picture_bar_and_time_left_while_it_runs_and_nothing_moves_after(
    panel: PanelPage, watch: Watch, shared: str
) -> None:
    phone = watch(shared, COUNT_TICKS, **PHONE)
    expect(idle_text(phone)).to_be_visible()
    start(panel, steps=LONG)
    phone.wait_for_selector(PICTURE)
    bar = phone.get_by_role("progressbar", name="Progress")
    phone.wait_for_function("() => document.querySelector('progress').value > 5")
    assert bar.get_attribute("max") == str(LONG)
    phone.wait_for_function("() => /^[\\d:]+:\\d\\d left$/.test(document.querySelector('footer span').textContent)")
    assert phone.evaluate("() => document.querySelector('img').naturalWidth") == 512
    finish(panel)
    expect(bar).to_be_hidden()
    expect(phone.locator(PICTURE)).to_be_visible()
    expect(phone.locator("footer span")).to_have_text("")
    assert phone.evaluate("() => ticks") > 5
    for _ in range(3):  # the last picture may still come
        before = phone.evaluate("() => ticks")
        phone.wait_for_timeout(2500)
        after = phone.evaluate("() => ticks")
        if after == before:
            break
    assert after == before
    assert phone.evaluate("() => document.getAnimations().length") == 0
    ask(panel.url, {"on": False})
    expect(phone.get_by_text("Nothing is shared at this address.")).to_be_visible()
    expect(phone.locator("img[src]")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(panel: PanelPage, watch: Watch, shared: str, scheme: str) -> None:
    start(panel, steps=LONG, seconds=0.1)
    page = watch(shared, color_scheme=scheme)
    page.wait_for_selector(PICTURE)
    page.wait_for_function("() => document.querySelector('footer span').textContent")
    sizes = "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    inside = """
    () => [...document.querySelectorAll("img, progress, footer span, button")].every((part) => {
      const box = part.getBoundingClientRect();
      return box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.bottom <= innerHeight;
    })
    """
    for width, height in ((390, 844), (220, 300), (1280, 720)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(f"() => innerWidth === {width}")
        assert page.evaluate(sizes) == [width, height]
        assert page.evaluate(inside)
    light = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert light == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(0, 0, 0)")


def test_full_screen_by_the_button_and_the_key(panel: PanelPage, watch: Watch, shared: str) -> None:
    page = watch(shared)
    is_full = "() => document.fullscreenElement !== null"
    expect(idle_text(page)).to_be_visible()
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name="Enter full screen")
    expect(button).to_be_focused()
    expect(button).to_have_css("opacity", "1")
    page.keyboard.press("Enter")
    page.wait_for_function(is_full)
    expect(page.get_by_role("button", name="Exit full screen")).to_have_count(1)
    page.keyboard.press("f")
    page.wait_for_function("() => document.fullscreenElement === null")


@pytest.mark.parametrize(
    ("asked", "seen"),
    [("transparent", (0, 0, 0, 0)), ("00ff00", (0, 255, 0, 255)), ("url(x)", (255, 255, 255, 255))],
)
def test_in_obs_it_stands_on_any_ground_or_none(
    panel: PanelPage, watch: Watch, shared: str, tmp_path: Path, asked: str, seen: tuple[int, ...]
) -> None:
    page = watch(shared.replace("#", f"?background={asked}#"), viewport={"width": 600, "height": 300})
    start(panel, steps=3, seconds=0.01)
    page.wait_for_selector(PICTURE)
    page.screenshot(path=tmp_path / "page.png", omit_background=True)
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.convert("RGBA").getpixel((5, 5)) == seen
        middle = shot.convert("RGBA").getpixel((300, 120))
    assert isinstance(middle, tuple)
    assert middle[3] == 255


def test_it_comes_back_by_itself(panel: PanelPage, watch: Watch, shared: str) -> None:
    """After a broken connection, in a folder of a proxy."""
    with proxy(panel.url, "/some/folder") as (one, address):
        page = watch(shared.replace(panel.url, address))
        expect(idle_text(page)).to_be_visible()
        one.set_broken(True)
        expect(page.get_by_text("Connection lost.")).to_be_visible()
        one.set_broken(False)
        expect(idle_text(page)).to_be_visible()
        start(panel, steps=5)
        page.wait_for_selector(PICTURE)
        assert one.outside == []


def test_a_refusal_while_a_picture_loads_costs_no_later_one(panel: PanelPage, watch: Watch, shared: str) -> None:
    page = watch(shared, SOCKETS)
    page.wait_for_function("() => globalThis.socket?.onmessage")
    page.evaluate(TELL, 4401)
    expect(page.get_by_text("Nothing is shared at this address.")).to_be_visible()
    expect(page.locator("img[src]")).to_have_count(0)
    page.wait_for_function("() => kept.size === 0")
    page.evaluate("() => dispatchEvent(new Event('online'))")  # it connects again
    page.evaluate(TELL, 0)
    page.wait_for_selector(PICTURE)
    page.wait_for_function("() => kept.size === 1")


def test_without_a_key_or_with_another_it_shows_nothing(panel: PanelPage, watch: Watch, shared: str) -> None:
    pages = [watch(shared.partition("#")[0]), watch(shared[:-2] + "xx")]
    start(panel, steps=10)
    for page in pages:
        expect(page.get_by_text("Nothing is shared at this address.")).to_be_visible()
    wait_over(panel)
    assert all(page.locator("img[src]").count() == 0 for page in pages)


def test_the_screen_stays_on_while_something_runs(panel: PanelPage, watch: Watch, shared: str) -> None:
    page = watch(shared, LOCKS)
    expect(idle_text(page)).to_be_visible()
    assert page.evaluate("() => locks.length") == 0
    page.clock.install()
    start(panel, steps=10)
    page.wait_for_function("() => locks.length === 1 && !locks[0].released")
    wait_over(panel)
    expect(page.locator("progress")).to_be_hidden()  # the page knows it, too
    page.clock.fast_forward(9 * 60_000)
    assert page.evaluate("() => locks.map((lock) => lock.released)") == [False]
    page.clock.fast_forward(2 * 60_000)
    page.wait_for_function("() => locks[0].released")
    page.evaluate("() => window.dispatchEvent(new Event('visibilitychange'))")
    assert page.evaluate("() => locks.length") == 1


@pytest.mark.parametrize(
    ("locale", "title", "direction"),
    [("ja-JP", "ライブプレビュー", "ltr"), ("he-IL", "תצוגה מקדימה חיה", "rtl")],
)
def test_it_speaks_the_browsers_language(
    panel: PanelPage, watch: Watch, shared: str, locale: str, title: str, direction: str
) -> None:
    page = watch(shared, locale=locale)
    expect(page).to_have_title(title)
    expect(page.locator("html")).to_have_attribute("lang", locale[:2])
    expect(page.locator("p")).to_have_css("direction", direction)
    expect(page.locator("progress")).to_have_css("direction", "ltr")  # time runs so in every language


def test_its_policy_forbids_scripts_of_others(panel: PanelPage, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(f"{panel.url}/extensions/ComfyUI-SideStream/watch.html")
    refused = """
    () => new Promise((resolve) => {
      document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
      document.body.append(Object.assign(document.createElement("script"), { textContent: "0" }));
    })
    """
    assert page.evaluate(refused) == "script-src-elem"
    page.close()
