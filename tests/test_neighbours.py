"""Beside each kind of other pack, loaded before and after it: I10 polite.

Nobody's previews are lost or doubled, and the status says who is in charge.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sidestream.tests import neighbours
from sidestream.tests.helpers import wait_until
from sidestream.tests.neighbours import Neighbour
from sidestream.tests.stage import FakeSocket, Stage, all_told, with_settings

if TYPE_CHECKING:
    from sidestream.preview.pack import Pack

STEPS = 4

# Steps of SideStream's frames, 0 for a frame of somebody else, "animated" for an event of its own.
OURS, THEIRS, ANIMATED = list(range(1, STEPS + 1)), [0] * STEPS, ["animated"] * STEPS
BOTH = THEIRS + OURS


@pytest.fixture
def publishing(stage: Stage) -> Iterator[None]:
    """Within it the server sends what is handed to it, as ComfyUI's does."""
    loop = asyncio.run_coroutine_threadsafe(stage.server.publish_loop(), stage.loop)
    yield
    loop.cancel()


@dataclass
class Meeting:
    """Loads packs beside SideStream."""

    stage: Stage
    make_pack: Callable[[], Pack]
    monkeypatch: pytest.MonkeyPatch

    def load(self, kind: type[Neighbour]) -> Neighbour:
        return kind(self.stage, self.monkeypatch)

    def __call__(self, kind: type[Neighbour], order: str) -> tuple[Neighbour, Pack]:
        """Load a neighbour `before` or `after` the pack."""
        if order == BEFORE:
            return self.load(kind), self.make_pack()
        pack = self.make_pack()
        return self.load(kind), pack


@pytest.fixture
def meet(stage, publishing, make_pack, monkeypatch) -> Meeting:
    return Meeting(stage, make_pack, monkeypatch)


@contextlib.contextmanager
def node(stage: Stage) -> Iterator[None]:
    """A node at work, whose progress and pictures ComfyUI sends to the client."""
    progress = stage.comfy("comfy_execution.progress")
    with stage.node():
        progress.add_progress_handler(progress.WebUIProgressHandler(stage.server))
        yield


def sampled(stage: Stage, pack: Pack) -> None:
    with node(stage):
        stage.sample(with_settings(stage.demo_model()), steps=STEPS)
        assert all_told(pack)
        sent = asyncio.run_coroutine_threadsafe(asyncio.sleep(0), stage.loop)
        assert wait_until(stage.server.messages.empty)
        sent.result(5)


def got(client: FakeSocket) -> list[Any]:
    """All pictures that the client has, in the order of `BOTH`."""
    animated = [event for event in client.events if event["type"] == "animated_preview"]
    return sorted(client.steps) + ["animated"] * len(animated)


BEFORE, AFTER = "before", "after"
ORDERS = [BEFORE, AFTER]
WRAPPING = (neighbours.Wraps, neighbours.TakesApart)

# What the client gets: where ComfyUI has previews of its own, and where it has none.
SHOWN = [
    (neighbours.Wraps, BEFORE, THEIRS, OURS),
    (neighbours.Wraps, AFTER, OURS, OURS),
    (neighbours.Replaces, BEFORE, THEIRS, THEIRS),
    (neighbours.Replaces, AFTER, THEIRS, THEIRS),
    (neighbours.TakesApart, BEFORE, ANIMATED, OURS),
    (neighbours.TakesApart, AFTER, ANIMATED, ANIMATED),
    (neighbours.PatchesProgressBar, BEFORE, OURS, OURS),
    (neighbours.PatchesProgressBar, AFTER, OURS, OURS),
    (neighbours.ReplacesProgressBar, BEFORE, OURS, OURS),
    (neighbours.ReplacesProgressBar, AFTER, OURS, OURS),
    (neighbours.SendsItsOwn, BEFORE, BOTH, BOTH),
    (neighbours.SendsItsOwn, AFTER, BOTH, BOTH),
    (neighbours.OverridesEverybody, BEFORE, THEIRS, OURS),
    (neighbours.OverridesEverybody, AFTER, THEIRS, OURS),
]


@pytest.mark.parametrize("chosen", ["none", "latent2rgb"])
@pytest.mark.parametrize(("kind", "order", "with_own", "without"), SHOWN)
def test_i10_every_step_is_shown_once(
    stage, client, told, meet, kind, order, with_own, without, chosen
):
    told("" if chosen == "none" else f"--preview-method {chosen}", chosen)
    neighbour, pack = meet(kind, order)
    sampled(stage, pack)
    assert got(client) == (without if chosen == "none" else with_own)
    to_wrap = order == AFTER or chosen != "none" or kind not in WRAPPING
    # Of ComfyUI's own, which there are none of: SideStream's have a method of their own.
    to_override = kind is not neighbours.OverridesEverybody or chosen != "none"
    assert neighbour.asked == (STEPS if to_wrap and to_override else 0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", [neighbours.Wraps, neighbours.Replaces, neighbours.TakesApart])
def test_i10_the_status_names_who_took_the_place(stage, told, meet, kind, order):
    told("--preview-method latent2rgb", "latent2rgb")
    _, pack = meet(kind, order)
    sampled(stage, pack)
    in_charge = pack.status()["provider"]["in_charge"]
    assert (kind.__name__ if order == AFTER else neighbours.__name__) in in_charge


def test_i9_none_that_a_menu_chooses_after_another_method_is_a_choice(stage, client, told, meet):
    _, pack = meet(neighbours.PatchesProgressBar, BEFORE)
    for method, shown in (("none", OURS), ("latent2rgb", OURS), ("none", [])):
        told(method=method)
        client.frames.clear()
        sampled(stage, pack)
        assert got(client) == shown


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("first", "then"), [("none", "latent2rgb"), ("latent2rgb", "auto")])
def test_i9_a_method_changed_in_mid_run_by_another_pack_neither_loses_nor_doubles_a_picture(
    stage, client, told, meet, order, first, then
):
    told(method=first)
    neighbour, pack = meet(neighbours.ChangesTheMethod, order)
    neighbour.method = then
    for _ in range(2):
        client.frames.clear()
        sampled(stage, pack)
        assert got(client) == OURS
    assert {frame.sidestream["decoder"] for frame in client.frames} == {"latent2rgb"}


@pytest.mark.parametrize("order", ORDERS)
def test_i10_among_many_others_every_step_is_shown_once(stage, client, told, meet, order):
    told("--preview-method latent2rgb", "latent2rgb")
    meet.load(neighbours.PatchesProgressBar)
    _, pack = meet(neighbours.SendsItsOwn, order)
    meet.load(neighbours.ReplacesProgressBar)
    wraps = meet.load(neighbours.Wraps)
    sampled(stage, pack)
    assert got(client) == BOTH
    assert wraps.asked == STEPS
