"""I13: to change how previews are made never makes ComfyUI compute anything anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sidestream.tests.graphs import MODEL, NODE, SAMPLER, SAVE, demo_graph, insert, new_seed
from sidestream.tools.comfy_client import Event, Run

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient

FREE = {"throttle_ms": 0, "budget": 0}


@pytest.fixture(scope="module")
def client(comfy_host: Any) -> Any:
    from sidestream.tools.comfy_client import ComfyClient

    with ComfyClient(comfy_host().url) as one:
        yield one


def beside(**nodes: dict[str, Any]) -> dict[str, Any]:
    """What the page sends beside a prompt: the values of its preview nodes by their ids."""
    return {"sidestream": {**FREE, "nodes": {key.lstrip("n"): each for key, each in nodes.items()}}}


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of a run, as it told them when it began."""
    [start] = starts_of(run)
    told: dict[str, Any] = start["settings"]
    return told


def starts_of(run: Run) -> list[dict[str, Any]]:
    told = [event.data for event in run.events_of("sidestream.run")]
    return [data for data in told if data["state"] == "start"]


def executed(run: Run) -> set[str]:
    """The nodes that were computed in a run."""
    return {event.data["node"] for event in run.events_of("executing") if event.data["node"]}


def test_i13_another_throttle_beside_the_prompt_computes_nothing_anew(client: ComfyClient):
    prompt = demo_graph({}, steps=3, seconds=0.01)
    first = client.run(prompt, beside(n2={"throttle_ms": 100}))
    assert SAMPLER in executed(first)
    assert settings_of(first)["throttle_ms"] == 100
    second = client.run(prompt, beside(n2={"throttle_ms": 900, "quality": 5}))
    assert second.outcome == "success"
    assert executed(second) == set()
    cached = second.events_of("execution_cached")[-1].data["nodes"]
    assert {MODEL, NODE, SAMPLER} <= set(cached)


def test_i13_values_beside_a_prompt_reach_a_sampler_whose_model_was_cached(client: ComfyClient):
    prompt = demo_graph({}, steps=3, seconds=0.01)
    client.run(prompt, beside(n2={"quality": 20}))
    prompt[SAMPLER]["inputs"]["seed"] = new_seed()
    again = client.run(prompt, beside(n2={"quality": 30}))
    assert executed(again) == {SAMPLER, SAVE}
    assert settings_of(again)["quality"] == 30


def test_of_two_nodes_in_a_row_the_later_one_wins_and_each_has_its_own_values(client: ComfyClient):
    prompt = demo_graph({}, steps=2, seconds=0.01)
    insert(prompt, "8", "SideStreamPreview")
    run = client.run(prompt, beside(n2={"quality": 20, "max_size": 128}, n8={"quality": 30}))
    assert settings_of(run)["quality"] == 30
    assert settings_of(run)["max_size"] == 128


def test_two_nodes_alike_on_two_branches_keep_their_own_values(client: ComfyClient):
    prompt = demo_graph({}, steps=2, seconds=0.01)
    prompt["12"] = {"class_type": "SideStreamPreview", "inputs": {"model": [MODEL, 0]}}
    prompt["13"] = {**prompt[SAMPLER], "inputs": {**prompt[SAMPLER]["inputs"], "model": ["12", 0]}}
    prompt["14"] = {**prompt[SAVE], "inputs": {**prompt[SAVE]["inputs"], "samples": ["13", 0]}}
    run = client.run(prompt, beside(n2={"quality": 20}, n12={"quality": 30}))
    qualities = {each["node_id"]: each["settings"]["quality"] for each in starts_of(run)}
    assert qualities == {SAMPLER: 20, "13": 30}


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({}, 40),
        ({"quality": -1, "method": "as in my settings"}, 40),
        ({"quality": 50}, 50),
    ],
)
def test_a_node_sets_what_its_inputs_set_and_nothing_else(
    client: ComfyClient, inputs: dict[str, Any], expected: int
):
    prompt = demo_graph(inputs, steps=2, seconds=0.01)
    run = client.run(prompt, {"sidestream": {**FREE, "quality": 40, "method": "latent2rgb"}})
    assert settings_of(run)["quality"] == expected
    assert settings_of(run)["method"] == "latent2rgb"


@pytest.mark.parametrize(
    "wrong", [{"quality": 0}, {"every_n_steps": 0}, {"batch_images": 1}, {"method": "best"}]
)
def test_inputs_between_inheriting_and_their_range_are_refused(
    client: ComfyClient, wrong: dict[str, Any]
):
    from sidestream.tools.comfy_client import RequestRefused

    with pytest.raises(RequestRefused) as refused:
        client.queue(demo_graph(wrong))
    assert next(iter(wrong)) in str(refused.value.body)


def test_what_a_client_asked_for_reaches_the_runs_of_its_prompts(client: ComfyClient):
    def post(route: str, **body: Any) -> dict[str, Any]:
        answer: dict[str, Any] = client.post(route, {"client_id": client.client_id, **body})
        return answer

    assert post("/sidestream/pause", paused=True)["paused"]
    held = demo_graph({}, steps=40, seconds=0.01)
    held[SAMPLER]["class_type"] = "SampleAndStay"
    held[SAMPLER]["inputs"]["stays"] = 60.0
    running = client.queue(held, beside())
    waiting = client.queue(demo_graph({}, steps=3, seconds=0.01), beside())
    state = post("/sidestream/live", quality=15)
    assert (state["prompts"], state["live"]) == (2, {"quality": 15})
    later = client.queue(demo_graph({}, steps=3, seconds=0.01), beside())
    first = Run(running)
    for message in client.messages(running):
        assert isinstance(message, Event)
        first.events.append(message)
        if message.type == "progress" and message.data["value"] == 40:
            # Before the others begin, however late this comes.
            assert not post("/sidestream/pause", paused=False)["paused"]
            client.post("/samplers/leave", {})
    assert len(first.events_of("progress")) == 40  # the steps go on counting
    second, third = client.collect(waiting), client.collect(later)
    assert settings_of(second)["quality"] == 15
    assert settings_of(third)["quality"] == 85
    assert third.frames
    assert all(settings_of(run)["method"] == "host" for run in (first, second, third))
