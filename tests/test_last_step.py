"""I7 and I14: what ComfyUI alone shows is shown, and the last step always, in a real ComfyUI."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sidestream.tests.graphs import SAMPLER, SAVE, demo_graph, insert, settled
from sidestream.tools.comfy_client import Event, Frame

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient, Run
    from sidestream.tools.server import RunningHost

SHORT = [(steps, seconds) for steps in (1, 2, 4, 8, 20) for seconds in (0.02, 0.05, 0.1, 0.25)]
SLOWNESS = (1, 1, 2, 4, 8, 16)
EVERY_STEP = {"sidestream": {"throttle_ms": 0, "budget": 0}}


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Callable[..., ComfyClient]) -> ComfyClient:
    return connect(running)


@pytest.fixture(scope="module")
def alone(comfy_host: Any) -> RunningHost:
    """ComfyUI with previews of its own, without the pack."""
    return comfy_host("--preview-method", "latent2rgb", pack=False, hostpack=("demo_model_only",))


def labels(run: Run) -> list[int]:
    return [frame.sidestream["step"] for frame in run.frames]


def captured(run: Run) -> int:
    """How many frames were captured; none was lost but by a newer one that took its place."""
    [end] = [e.data for e in run.events_of("sidestream.run") if e.data["state"] == "end"]
    assert {outcome for outcome, count in end["outcomes"].items() if count} <= {"sent", "replaced"}
    assert end["sent"] == len(run.frames)
    return int(end["sent"] + end["dropped"])


@pytest.mark.timeout(300)
def test_i14_as_many_pictures_as_comfyui_alone(
    alone: RunningHost, client: ComfyClient, connect: Callable[..., ComfyClient]
) -> None:
    without = connect(alone)
    for steps, seconds in SHORT:
        assert len(without.run(demo_graph(steps=steps, seconds=seconds)).frames) == steps
        for slowness in SLOWNESS:
            shown = client.run(demo_graph(steps=steps, seconds=seconds * slowness), EVERY_STEP)
            # Of a machine that is busy elsewhere the newest frames are shown, and the last one.
            assert labels(shown)[-1] == steps
            assert captured(shown) == steps
            if len(shown.frames) == steps:
                break
        assert labels(shown) == list(range(1, steps + 1)), (steps, seconds)


@pytest.mark.timeout(300)
def test_i7_the_last_step_arrives_in_100_of_100_runs_at_the_defaults(client: ComfyClient) -> None:
    for turn in range(100):
        steps, seconds = (1, 2, 4, 8)[turn % 4], (0.0, 0.02, 0.05)[turn % 3]
        run = client.run(demo_graph(steps=steps, seconds=seconds))
        assert run.outcome == "success"
        assert labels(run)[-1:] == [steps], (turn, steps, seconds, run.events)


def test_i7_the_last_step_arrives_beside_every_n_steps_and_any_throttle(
    client: ComfyClient,
) -> None:
    sent = {"sidestream": {"throttle_ms": 60_000, "every_n_steps": 3, "budget": 1}}
    assert labels(client.run(settled(demo_graph(steps=8, seconds=0.02)), sent)) == [1, 8]


def test_i7_the_last_steps_of_ten_queued_prompts_arrive_in_their_order(
    client: ComfyClient,
) -> None:
    queued = [client.queue(demo_graph(steps=4, seconds=0.05)) for _ in range(10)]
    frames = [frame for prompt in queued for frame in client.collect(prompt).frames]
    last = {frame.metadata["prompt_id"]: frame.sidestream["step"] for frame in frames}
    assert last == dict.fromkeys(queued, 4)
    # As they came: the client hands out what came before an earlier prompt's late frame after it.
    frames.sort(key=lambda frame: frame.received_at)
    order = [queued.index(frame.metadata["prompt_id"]) for frame in frames]
    assert order == sorted(order)


def test_i7_a_node_that_goes_on_shows_its_last_step_while_it_does(client: ComfyClient) -> None:
    prompt = demo_graph(steps=3, seconds=0.02)
    prompt[SAMPLER]["class_type"] = "SampleAndStay"
    prompt[SAMPLER]["inputs"]["stays"] = 30.0
    seen: list[str] = []
    for message in client.messages(client.queue(prompt)):
        if isinstance(message, Event):
            seen += [str(message.data["node"])] if message.type == "executing" else []
        elif message.sidestream["step"] == 3:
            assert seen[-1] == SAMPLER
            seen.append("the last step's frame")
            client.post("/samplers/leave", {})
    assert seen[-3:] == ["the last step's frame", SAVE, "None"]


@pytest.mark.parametrize("kind", ["SampleAsOutput", "SampleAndShow"])
def test_i7_a_nodes_own_result_is_not_painted_over(client: ComfyClient, kind: str) -> None:
    """With a decoder that is still at work when the node has finished."""
    prompt = demo_graph({"throttle_ms": 0, "method": "latent2rgb"}, steps=3, seconds=0.02)
    prompt[SAMPLER]["class_type"] = kind
    insert(prompt, "9", "ProbeSampling", name=kind, decoder_seconds=30.0)
    finished = False
    for message in client.messages(client.queue(prompt)):
        assert isinstance(message, Event)
        if message.type == "executed" and message.data["node"] == SAMPLER:
            finished = client.post("/probe/release", {})
    assert finished
    assert client.listen(1.0).frames == []


def test_i14_an_output_node_that_shows_nothing_shows_its_last_step(client: ComfyClient) -> None:
    prompt = demo_graph({"throttle_ms": 0, "method": "latent2rgb"}, steps=3, seconds=0.02)
    prompt[SAMPLER]["class_type"] = "SampleAndShowNothing"
    insert(prompt, "9", "ProbeSampling", name="nothing", decoder_seconds=0.2)
    assert labels(client.run(prompt))[-1] == 3


def test_i7_a_decoder_that_is_cold_costs_the_first_frames_not_the_last(
    client: ComfyClient,
) -> None:
    prompt = demo_graph({"method": "latent2rgb"}, steps=3, seconds=0.02)
    insert(prompt, "9", "ProbeSampling", name="cold", decoder_seconds=0.7)
    run = client.run(prompt)
    assert run.outcome == "success"
    assert labels(run)[-1] == 3
    assert [frame.metadata["node_id"] for frame in run.frames] == [SAMPLER] * len(run.frames)


def test_the_client_waits_for_late_frames_of_a_run_that_was_announced_in_an_earlier_call(
    client: ComfyClient,
) -> None:
    prompt = demo_graph({"method": "latent2rgb"}, steps=3, seconds=0.5)
    insert(prompt, "9", "ProbeSampling", name="late", decoder_seconds=0.7)
    prompt_id = client.queue(prompt)
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            break
    assert labels(client.collect(prompt_id))[-1:] == [3]
    assert client.listen(0.5).frames == []


def test_i7_an_interrupt_keeps_late_frames_back_too(client: ComfyClient) -> None:
    """Of a sampling that ended well, in a prompt that is interrupted in its next node."""
    prompt = demo_graph({"method": "latent2rgb"}, steps=2, seconds=0.02)
    insert(prompt, "9", "ProbeSampling", name="cut", decoder_seconds=30.0)
    prompt["7"] = {
        "class_type": "SampleAndStay",
        "inputs": {**prompt[SAMPLER]["inputs"], "steps": 200, "stays": 0.0},
    }
    prompt["7"]["inputs"]["latent_image"] = [SAMPLER, 0]
    prompt["8"] = {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["7", 0], "filename_prefix": "test"},
    }
    prompt["1"]["inputs"]["seconds_per_step"] = 0.05
    prompt_id = client.queue(prompt)
    for message in client.messages(prompt_id):
        assert isinstance(message, Event)
        if message.type == "progress" and message.data["node"] == "7":
            client.interrupt()
            break
    interrupted = False
    for message in client.messages(prompt_id):  # until both runs have ended
        assert isinstance(message, Event)
        if message.type == "execution_interrupted":
            interrupted = client.post("/probe/release", {})
    assert interrupted
    assert client.listen(0.5).frames == []
