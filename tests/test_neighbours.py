"""Beside each kind of other pack, loaded before and after it: I10 polite.

Nobody's previews are lost or doubled, and the status says who is in charge.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
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
        assert wait_until(stage.server.messages.empty)
        # Behind what was taken out of there last.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), stage.loop).result(30)


def got(client: FakeSocket) -> list[Any]:
    """All pictures that the client has, in the order of `BOTH`."""
    animated = [event for event in client.events if event["type"] == "animated_preview"]
    return sorted(client.steps) + ["animated"] * len(animated)


BEFORE, AFTER = "before", "after"
ORDERS = [BEFORE, AFTER]
WRAPPING = (neighbours.Wraps, neighbours.TakesApart, neighbours.Hooks)

# What the client gets: where ComfyUI has previews of its own, and where it has none.
SHOWN = [
    (neighbours.Wraps, BEFORE, THEIRS, OURS),
    (neighbours.Wraps, AFTER, OURS, OURS),
    (neighbours.Replaces, BEFORE, THEIRS, THEIRS),
    (neighbours.Replaces, AFTER, THEIRS, THEIRS),
    (neighbours.TakesApart, BEFORE, ANIMATED, OURS),
    (neighbours.TakesApart, AFTER, ANIMATED, ANIMATED),
    (neighbours.Hooks, BEFORE, ANIMATED, OURS),
    (neighbours.Hooks, AFTER, ANIMATED, ANIMATED),
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


# Whose pictures they were, and who was asked first, as status and report say it.
OWN = "SideStream"
CHARGE = [
    (neighbours.Wraps, BEFORE, True, False),
    (neighbours.Wraps, AFTER, False, True),
    (neighbours.Replaces, BEFORE, True, False),
    (neighbours.Replaces, AFTER, True, True),
    (neighbours.Hooks, BEFORE, True, False),
    (neighbours.Hooks, AFTER, True, True),
    (neighbours.SwitchedOff, BEFORE, False, False),
    (neighbours.SwitchedOff, AFTER, False, True),
    (neighbours.OverridesEverybody, BEFORE, True, False),
    (neighbours.PatchesProgressBar, AFTER, False, False),
]


@pytest.mark.parametrize(("kind", "order", "theirs", "around"), CHARGE)
def test_i10_a_pack_is_named_where_the_last_samplers_pictures_came_from_it(
    stage, client, told, meet, kind, order, theirs, around
):
    told("--preview-method latent2rgb", "latent2rgb")
    _, pack = meet(kind, order)
    sampled(stage, pack)
    provider = pack.status()["provider"]
    said = {"in_charge": provider["in_charge"], "around": provider["around"]}
    names = (neighbours.__name__, "neighbours")  # of a class, of a function
    assert said["in_charge"] in (names if theirs else (OWN,))
    assert said["around"] in (names if around else ("",))
    assert ("asked before SideStream: neighbours" in pack.report()) is around
    assert "/" not in "".join(said.values())


def test_i10_who_suppresses_previews_is_said_with_the_switch(
    stage, client, told, meet, monkeypatch
):
    """And only while it does: the next sampler's previews are ours."""
    pack, nodes = meet.make_pack(), stage.comfy.nodes
    neighbour = meet.load(neighbours.Suppresses)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Override", type(neighbour))
    monkeypatch.setitem(nodes.NODE_DISPLAY_NAME_MAPPINGS, "Override", "Preview Override")
    monkeypatch.setattr(type(neighbour), "__module__", "neighbours")
    switch = {"class_type": "Override", "inputs": {"model": ["1", 0], "suppress_preview": True}}
    with node(stage):
        graph = stage.comfy("comfy_execution.progress").get_progress_state().dynprompt
        graph.original_prompt["5"] = switch
        stage.sample(neighbour.model(with_settings(stage.demo_model())), steps=STEPS)
        assert all_told(pack)
    assert client.frames == []
    assert pack.status()["provider"]["in_charge"] == "neighbours"
    assert wait_until(lambda: client.run_states == ["start", "none", "end"])
    [none] = [told for told in client.told_of_runs if told["state"] == "none"]
    where = {"node_id": "5", "title": "Preview Override", "option": "suppress_preview"}
    assert (none["why"], none["who"], none["where"]) == ("suppressed", "neighbours", where)
    sampled(stage, pack)
    assert got(client) == OURS
    assert pack.status()["provider"]["in_charge"] == OWN


def test_i6_a_switch_that_cannot_be_looked_for_costs_the_word_not_the_sampling(
    stage, client, told, meet, monkeypatch
):
    pack, nodes = meet.make_pack(), stage.comfy.nodes
    neighbour = meet.load(neighbours.Suppresses)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Override", type(neighbour))
    monkeypatch.setattr(type(neighbour), "__module__", "neighbours")
    model = neighbour.model(with_settings(stage.demo_model()))
    with node(stage):
        graph = stage.comfy("comfy_execution.progress").get_progress_state().dynprompt
        graph.original_prompt["5"] = {"class_type": "Override", "inputs": None}
        assert stage.sample(model, steps=STEPS).isfinite().all()
        assert all_told(pack)
    sampled(stage, pack)
    assert got(client) == OURS


def test_i10_who_takes_previewers_apart_leaves_those_that_comfyui_has_not(
    stage, client, told, meet, latent_preview
):
    pack = meet.make_pack()
    neighbour = meet.load(neighbours.Hooks)
    sound = stage.comfy("comfy.latent_formats").StableAudio1()
    with node(stage):
        previewer = latent_preview.get_previewer(torch.device("cpu"), sound)
        previewer.decode_latent_to_preview_image("JPEG", torch.randn(1, 64, 40))
        del previewer
        assert all_told(pack)
    assert [frame.sidestream["decoder"] for frame in client.frames] == ["spectrogram"]
    assert neighbour.asked == 0


# Each row: what the command line says, then nodes in one prompt, None for an ordinary sampler and
# else what the neighbour's menu says; which of them have pictures.
MENUS = [
    ("none", ["auto", None, "none", None], [True, True, False, True]),
    ("none", ["none", None], [False, True]),
    ("latent2rgb", ["none", None, "taesd", None], [False, True, True, True]),
]


@pytest.mark.parametrize(("chosen", "menus", "shown"), MENUS)
@pytest.mark.parametrize("prompts", ["one", "many"])
def test_i9_what_a_menu_chooses_is_for_its_own_node(
    stage, client, told, meet, chosen, menus, shown, prompts
):
    told("" if chosen == "none" else f"--preview-method {chosen}", chosen)
    neighbour, pack = meet(neighbours.HasAMenu, BEFORE)
    model = with_settings(stage.demo_model())
    for number, menu in enumerate(menus):
        client.frames.clear()
        place = {"prompt": "one"} if prompts == "one" else {}
        with stage.node(str(number), **place):
            if menu is None:
                stage.sample(model, steps=STEPS)
            else:
                neighbour.run_node(menu, lambda: stage.sample(model, steps=STEPS))
            assert all_told(pack)
        assert got(client) == (OURS if shown[number] else [])


@pytest.mark.parametrize("sent", ["none", "latent2rgb"])
def test_i9_a_menu_beside_a_method_that_came_with_the_prompt(
    stage, client, told, meet, sent, monkeypatch
):
    """As in ComfyUIs that set the method anew at the start of each prompt."""
    told()
    module, args = stage.comfy.latent_preview, stage.comfy("comfy.cli_args").args
    kind = module.LatentPreviewMethod

    def set_preview_method(override: str) -> None:
        args.preview_method = kind(override)

    monkeypatch.setattr(module, "set_preview_method", set_preview_method, raising=False)
    neighbour, pack = meet(neighbours.HasAMenu, AFTER)
    model = with_settings(stage.demo_model())
    set_preview_method(sent)
    others = sent != "none"
    for menu, shown in (("none", False), (None, others), ("auto", True), (None, others)):
        client.frames.clear()
        with stage.node(menu or "other", extra_data={"preview_method": sent}):
            if menu is None:
                stage.sample(model, steps=STEPS)
            else:
                neighbour.run_node(menu, lambda: stage.sample(model, steps=STEPS))
            assert all_told(pack)
        assert got(client) == (OURS if shown else [])


def test_i9_a_node_that_sets_the_method_for_those_behind_it_is_followed(
    stage, client, told, meet
):
    told("--preview-method latent2rgb", "latent2rgb")
    args = stage.comfy("comfy.cli_args").args
    _, pack = meet(neighbours.PatchesProgressBar, BEFORE)
    with stage.node("1"):
        args.preview_method = stage.comfy.latent_preview.LatentPreviewMethod.NoPreviews
    sampled(stage, pack)
    assert got(client) == []


def test_i10_removing_the_pack_leaves_comfyuis_arguments_as_they_were(stage, told, make_pack):
    args = stage.comfy("comfy.cli_args").args
    before = type(args), dict(vars(args))
    pack = make_pack()
    assert dict(vars(args)) == before[1]
    for copied in (copy.copy(args), copy.deepcopy(args), pickle.loads(pickle.dumps(args))):
        assert (type(copied), dict(vars(copied))) == before
        assert copied == args
    pack.close()
    assert (type(args), dict(vars(args))) == before


def test_i9_none_that_a_menu_chooses_after_another_method_is_a_choice(
    stage, client, told, meet, monkeypatch
):
    # Later hosts set the method anew for each prompt, and so undo what a menu chose before it.
    monkeypatch.delattr(stage.comfy.latent_preview, "set_preview_method", raising=False)
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
