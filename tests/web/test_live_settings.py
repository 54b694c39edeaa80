"""Live settings do what they say: a change holds for what runs, a pause is the client's, nothing lies."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect
from sidestream.tests.web.conftest import on_the_oldest_and_the_newest
from sidestream.tests.web.streams import deliver, end_run, tell
from sidestream.tests.web.views import (
    PANEL,
    SEEDS,
    listen_to_toasts,
    part,
    start_run,
    wait_toast,
)
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser

ROW = f"{PANEL} .ss-control[data-setting="
BAR = f"{PANEL} .ss-changed-bar"
HINT = f"{PANEL} .ss-live-settings > .ss-hint"


def stored(panel: PanelPage, name: str) -> Any:
    return panel.page.evaluate("name => app.extensionManager.setting.get(`SideStream.${name}`)", name)


def type_into(panel: PanelPage, name: str, value: object) -> None:
    field = panel.page.locator(f"{PANEL} input[name={name}]")
    field.fill(str(value))
    field.press("Enter")


def change(panel: PanelPage, name: str, value: object) -> dict[str, Any]:
    """Type a number; what the page told the server."""
    with panel.page.expect_response("**/sidestream/live") as answered:
        type_into(panel, name, value)
    body: dict[str, Any] = answered.value.request.post_data_json
    return body


def settings(panel: PanelPage) -> dict[str, Any]:
    """Those of the run that is going on, as the page has them."""
    found: dict[str, Any] = panel.page.evaluate("() => sidestream.watching.run.settings")
    return found


def methods(posted: str) -> set[str]:
    """All that a request says about the method: the client's own, its nodes' and a change in a run."""
    return set(re.findall(r'"method":"(\w+)"', posted))


def wait_followed(panel: PanelPage) -> None:
    """Wait until the panel's fields are those of the run: its values replace what was typed."""
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent.endsWith(' / 4000')")


def interrupt(panel: PanelPage) -> None:
    panel.page.locator(f"{PANEL} [aria-label='Interrupt the run']").click()
    panel.wait_idle()


def wait_for_silence(panel: PanelPage) -> int:
    """Wait until no more frames come though the run goes on; return how many came."""
    count = -1
    for _ in range(10):
        before, count = count, int(panel.page.evaluate("() => sidestream.store.frameCount"))
        assert panel.page.evaluate("() => sidestream.store.live"), "the run ended too early to tell"
        if before == count:
            return count
        panel.page.wait_for_timeout(450)
    raise AssertionError("frames keep coming")


# A change


def test_a_change_holds_for_this_run_and_is_not_stored(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    start_run(panel, steps=4000, seconds=0.03)
    panel.wait_frames(5)
    throttle = page.locator(f"{PANEL} input[name=throttle_ms]")
    expect(throttle).to_have_value("0")  # what the node asked for
    expect(page.locator(HINT)).to_contain_text("set by a Side-Stream Preview node")
    body = change(panel, "throttle_ms", 60000)
    assert body == {"client_id": page.evaluate("() => app.api.clientId"), "throttle_ms": 60000}
    wait_for_silence(panel)
    assert stored(panel, "throttle_ms") == 100
    expect(page.locator(f"{ROW}throttle_ms].ss-changed")).to_have_count(1)
    expect(page.locator(f"{ROW}every_n_steps].ss-changed")).to_have_count(0)
    change(panel, "max_size", 256)
    expect(part(panel, ".ss-changed-bar")).to_contain_text("2 changed")
    # The way back, of one and of all.
    page.locator(f"{ROW}throttle_ms] .ss-undo").click()
    panel.wait("() => sidestream.watching.frame.width === 256")
    panel.wait("() => document.querySelector('.sidestream input[name=throttle_ms]').value === '0'")
    expect(part(panel, ".ss-changed-bar")).to_contain_text("1 changed")
    page.locator(f"{BAR} >> text=Reset").click()
    panel.wait("() => sidestream.watching.frame.width === 512")
    expect(page.locator(BAR)).to_be_hidden()
    assert stored(panel, "max_size") == 0
    change(panel, "budget", 40)
    interrupt(panel)
    panel.wait("() => document.querySelector('.sidestream input[name=budget]').value === '5'")
    expect(page.locator(BAR)).to_be_hidden()


def test_always_stores_the_change(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    start_run(panel, steps=4000, seconds=0.03)
    wait_followed(panel)
    change(panel, "every_n_steps", 3)
    page.locator(f"{BAR} >> text=Always").click()
    page.locator(BAR).wait_for(state="hidden")
    assert stored(panel, "every_n_steps") == 3
    assert settings(panel)["every_n_steps"] == 3
    interrupt(panel)
    expect(page.locator(f"{PANEL} input[name=every_n_steps]")).to_have_value("3")


def test_a_change_holds_for_what_is_queued_and_not_for_what_comes_after(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    page.evaluate(
        """() => {
          globalThis.started = [];
          app.api.addEventListener("sidestream.run", ({ detail }) => {
            if (detail.state === "start" && detail.settings) started.push(detail.settings.budget);
          });
        }"""
    )
    start_run(panel, steps=4000, seconds=0.05, preview=None)
    start_run(panel, steps=4, seconds=0.05, preview=None)
    wait_followed(panel)
    change(panel, "budget", 33)
    with page.expect_response("**/prompt"):
        start_run(panel, steps=4, seconds=0.05, preview=None)
    page.evaluate("() => app.api.interrupt()")
    panel.wait("() => started.length === 3", 30)
    panel.wait_idle()
    assert page.evaluate("() => started") == [5, 33, 5]
    assert stored(panel, "budget") == 5


def test_where_nothing_runs_a_change_is_stored(panel: PanelPage) -> None:
    panel.open_panel()
    type_into(panel, "throttle_ms", 250)
    panel.wait("() => sidestream.settings.get('throttle_ms') === 250")
    expect(panel.page.locator(BAR)).to_be_hidden()
    expect(panel.page.locator(HINT)).to_be_hidden()


def test_a_slider_that_is_dragged_tells_the_server_once(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    start_run(panel, steps=4000, seconds=0.05)
    wait_followed(panel)
    told: list[Any] = []
    ours = re.compile("sidestream/|SideStream")
    page.on("request", lambda one: told.append(one.url) if one.method == "POST" and ours.search(one.url) else None)
    slider = page.locator(f"{ROW}throttle_ms] input[type=range]")
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 8, middle)
    page.mouse.down()
    for at in range(1, 21):
        page.mouse.move(box["x"] + 8 + at * (box["width"] - 16) / 25, middle)
        page.wait_for_timeout(20)
    shown = int(page.locator(f"{PANEL} input[name=throttle_ms]").input_value())
    assert shown > 1000  # it says where it is
    assert told == []
    with page.expect_response("**/sidestream/live") as answered:
        page.mouse.up()
    assert answered.value.request.post_data_json["throttle_ms"] == shown
    page.wait_for_timeout(300)
    assert len(told) == 1
    interrupt(panel)


def test_a_slider_that_is_dragged_back_follows_the_setting_again(panel: PanelPage) -> None:
    """No change is told there."""
    page = panel.page
    panel.open_panel()
    slider = page.locator(f"{ROW}throttle_ms] input[type=range]")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    assert box is not None
    share = slider.evaluate("(one) => (one.valueAsNumber - one.min) / (one.max - one.min)")
    at, middle = box["x"] + 8 + share * (box["width"] - 16), box["y"] + box["height"] / 2
    before = slider.input_value()
    page.mouse.move(at, middle)
    page.mouse.down()
    page.mouse.move(at + 60, middle, steps=4)
    assert slider.input_value() != before
    page.mouse.move(at, middle, steps=4)
    page.mouse.up()
    assert slider.input_value() == before
    page.locator(f"{PANEL} select[name=preset]").select_option("light")
    expect(slider).to_have_value("500")
    expect(page.locator(f"{PANEL} input[name=throttle_ms]")).to_have_value("500")


def test_a_value_out_of_range_is_said_and_put_back(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    type_into(panel, "throttle_ms", 60001)
    problem = page.locator(f"{ROW}throttle_ms] .ss-problem")
    expect(problem).to_have_text("Enter a whole number from 0 to 60000.")
    expect(page.locator(f"{PANEL} input[name=throttle_ms]")).to_have_value("100")
    assert stored(panel, "throttle_ms") == 100
    type_into(panel, "max_size", 63)
    said = page.locator(f"{ROW}max_size] .ss-problem").inner_text()
    assert said == "Enter a whole number from 64 to 2048. 0 is also allowed."
    type_into(panel, "throttle_ms", 100)  # what it is already
    expect(problem).to_be_hidden()


def test_fields_follow_the_run_also_while_they_have_the_focus(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    throttle = page.locator(f"{PANEL} input[name=throttle_ms]")
    throttle.focus()
    for run, value in (("a", 7), ("b", 8)):
        told = {"run": run, "node_id": "10", "display_node_id": "10", "prompt_id": f"p{run}"}
        values = page.evaluate("() => sidestream.settings.values()")
        tell(panel, "sidestream.run", **told, state="start", total_steps=20, settings={**values, "throttle_ms": value})
        deliver(panel, 2, run=run, prompt=f"p{run}", first=2)
        field = "document.querySelector('.sidestream input[name=throttle_ms]')"
        panel.wait(f"value => {field}.value === value", argument=str(value))
        end_run(panel, run=run, prompt=f"p{run}")
    assert page.evaluate("() => document.activeElement.name") == "throttle_ms"
    # What is being typed stays, as long as it is the same run.
    deliver(panel, 1, run="c", prompt="pc")
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent === '1 / 20'")
    throttle.fill("12")
    throttle.evaluate("(input) => input.dispatchEvent(new Event('input', { bubbles: true }))")
    deliver(panel, 2, run="c", prompt="pc", first=2)
    page.wait_for_timeout(100)
    expect(throttle).to_have_value("12")
    end_run(panel, run="c", prompt="pc")


# Finish here


def test_two_presses_or_a_command_finish_the_running_sampler(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    button = page.locator(f"{PANEL} .ss-toolbar .pi-check-circle").locator("xpath=..")
    assert button.is_disabled()
    start_run(panel, steps=4000, seconds=0.03)
    panel.wait_frames(3)
    # The first press asks, and for 3 s.
    expect(button).to_be_enabled()
    asked = button.evaluate("(button) => { button.click(); return [button.ariaLabel, button.innerText]; }")
    assert asked == ["Finish at this step?"] * 2
    panel.wait("() => !document.querySelector('.ss-toolbar').innerText.includes('Finish')", 12)
    assert button.get_attribute("aria-pressed") == "false"
    assert page.evaluate("() => sidestream.store.live")
    listen_to_toasts(panel)
    button.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    panel.wait("() => sidestream.watching.run.finishedAt")
    panel.wait_idle()
    at = page.evaluate("() => sidestream.watching.run.finishedAt")
    assert page.evaluate("() => sidestream.watching.run.frames.at(-1).step") == at
    panel.wait(
        """async () => {
          const { promptId } = sidestream.watching.run;
          const history = await (await app.api.fetchApi(`/history/${promptId}`)).json();
          return history[promptId]?.status.status_str === "success";
        }"""
    )
    said = f"inished at step {at} of 4000"
    expect(part(panel, ".ss-finished")).to_contain_text(said)
    wait_toast(panel, f"was f{said}")
    expect(button).to_be_disabled()
    # The same by a key of one's own.
    start_run(panel, steps=4000, seconds=0.03)
    panel.wait("() => sidestream.watching.run.live && sidestream.watching.run.canFinish")
    expect(part(panel, ".ss-finished")).to_be_empty()
    page.evaluate("() => app.extensionManager.command.execute('SideStream.FinishHere')")
    panel.wait("() => sidestream.watching.run.finishedAt")
    panel.wait_idle()


# Pause


def test_previews_are_paused_and_resumed_and_off_is_never_sent(panel: PanelPage) -> None:
    page = panel.page
    sent: list[str] = []
    page.on("request", lambda one: sent.append(one.post_data or "") if one.method == "POST" else None)
    panel.open_panel()
    start_run(panel, steps=4000, seconds=0.03)
    panel.wait_frames(4)
    page.locator(f"{PANEL} [aria-label='Pause previews']").click()
    expect(part(panel, ".ss-notice")).to_contain_text("paused")
    settled = wait_for_silence(panel)
    expect(page.locator("html.sidestream-streams")).to_have_count(0)
    expect(page.locator(f"{PANEL} .ss-on-air")).to_have_count(0)
    # The steps go on counting.
    step = "() => Number(document.querySelector('.ss-stat-step dd').textContent.split(' / ')[0])"
    before = page.evaluate(step)
    panel.wait(f"before => ({step})() > before + 3", argument=before)
    page.locator(f"{PANEL} [aria-label='Resume previews']").click()
    panel.wait_frames(settled + 5)
    assert settings(panel)["method"] == "host"
    interrupt(panel)
    assert set().union(*map(methods, sent)) == {"host"}


def test_a_run_that_was_queued_while_paused_comes_alive_with_resume(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    with page.expect_response("**/sidestream/pause"):
        page.locator(f"{PANEL} [aria-label='Pause previews']").click()
    with page.expect_request("**/prompt") as posted:
        start_run(panel, steps=4000, seconds=0.03)
    assert methods(posted.value.post_data or "") == {"host"}
    panel.wait("() => sidestream.store.live")
    assert wait_for_silence(panel) == 0
    page.locator(f"{PANEL} [aria-label='Resume previews']").click()
    panel.wait_frames(3)
    interrupt(panel)


@on_the_oldest_and_the_newest
def test_a_pause_and_the_runs_settings_are_there_again_after_a_reload(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    start_run(panel, steps=4000, seconds=0.03, every_n_steps=2)
    wait_followed(panel)
    change(panel, "budget", 44)
    with page.expect_response("**/sidestream/pause"):
        page.locator(f"{PANEL} [aria-label='Pause previews']").click()
    page.reload()
    panel.wait_until_ready()
    panel.open_panel()
    page.locator(f"{PANEL} [aria-label='Resume previews']").wait_for()
    panel.wait("() => sidestream.watching.run?.settings?.every_n_steps === 2")
    expect(page.locator(f"{PANEL} input[name=budget]")).to_have_value("44")
    expect(page.locator(f"{PANEL} input[name=every_n_steps]")).to_have_value("2")
    expect(page.locator(f"{ROW}budget].ss-changed")).to_have_count(1)
    page.locator(f"{PANEL} [aria-label='Resume previews']").click()
    panel.wait_frames(2)
    interrupt(panel)


def test_a_pause_that_the_server_did_not_take_is_no_pause(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    listen_to_toasts(panel)
    page.route("**/sidestream/pause", lambda route: route.abort())
    page.locator(f"{PANEL} [aria-label='Pause previews']").click()
    wait_toast(panel, "The server did not respond")
    panel.wait("() => !sidestream.liveSettings.paused")
    page.unroute("**/sidestream/pause")


def test_where_previews_are_off_nothing_says_that_they_come(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    told = {"run": "a", "node_id": "10", "display_node_id": "10", "prompt_id": "p"}
    values = page.evaluate("() => sidestream.settings.values()")
    tell(panel, "sidestream.run", **told, state="start", total_steps=20, settings={**values, "method": "off"})
    tell(panel, "progress", node="10", prompt_id="p", value=3, max=20)
    panel.wait("() => document.querySelector('.ss-stat-step dd').textContent === '3 / 20'")
    expect(part(panel, ".ss-empty")).to_have_text("Previews of this sampler are off. Choose another method below.")
    expect(page.locator("html.sidestream-streams")).to_have_count(0)
    expect(page.locator(f"{PANEL} .ss-on-air")).to_have_count(0)
    tell(panel, "sidestream.run", **told, state="start", total_steps=20, settings=values)
    page.locator(f"{PANEL} .ss-on-air").wait_for()
    assert part(panel, ".ss-empty").inner_text().startswith("Waiting")
    end_run(panel, run="a")


def test_a_pause_by_another_page_of_the_client_is_noticed(panel: PanelPage) -> None:
    page = panel.page
    panel.open_panel()
    page.evaluate(
        """() => app.api.fetchApi("/sidestream/pause", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ client_id: app.api.clientId, paused: true }),
        })"""
    )
    start_run(panel, steps=4000, seconds=0.05)
    page.locator(f"{PANEL} [aria-label='Resume previews']").wait_for()
    interrupt(panel)


@on_the_oldest_and_the_newest
def test_the_steps_of_a_run_of_one_step_are_those_of_comfyui(panel: PanelPage) -> None:
    panel.page.evaluate(
        """() => {
          globalThis.counted = [];
          app.api.addEventListener("progress", ({ detail }) => {
            const run = sidestream.store.runs.at(-1);
            counted.push([detail.value, detail.max, run?.step, run?.totalSteps]);
          });
        }"""
    )
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=1, seconds=0.2))
    panel.queue()
    panel.wait("() => counted.length > 0")
    panel.wait_idle()
    assert panel.page.evaluate("() => counted.at(-1)") == [1, 1, 1, 1]
