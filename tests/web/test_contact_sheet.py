"""All runs as a contact sheet: live tiles, what can be done with a run, what is kept over a reload."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run, png, put_out
from sidestream.tests.web.views import (
    LONG,
    OVERFLOWING,
    PANEL,
    SEEDS,
    confirm,
    heap,
    listen_to_toasts,
    nameless,
    part,
    start_run,
    wait_over,
    wait_toast,
)
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.browser

SHEET = f"{PANEL} .ss-sheet"
TILE = f"{SHEET} .ss-shot"


def open_sheet(panel: PanelPage) -> None:
    panel.open_panel()
    if not panel.page.evaluate("() => sidestream.watching.sheet"):
        part(panel, "[aria-label^='Show all runs']").click()
    panel.page.locator(SHEET).wait_for()


def deliver_run(panel: PanelPage, name: str, steps: int = 4, *, over: bool = True) -> None:
    """A made-up run of a prompt of its own."""
    deliver(panel, steps, run=name, prompt=f"p{name}", total=steps)
    if over:
        end_run(panel, run=name, prompt=f"p{name}")


FORGET = ".ss-sheet [aria-label='Forget all runs']"


def forget_all(panel: PanelPage) -> None:
    confirm(part(panel, FORGET), part(panel, ".ss-sheet [aria-label^='Forget all, starred']"))


def tile(panel: PanelPage, number: int) -> Locator:
    return panel.page.locator(TILE).nth(number)


def runs(panel: PanelPage) -> list[str]:
    found: list[str] = panel.page.evaluate("() => sidestream.store.runs.map(({ id }) => id)")
    return found


DRAWN = "[...document.querySelectorAll('.ss-shot canvas')].filter((c) => c.width > 1).length"


def wait_drawn(panel: PanelPage, count: int) -> None:
    panel.wait(f"count => {DRAWN} === count", argument=count)


def open_sheet_of(panel: PanelPage, names: str) -> None:
    """The sheet with made-up runs that are over."""
    open_sheet(panel)
    for name in names:
        deliver_run(panel, name)
    wait_drawn(panel, len(names))


# Live, in the order of the queue


@on_the_oldest_and_the_newest
def test_a_tile_waits_runs_and_is_over_in_the_same_place(panel: PanelPage) -> None:
    page = panel.page
    seeds = [next(SEEDS) * 10 for _ in range(3)]
    open_sheet(panel)
    page.evaluate(WATCH_TILES)
    for seed in seeds:
        panel.load(demo_prompt(seed=seed, steps=60, seconds=0.05))
        panel.queue()
    page.locator(TILE).nth(2).wait_for()
    for number, seed in enumerate(seeds):
        expect(tile(panel, number)).to_contain_text(f"Seed {seed}")
        expect(tile(panel, number)).to_contain_text("euler · 60 steps · CFG 1")
    panel.wait("() => sidestream.store.runs.length === 3 && !sidestream.store.live", 60)
    panel.wait("() => [...document.querySelectorAll('.ss-shot-state')].every((e) => e.textContent === '60 / 60')")
    watched = page.evaluate("() => { endWatching(); return watched; }")
    assert len(watched) == 3  # each kept its element
    assert watched[2]["states"][0] == "Waiting"
    assert [one["states"][-1] for one in watched] == ["60 / 60"] * 3
    # Live: its picture is that of a later step each time. A busy page misses some of them.
    assert any(one["pictures"] > 2 for one in watched)
    steps = [int(state.split()[0]) for one in watched for state in one["states"] if "/" in state]
    assert any(1 < step < 60 for step in steps)
    assert page.locator(TILE).count() == 3


# What the tiles say and show from now on, as soon as they do.
WATCH_TILES = """() => {
  const seen = new Map();
  const newest = (texts, text) => text && texts.at(-1) !== text && texts.push(text);
  const look = () => {
    for (const tile of document.querySelectorAll(".ss-shot")) {
      if (!seen.has(tile)) seen.set(tile, { states: [], pictures: new Set() });
      const { states, pictures } = seen.get(tile);
      newest(states, tile.querySelector(".ss-shot-state").textContent);
      const canvas = tile.querySelector("canvas");
      if (canvas.width > 1) pictures.add(canvas.toDataURL());
    }
    globalThis.looking = requestAnimationFrame(look);
  };
  look();
  globalThis.endWatching = () => {
    cancelAnimationFrame(looking);
    look(); // the last change may have come after the last look
    cancelAnimationFrame(looking);
    globalThis.watched = [...seen.values()].map(({ states, pictures }) => ({ states, pictures: pictures.size }));
  };
}"""


@on_the_oldest_and_the_newest
def test_prompts_are_skipped_and_finished_from_their_tiles(panel: PanelPage) -> None:
    page = panel.page
    open_sheet(panel)
    for _ in range(3):
        start_run(panel, steps=LONG, seconds=0.03)
    page.locator(TILE).nth(2).wait_for()
    ids = page.evaluate("() => sidestream.queue.waiting.map(({ promptId }) => promptId)")
    panel.wait_frames(2)
    act(tile(panel, 1), "Skip this prompt")
    expect(page.locator(TILE)).to_have_count(2)
    pending = "async () => (await (await app.api.fetchApi('/queue')).json()).queue_pending.map((item) => item[1])"
    assert page.evaluate(pending) == ids[-1:]
    act(tile(panel, 0), "Skip this prompt")
    panel.wait("id => sidestream.store.runs.at(-1).promptId === id", argument=ids[-1])
    panel.wait("() => sidestream.store.runs.at(-1).canFinish && sidestream.store.runs.at(-1).step > 3")
    ended = """async ([id, how]) => {
      const history = await (await app.api.fetchApi(`/history/${id}`)).json();
      return history[id]?.status.status_str === how;
    }"""
    first = page.evaluate("() => sidestream.store.runs[0].promptId")
    panel.wait(ended, argument=[first, "error"])
    tile(panel, 1).hover()
    here, sure = (tile(panel, 1).locator(f"button[aria-label^='Finish {name}']") for name in ("here", "at"))
    asked = "(button) => { button.click(); return [button.ariaLabel, sidestream.store.runs.at(-1).live]; }"
    assert here.evaluate(asked) == ["Finish at this step?", True]
    confirm(here, sure)
    panel.wait("() => sidestream.store.runs.at(-1).finishedAt > 3")
    panel.wait(ended, argument=[ids[-1], "success"])
    picture = tile(panel, 1).locator(".ss-shot-picture")
    panel.wait("() => document.querySelectorAll('.ss-shot-picture')[1].title.includes('Finished at step')")
    assert f"of {LONG}" in (picture.get_attribute("title") or "")


def act(one: Locator, name: str) -> None:
    """Press one of a tile's buttons."""
    one.hover()
    one.locator(f"button[aria-label^='{name}']").click()


def test_a_prompt_that_is_taken_out_of_the_queue_elsewhere_has_no_tile_left(panel: PanelPage) -> None:
    page = panel.page
    open_sheet(panel)
    for _ in range(2):
        start_run(panel, steps=LONG, seconds=0.03)
    panel.wait_frames(2)
    expect(page.locator(TILE)).to_have_count(2)
    page.evaluate("() => app.api.fetchApi('/queue', { method: 'POST', body: '{\"clear\":true}' })")
    expect(page.locator(TILE)).to_have_count(1)
    page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()


def test_prompts_that_wait_are_there_again_after_a_reload(panel: PanelPage) -> None:
    page = panel.page
    for _ in range(2):
        start_run(panel, steps=LONG, seconds=0.03)
    panel.wait_frames(2)
    seed = page.evaluate("() => sidestream.prompts.originOf(...last())".replace("last()", LAST_WAITING)).get("seed")
    page.reload()
    panel.wait_until_ready()
    open_sheet(panel)
    expect(page.locator(TILE)).to_have_count(2)
    expect(tile(panel, 1)).to_contain_text(f"Seed {seed}")
    page.evaluate("() => app.api.fetchApi('/queue', { method: 'POST', body: '{\"clear\":true}' })")
    page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()


LAST_WAITING = "(({ promptId }) => [promptId, sidestream.prompts.samplerOf(promptId)])(sidestream.queue.waiting.at(-1))"


def test_a_tile_ends_on_the_result_of_its_run(panel: PanelPage) -> None:
    prompt = demo_prompt(seed=next(SEEDS) * 10, steps=3)
    prompt["30"] = {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}}
    prompt["31"] = {"class_type": "VAEDecode", "inputs": {"samples": ["10", 0], "vae": ["30", 0]}}
    prompt["32"] = {"class_type": "PreviewImage", "inputs": {"images": ["31", 0]}}
    open_sheet(panel)
    panel.load(prompt)
    panel.queue()
    expect(tile(panel, 0)).to_contain_text("Result")
    wait_drawn(panel, 1)


def test_a_result_is_fetched_once_its_tile_scrolls_into_view(panel: PanelPage) -> None:
    open_sheet(panel)
    names = [f"r{number}" for number in range(40)]
    for name in names:
        deliver_run(panel, name)
    expect(panel.page.locator(TILE)).to_have_count(40)
    tile(panel, 39).scroll_into_view_if_needed()
    panel.wait(f"() => document.querySelector(`{TILE} canvas`).width <= 1")  # it is out of view
    asked = put_out(panel, "r.png", png((96, 96), (10, 200, 30)), "image/png", prompt="pr0")
    panel.page.wait_for_timeout(300)
    assert asked == []
    tile(panel, 0).scroll_into_view_if_needed()
    expect(tile(panel, 0)).to_contain_text("Result")
    assert len(asked) == 1


# What can be done with a run


def test_a_run_is_starred_deleted_and_put_back_and_all_are_forgotten_after_a_question(panel: PanelPage) -> None:
    page = panel.page
    open_sheet_of(panel, "abc")
    act(tile(panel, 0), "Star")
    expect(tile(panel, 0).locator(".ss-star")).to_have_attribute("aria-pressed", "true")
    part(panel, ".ss-sheet [aria-label='Show starred runs only']").click()
    expect(page.locator(TILE)).to_have_count(1)
    part(panel, ".ss-sheet [aria-label='Show starred runs only']").click()
    act(tile(panel, 1), "Delete this run")
    expect(page.locator(TILE)).to_have_count(2)
    assert runs(panel) == ["a", "c"]
    part(panel, ".ss-undo-bar button").click()
    expect(page.locator(TILE)).to_have_count(3)
    assert runs(panel) == ["a", "b", "c"]
    expect(tile(panel, 1).locator(".ss-shot-picture")).to_be_focused()  # else the page has the next key
    assert page.evaluate("() => sidestream.store.runs.map(({ frames }) => frames.length)") == [4, 4, 4]
    expect(page.locator(f"{SHEET} .ss-undo-bar")).to_be_hidden()
    wait_drawn(panel, 3)
    asked = "(button) => { button.click(); return [button.innerText, sidestream.store.runs.length]; }"
    assert part(panel, FORGET).evaluate(asked) == ["Forget all, starred ones too?", 3]
    forget_all(panel)
    expect(page.locator(TILE)).to_have_count(0)
    assert runs(panel) == []
    expect(part(panel, ".ss-sheet .ss-shots-box")).to_contain_text("No preview yet")


def test_all_that_was_deleted_within_ten_seconds_is_put_back(panel: PanelPage) -> None:
    page = panel.page
    open_sheet_of(panel, "abc")
    tile(panel, 0).locator(".ss-shot-picture").focus()
    for left in (2, 1):
        page.keyboard.press("Delete")
        expect(page.locator(TILE)).to_have_count(left)
    part(panel, ".ss-undo-bar button").click()
    expect(page.locator(TILE)).to_have_count(3)
    assert runs(panel) == ["a", "b", "c"]


@on_the_oldest_and_the_newest
def test_two_runs_are_compared_at_the_same_step(panel: PanelPage) -> None:
    page = panel.page
    for name in "ab":
        deliver_run(panel, name, 8)
    open_sheet(panel)
    act(tile(panel, 0), "Compare")
    expect(tile(panel, 0)).to_have_class("ss-shot ss-marked")
    act(tile(panel, 1), "Compare")
    expect(page.locator(SHEET)).to_be_hidden()
    expect(part(panel, ".ss-label-left")).to_have_text("8 / 8")
    page.locator(f"{PANEL} .ss-scrubber").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    for side in ("left", "right"):
        expect(part(panel, f".ss-label-{side}")).to_have_text("5 / 8")
    sides = "() => [sidestream.watching.against, sidestream.watching.frame].map(({ run }) => run.id)"
    assert page.evaluate(sides) == ["a", "b"]
    page.locator(f"{PANEL} [aria-label^='Compare']").first.click()
    expect(page.locator(f"{PANEL} .ss-canvas-left")).to_be_hidden()


@on_the_oldest_and_the_newest
def test_a_runs_seed_is_copied_and_its_workflow_opened_as_it_was(panel: PanelPage) -> None:
    page = panel.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    seed = next(SEEDS) * 10
    panel.load(demo_prompt(seed=seed, steps=2))
    panel.queue()
    panel.wait("() => sidestream.store.runs.length === 1 && !sidestream.store.live")
    panel.load(demo_prompt(seed=5, samplers=2))
    open_sheet(panel)
    listen_to_toasts(panel)
    act(tile(panel, 0), "Copy the seed")
    wait_toast(panel, f"Seed {seed} copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == str(seed)
    act(tile(panel, 0), "Open the workflow")
    samplers = "() => app.graph._nodes.filter((node) => node.type === 'KSampler').map((node) => node.widgets[0].value)"
    panel.wait(f"seed => String(({samplers})()) === String(seed)", argument=seed)


def test_a_press_on_a_picture_shows_its_run(panel: PanelPage) -> None:
    page = panel.page
    deliver_run(panel, "a", 3)
    deliver_run(panel, "b", 4)
    deliver_run(panel, "c", 5, over=False)
    open_sheet(panel)
    tile(panel, 0).locator(".ss-shot-picture").click(position={"x": 40, "y": 40})
    panel.wait("() => document.querySelector('.ss-viewer').ariaLabel.endsWith('3 / 3')")
    assert page.evaluate("() => sidestream.watching.run.id") == "a"
    open_sheet(panel)
    tile(panel, 2).locator(".ss-shot-picture").click(position={"x": 40, "y": 40})
    assert page.evaluate("() => [sidestream.watching.run.id, sidestream.watching.isLive]") == ["c", True]
    end_run(panel, run="c", prompt="pc")


# What is kept


@on_the_oldest_and_the_newest
def test_runs_are_kept_over_a_reload_until_they_are_forgotten(panel: PanelPage) -> None:
    page = panel.page
    seed = next(SEEDS) * 10
    panel.load(demo_prompt(seed=seed, steps=3))
    panel.queue()
    wait_over(panel)
    deliver_run(panel, "b")
    deliver_run(panel, "c")
    page.evaluate("() => sidestream.store.star(sidestream.store.runs[1], true)")
    page.evaluate("() => sidestream.store.remove(sidestream.store.runs[2])")
    starred = "async () => String((await records()).map(({ starred }) => starred).sort()) === 'false,true'"
    panel.wait(starred.replace("records", RECORDS))
    page.reload()
    panel.wait_until_ready()
    open_sheet(panel)
    expect(page.locator(TILE)).to_have_count(2)
    wait_drawn(panel, 2)
    expect(tile(panel, 0)).to_contain_text(f"Seed {seed}")
    expect(tile(panel, 1).locator(".ss-star")).to_have_attribute("aria-pressed", "true")
    act(tile(panel, 0), "Open the workflow")
    panel.wait("() => app.graph._nodes.some((node) => node.type === 'SideStreamDemoModel')")
    forget_all(panel)
    panel.wait("async () => (await records()).length === 0".replace("records", RECORDS))
    page.reload()
    panel.wait_until_ready()
    page.evaluate("() => sidestream.archive._work.then(() => null)")  # what was kept is there again
    assert runs(panel) == []


RECORDS = """(() => new Promise((resolve) => {
  const opening = indexedDB.open("sidestream");
  opening.onsuccess = () => {
    const asking = opening.result.transaction("runs").objectStore("runs").getAll();
    asking.onsuccess = () => { opening.result.close(); resolve(asking.result); };
  };
}))"""


SCRIPTS = {
    "at once": "indexedDB.open = () => { throw new DOMException('no', 'SecurityError'); }",
    # As where there is no room: the request succeeds, and then its transaction is aborted.
    "where it is full": """
      const { put } = IDBObjectStore.prototype;
      IDBObjectStore.prototype.put = function (record) {
        const request = put.call(this, record);
        request.addEventListener("success", () => this.transaction.abort());
        return request;
      };
    """,
}
CLOSED = "() => new Promise((done) => { indexedDB.deleteDatabase('sidestream').onsuccess = done; })"


@pytest.mark.parametrize("refuses", ["at once", "later", "where it is full"])
def test_where_the_browser_keeps_nothing_the_sheet_says_so_and_works(
    panel: PanelPage, browser: Browser, refuses: str
) -> None:
    page = browser.new_context().new_page()  # what it does to the database is not done to the other page's
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    other = PanelPage(page, panel.url)
    if refuses in SCRIPTS:
        page.add_init_script(SCRIPTS[refuses])
    page.goto(panel.url)
    other.wait_until_ready()
    if refuses == "later":
        page.evaluate(CLOSED)
    for name in "ab":
        deliver_run(other, name)
    open_sheet(other)
    wait_drawn(other, 2)
    expect(part(other, ".ss-sheet .ss-hint:visible")).to_contain_text("does not allow runs to be kept")
    forget_all(other)
    expect(page.locator(TILE)).to_have_count(0)
    assert errors == []
    page.context.close()


# Reach and looks


def test_keys_go_from_tile_to_tile_and_the_tab_key_through_one_of_them(panel: PanelPage) -> None:
    page = panel.page
    for name in "abcdefgh":
        deliver_run(panel, name)
    open_sheet(panel)
    expect(page.locator(TILE)).to_have_count(8)
    focused = """() => {
      const holds = (one) => one.contains(document.activeElement);
      return [...document.querySelectorAll(".ss-shot")].findIndex(holds);
    }"""
    columns = part(panel, ".ss-shots").evaluate("(e) => getComputedStyle(e).gridTemplateColumns.split(' ').length")
    assert columns > 1
    tile(panel, 7).locator(".ss-shot-picture").focus()
    moves = {"Home": 0, "ArrowRight": 1, "ArrowDown": 1 + columns, "ArrowUp": 1, "ArrowLeft": 0, "End": 7}
    for key, place in moves.items():
        page.keyboard.press(key)
        assert page.evaluate(focused) == place, key
    page.keyboard.press("Home")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.ariaLabel"))
    assert [label.split()[0] for label in reached[:3]] == ["Star:", "Compare", "Delete"]
    assert page.evaluate(focused) == -1
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Delete")
    expect(page.locator(TILE)).to_have_count(7)
    assert page.evaluate(focused) == 0  # the next one
    page.keyboard.press("Enter")
    assert page.evaluate("() => sidestream.watching.run.id") == "b"
    panel.wait("() => document.activeElement.classList.contains('ss-viewer')")


@pytest.mark.parametrize("width", [220, 320])
def test_it_fits_into_a_narrow_panel_and_all_has_names(panel: PanelPage, width: int) -> None:
    open_sheet(panel)
    for name in "abc":
        deliver_run(panel, name, over=name != "c")
    wait_drawn(panel, 3)
    panel.page.evaluate("() => sidestream.queue.add('one that waits')")
    expect(panel.page.locator(TILE)).to_have_count(4)
    assert panel.page.evaluate(OVERFLOWING.replace("320", str(width))) == []
    assert nameless(panel) == []
    end_run(panel, run="c", prompt="pc")


def test_on_a_phone_all_is_in_reach_without_a_pointer(panel: PanelPage) -> None:
    browser = panel.page.context.browser
    assert browser
    size = {"width": 390, "height": 844}
    page = browser.new_context(viewport=size, has_touch=True, is_mobile=True).new_page()  # type: ignore[arg-type]
    phone = PanelPage(page, panel.url)
    page.goto(panel.url)
    phone.wait_until_ready()
    open_sheet(phone)
    for name in "ab":
        deliver_run(phone, name)
    wait_drawn(phone, 2)
    box = tile(phone, 0).locator("[aria-label^='Delete']").bounding_box()
    assert box
    assert box["x"] + box["width"] <= 390
    assert tile(phone, 0).locator(".ss-shot-actions").evaluate("(e) => getComputedStyle(e).opacity") == "1"
    tile(phone, 0).locator("[aria-label^='Delete']").tap()
    expect(page.locator(TILE)).to_have_count(1)
    part(phone, ".ss-undo-bar button").tap()
    expect(page.locator(TILE)).to_have_count(2)
    page.context.close()


# What it may cost


COUNT_DRAWINGS = """() => {
  globalThis.drawings = new Map();
  const { prototype } = CanvasRenderingContext2D;
  const { drawImage } = prototype;
  globalThis.endCounting = () => { prototype.drawImage = drawImage; };
  prototype.drawImage = function (...args) {
    if (this.canvas.closest(".ss-shot")) {
      const frame = document.timeline.currentTime;
      drawings.set(frame, (drawings.get(frame) ?? 0) + 1);
    }
    return drawImage.apply(this, args);
  };
  globalThis.shown = 0;
  document.addEventListener("sidestream-drawn", () => { globalThis.shown += 1; });
}"""


def test_at_most_one_picture_an_animation_frame_with_thirty_tiles_and_none_at_rest(panel: PanelPage) -> None:
    page = panel.page
    panel.command("Workspace.ToggleBottomPanelTab.sidestream")  # wide enough for all of them
    page.locator(".sidestream").wait_for()
    page.set_viewport_size({"width": 1900, "height": 1800})
    page.evaluate("() => sidestream.watching.showSheet(true)")
    page.evaluate(COUNT_DRAWINGS)
    try:
        for step in (1, 2, 3):
            for i in range(30):
                deliver(panel, 1, run=f"r{i}", prompt=f"p{i}", first=step)
        expect(page.locator(".ss-shot")).to_have_count(30)
        page.locator(".ss-shot").last.scroll_into_view_if_needed()
        assert page.evaluate("() => shown") == 0  # the large picture, which is out of sight
        page.evaluate("() => sidestream.watching.showSheet(false)")
        expect(page.locator(".ss-sheet")).to_be_hidden()
        page.evaluate("() => sidestream.watching.showSheet(true)")  # all of them at once
        panel.wait(f"() => {IN_VIEW} > 0 && {IN_VIEW} === {DRAWN}")
        most, count = page.evaluate("() => [Math.max(...drawings.values()), drawings.size]")
        assert most == 1
        assert count >= 12
        for i in range(30):
            end_run(panel, run=f"r{i}", prompt=f"p{i}")
        panel.wait_idle()
        page.evaluate(
            """() => {
              const { requestAnimationFrame: ask } = globalThis;
              globalThis.requestAnimationFrame = (call) => {
                if (new Error().stack.includes("SideStream")) asked += 1;
                return ask(call);
              };
              globalThis.endAsking = () => { globalThis.requestAnimationFrame = ask; };
            }"""
        )
        for _ in range(3):  # what was written to the archive, or the server's status, may still come
            page.evaluate("() => { drawings.clear(); globalThis.asked = 0; }")
            page.wait_for_timeout(2500)
            counted = page.evaluate("() => [asked, drawings.size]")
            if counted == [0, 0]:
                break
        page.evaluate("() => endAsking()")
        assert counted == [0, 0]
        assert not page.evaluate("() => document.getAnimations().some((one) => one.animationName?.startsWith('ss-'))")
    finally:
        page.evaluate("() => endCounting()")
        page.set_viewport_size({"width": 1400, "height": 900})
        panel.command("Workspace.ToggleBottomPanelTab.sidestream")
        page.locator(".sidestream").wait_for(state="detached")


IN_VIEW = """[...document.querySelectorAll(".ss-shot")].filter((one) => {
  const box = document.querySelector(".ss-shots-box").getBoundingClientRect();
  const { top, bottom } = one.getBoundingClientRect();
  return bottom > box.top && top < box.bottom;
}).length"""


# One workflow, with another seed each time.
QUEUE = """
async ([count, first]) => {
  const sampler = app.graph._nodes.find(({ type }) => type === "KSampler");
  const seed = sampler.widgets.find(({ name }) => name === "seed");
  for (let i = 0; i < count; i++) {
    seed.value = first + i;
    await app.queuePrompt(0);
  }
}
"""
RATE = """
async () => {
  const begun = performance.now();
  let frames = 0;
  while (performance.now() < begun + 800) { await new Promise(requestAnimationFrame); frames += 1; }
  return (frames * 1000) / (performance.now() - begun);
}
"""


def test_thirty_queued_prompts_leave_memory_and_the_canvas_as_they_were(
    panel: PanelPage, record_property: Callable[[str, object], None]
) -> None:
    page = panel.page
    panel.load(demo_prompt(steps=20, seconds=0.08))
    open_sheet(panel)
    page.evaluate("() => sidestream.archive.forgetAll()")
    before = heap(panel)
    page.evaluate(QUEUE, [30, next(SEEDS) * 100])
    expect(page.locator(TILE)).to_have_count(30)
    usual: list[float] = []
    with_sheet: list[float] = []
    for _ in range(6):  # one beside the other, since a busy machine changes
        for is_sheet, rates in ((False, usual), (True, with_sheet)):
            page.evaluate("(on) => sidestream.watching.showSheet(on)", is_sheet)
            page.wait_for_timeout(200)
            rates.append(page.evaluate(RATE))
    assert page.evaluate("() => sidestream.queue.waiting.length && sidestream.watching.sheet")
    panel.wait("() => sidestream.queue.waiting.length === 0 && !sidestream.store.live", 200)
    expect(page.locator(TILE)).to_have_count(30)
    full = heap(panel)
    forget_all(panel)
    expect(page.locator(TILE)).to_have_count(0)
    after = heap(panel)
    record_property("heap_mb", [round(mb, 1) for mb in (before, full, after)])
    record_property("frames_a_second", [[round(rate) for rate in rates] for rates in (usual, with_sheet)])
    print(f"\nheap {before:.1f}, {full:.1f} with 30 runs, {after:.1f} MB; frames a second: {usual}, {with_sheet}")
    assert after - before < 20
    assert statistics.median(with_sheet) > 0.6 * statistics.median(usual)


@on_the_oldest_and_the_newest
def test_i14_the_samplers_own_picture_goes_on_beside_the_sheet(panel: PanelPage) -> None:
    open_sheet(panel)
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.1))
    before = panel.page.evaluate(PREVIEWS)
    panel.queue()
    panel.wait(f"(before) => ({PREVIEWS})().some((one) => !before.includes(one))", argument=before)


PREVIEWS = "() => Object.values(app.nodePreviewImages).flatMap((pictures) => pictures ?? [])"
