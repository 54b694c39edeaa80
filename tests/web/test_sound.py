"""Sound in the panel: silent until asked, then in step with the animation, or by itself."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Route, expect
from sidestream.preview.deliver.wav import wav
from sidestream.tests.sounds import read, sound_graph
from sidestream.tests.web.animations import moving_bar, send_animation, send_still
from sidestream.tests.web.conftest import NEWEST
from sidestream.tests.web.streams import end_run, tell
from sidestream.tests.web.views import OVERFLOWING, nameless, part, saved
from sidestream.tools.page import PanelPage

pytestmark = pytest.mark.browser

HEAR = ".ss-hear"
SECONDS = 3.0
RATE = 8000

# What the page plays, as it tells the browser.
LISTEN = """
() => {
  if (globalThis.played) return void (played.length = 0);
  globalThis.played = [];
  globalThis.placeOf = (play) => play && (play.at +
    (play.source.context.currentTime - play.since) * play.source.playbackRate.value) % play.source.buffer.duration;
  const { start, stop } = AudioBufferSourceNode.prototype;
  AudioBufferSourceNode.prototype.start = function (when, at) {
    const play = { source: this, at, since: this.context.currentTime, playing: true, before: placeOf(played.at(-1)) };
    played.push(play);
    this.addEventListener("ended", () => (play.playing = false));
    return start.call(this, when, at);
  };
  AudioBufferSourceNode.prototype.stop = function () {
    played.find(({ source }) => source === this).playing = false;
    return stop.call(this);
  };
}
"""
HEARD = """
() => {
  const play = played.at(-1);
  if (!play) return { playing: false, plays: 0 };
  const { source, playing } = play;
  const rate = source.playbackRate.value;
  const { state } = source.context;
  const is = { playing: playing && state === "running", rate, loops: source.loop, state };
  return { ...is, plays: played.length, at: placeOf(play) };
}
"""

seeds = itertools.count(500)


def tone(hertz: float, seconds: float = SECONDS) -> bytes:
    time = np.arange(round(seconds * RATE)) / RATE
    return wav(np.sin(2 * np.pi * hertz * time)[None].astype(np.float32) * 0.1, RATE)


class Sounds:
    """The server's sounds, made up: each is a tone, and who asked for it is remembered."""

    def __init__(self, panel: PanelPage) -> None:
        self.panel = panel
        self.files: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def answer(self, route: Route) -> None:
        name = route.request.url.rsplit("/", 1)[1]
        self.fetched.append(name)
        file = self.files.get(name)
        if file is None:
            route.fulfill(status=404, body="{}", content_type="application/json")
        else:
            route.fulfill(body=file, content_type="audio/wav")

    def send(self, name: str, step: int = 5, of_seconds: float = SECONDS, **facts: Any) -> None:
        """Let the page hear of one."""
        self.files.setdefault(name, tone(200 + 10 * len(self.files)))
        owner = {"node_id": "10", "prompt_id": "p", "display_node_id": "10", "run": "r"}
        told = {"id": name, "step": step, "total_steps": 20, "seconds": SECONDS, "of_seconds": of_seconds}
        tell(self.panel, "sidestream.sound", **owner, **told, **facts)


@pytest.fixture
def sounds(panel: PanelPage) -> Iterator[Sounds]:
    served = Sounds(panel)
    where = re.compile("/sidestream/sound/")
    panel.page.route(where, served.answer)
    panel.page.evaluate(LISTEN)
    panel.open_panel()
    yield served
    panel.close_panel()
    panel.page.unroute(where)


def spectrogram(panel: PanelPage, step: int = 5) -> None:
    """Let the picture of a sound alone arrive."""
    send_still(panel, moving_bar(8)[3], step=step, decoder="spectrogram")


def state(panel: PanelPage) -> dict[str, Any]:
    """What is heard: the part of a sound that was started last."""
    found: dict[str, Any] = panel.page.evaluate(HEARD)
    return found


def wait_for_sound(panel: PanelPage, playing: bool = True) -> None:
    panel.wait(f"playing => ({HEARD})().playing === playing", argument=playing)


def test_it_is_silent_and_not_fetched_until_somebody_asks(panel: PanelPage, sounds: Sounds) -> None:
    expect(part(panel, ".ss-sound")).to_be_hidden()
    spectrogram(panel)
    sounds.send("one", of_seconds=47)
    hear = part(panel, HEAR)
    expect(hear).to_have_attribute("aria-pressed", "false")
    expect(part(panel, ".ss-sound-text")).to_have_text("5 / 20 · first 3 of 47 s")
    expect(part(panel, ".ss-moment")).to_be_hidden()
    assert state(panel)["plays"] == 0
    assert sounds.fetched == []
    hear.press("Enter")
    wait_for_sound(panel)
    expect(hear).to_have_attribute("aria-pressed", "true")
    expect(hear).to_have_accessible_name("Mute")
    assert sounds.fetched == ["one"]
    at = state(panel)["at"]
    goes_on = f"(at) => (({HEARD})().at - at + {SECONDS}) % {SECONDS} > 0.2 && ({HEARD})().playing"
    panel.wait(goes_on, argument=at)
    hear.click()
    wait_for_sound(panel, playing=False)
    expect(hear).to_have_accessible_name("Play the sound")


def test_a_newer_sound_goes_on_where_the_last_one_was(panel: PanelPage, sounds: Sounds) -> None:
    spectrogram(panel)
    sounds.send("one")
    part(panel, HEAR).click()
    wait_for_sound(panel)
    before = state(panel)
    assert before["loops"]
    spectrogram(panel, step=9)
    sounds.send("two", step=9)
    panel.wait("() => played.length === 2")
    wait_for_sound(panel)
    assert sounds.fetched == ["one", "two"]
    starts, where_it_was = panel.page.evaluate("() => { const { at, before } = played[1]; return [at, before]; }")
    assert starts == pytest.approx(where_it_was, abs=0.1)
    expect(part(panel, ".ss-sound-text")).to_have_text("9 / 20 · 3 s")
    # Looking back, the step is heard that is seen.
    panel.page.evaluate("() => sidestream.watching.scrub(0)")
    expect(part(panel, ".ss-sound-text")).to_have_text("5 / 20 · 3 s")
    wait_for_sound(panel)
    assert sounds.fetched == ["one", "two"]
    # Once nothing runs it ends by itself.
    end_run(panel)
    expect(part(panel, HEAR)).to_have_attribute("aria-pressed", "false")
    assert not state(panel)["playing"]
    assert not state(panel)["loops"]


def test_its_place_is_shown_on_the_map_and_can_be_chosen(panel: PanelPage, sounds: Sounds) -> None:
    spectrogram(panel)
    sounds.send("one", of_seconds=6)
    part(panel, HEAR).click()
    wait_for_sound(panel)
    position = part(panel, ".ss-position")
    position.press("End")
    position.press("Home")
    line = part(panel, ".ss-moment")
    expect(line).to_be_visible()
    part(panel, HEAR).click()
    wait_for_sound(panel, playing=False)
    expect(line).to_be_hidden()
    part(panel, HEAR).click()
    wait_for_sound(panel)
    place = position.evaluate(
        """(range) => {
          range.value = 1.5;
          range.dispatchEvent(new Event("input"));
          const [line, picture] = [".ss-moment", ".ss-canvas"].map((part) => document.querySelector(part));
          const { x, width } = picture.getBoundingClientRect();
          return (line.getBoundingClientRect().x - x) / width;
        }"""
    )
    assert place == pytest.approx(1.5 / 6, abs=0.02)
    assert re.fullmatch(r"[\d.]+ of 3 s", position.get_attribute("aria-valuetext") or "")


def test_it_plays_in_step_with_the_animation(panel: PanelPage, sounds: Sounds) -> None:
    frames = moving_bar(15)
    send_still(panel, frames[0], step=5)
    send_animation(panel, frames, step=5, duration=round(SECONDS * 1000 / 15))
    part(panel, ".ss-animation").wait_for()
    sounds.send("one")
    expect(part(panel, ".ss-position")).to_be_hidden()
    part(panel, HEAR).click()
    wait_for_sound(panel)
    script = f"() => ({{ ...({HEARD})(), frame: Number(document.querySelector('.ss-frames').value) }})"
    away = []
    for _ in range(15):
        panel.page.wait_for_timeout(150)
        heard = panel.page.evaluate(script)
        apart = abs(heard["at"] - (heard["frame"] + 0.5) * SECONDS / 15)
        away.append(min(apart, SECONDS - apart))
    assert median(away) < 0.35  # a page that stands still shows an old frame, and then catches up
    part(panel, "[aria-label=Pause]").click()
    wait_for_sound(panel, playing=False)
    expect(part(panel, HEAR)).to_have_attribute("aria-pressed", "true")
    part(panel, ".ss-frames").evaluate("range => { range.value = 10; range.dispatchEvent(new Event('input')); }")
    plays = state(panel)["plays"]
    part(panel, ".ss-player [aria-label=Play]").click()
    panel.wait("plays => played.length > plays", argument=plays)
    assert 2.0 - 0.15 <= panel.page.evaluate("plays => played[plays].at", plays) < 2.2 + 0.15


def test_a_video_at_half_speed_has_its_sound_at_half_speed(panel: PanelPage, sounds: Sounds) -> None:
    frames = moving_bar(10)
    send_still(panel, frames[0], step=5)
    send_animation(panel, frames, step=5, duration=round(SECONDS * 2000 / 10))
    part(panel, ".ss-animation").wait_for()
    sounds.send("one")
    part(panel, HEAR).click()
    wait_for_sound(panel)
    assert state(panel)["rate"] == pytest.approx(0.5, abs=0.01)


def test_it_ends_with_its_panel(panel: PanelPage, sounds: Sounds) -> None:
    spectrogram(panel)
    sounds.send("one")
    part(panel, HEAR).click()
    wait_for_sound(panel)
    panel.close_panel()
    panel.wait("() => played.at(-1).source.context.state === 'closed'")
    assert not state(panel)["playing"]
    panel.open_panel()
    expect(part(panel, HEAR)).to_have_attribute("aria-pressed", "false")


def test_one_that_the_server_has_no_more_is_taken_away(panel: PanelPage, sounds: Sounds) -> None:
    spectrogram(panel)
    sounds.send("one")
    del sounds.files["one"]
    part(panel, HEAR).click()
    expect(part(panel, ".ss-sound")).to_be_hidden()


def test_it_is_saved_as_it_came(panel: PanelPage, sounds: Sounds) -> None:
    spectrogram(panel)
    sounds.send("one")
    assert saved(panel, "sound", "_step005.wav") == sounds.files["one"]


@pytest.mark.parametrize(
    ("why", "text"),
    [("thread", "cannot run beside the sampler"), ("latents", "this model's latents have none")],
)
def test_the_panel_says_why_there_is_no_sound(panel: PanelPage, sounds: Sounds, why: str, text: str) -> None:
    spectrogram(panel)
    owner = {"node_id": "10", "prompt_id": "p", "display_node_id": "10", "run": "r"}
    tell(panel, "sidestream.sound", **owner, why=why)
    expect(part(panel, ".ss-notice")).to_contain_text(text)
    sounds.send("one")  # memory was short, and is there again
    expect(part(panel, ".ss-notice")).not_to_contain_text(text)


def test_its_controls_have_names_and_room(panel: PanelPage, sounds: Sounds) -> None:
    spectrogram(panel)
    sounds.send("one", of_seconds=182.4)
    part(panel, HEAR).wait_for()
    assert nameless(panel) == []
    for width in (320, 220):
        assert panel.page.evaluate(OVERFLOWING, width) == []
    part(panel, ".ss-volume").press("Home")
    assert part(panel, ".ss-volume").input_value() == "0"


@pytest.mark.kinds(f"{NEWEST} classic")
def test_a_real_run_is_heard(panel: PanelPage) -> None:
    panel.page.evaluate(LISTEN)
    panel.open_panel()
    panel.load(sound_graph(seed=next(seeds), steps=20))
    panel.queue()
    part(panel, HEAR).wait_for()
    part(panel, HEAR).click()
    wait_for_sound(panel)
    panel.wait_idle(60)
    expect(part(panel, ".ss-sound-text")).to_have_text("20 / 20 · 2 s")
    samples, rate = read(saved(panel, "sound", "_step020.wav"))
    assert (rate, len(samples)) == (44100, 2)
    assert samples.std() > 0.01
