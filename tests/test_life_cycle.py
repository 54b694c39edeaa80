"""Runs that end in every way, in a real ComfyUI: I7 timely, I11 light.

Interrupted at every step, cleared, one behind the other, unloaded in between, reloaded, stopped.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from sidestream.tests.graphs import SAVE, demo_graph, insert
from sidestream.tests.helpers import wait_until
from sidestream.tests.pictures import decoded
from sidestream.tools.comfy_client import Event, Frame

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient
    from sidestream.tools.server import RunningHost

PREVIEWS = {"method": "latent2rgb", "throttle_ms": 0, "budget": 0}


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host(hostpack=("reloader",))


@pytest.fixture
def client(running: RunningHost, connect: Any) -> ComfyClient:
    return connect(running)


def graph(**changes: Any) -> dict[str, Any]:
    return demo_graph(PREVIEWS, **{"steps": 8, "seconds": 0.03, **changes})


def runs_under_way(client: ComfyClient) -> int:
    return int(client.get("/sidestream/status")["counters"]["active_runs"])


def threads(running: RunningHost) -> int:
    return int(psutil.Process(running.process.pid).num_threads())


# Interrupted


@pytest.mark.parametrize("step", range(1, 9))
def test_i7_an_interrupt_at_any_step_ends_the_run_and_its_frames(client, step):
    prompt_id, shown = client.queue(graph()), 0
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            shown = message.sidestream["step"]
        elif message.type == "progress" and message.data["value"] == step:
            client.interrupt()
            break
    rest = client.collect(prompt_id)
    assert rest.outcome in ("interrupted", "success" if step >= 7 else "interrupted")
    assert client.listen(0.2).frames == []
    assert max([shown, *(frame.sidestream["step"] for frame in rest.frames)]) <= step + 2
    assert wait_until(lambda: runs_under_way(client) == 0)
    again = client.run(graph(steps=4))
    assert again.outcome == "success"
    assert {frame.metadata["prompt_id"] for frame in again.frames} == {again.prompt_id}


def test_i11_interrupted_runs_leave_no_thread_behind(running, client):
    client.run(graph())
    before = threads(running)
    for _ in range(5):
        prompt_id = client.queue(graph())
        for message in client.messages(prompt_id):
            if isinstance(message, Event) and message.type == "progress":
                client.interrupt()
                break
        client.collect(prompt_id)
    assert wait_until(lambda: threads(running) <= before)


# One behind the other


def test_a_cleared_queue_leaves_the_running_prompt_its_previews(client):
    first, second, third = (client.queue(graph(steps=30)) for _ in range(3))
    for message in client.messages(first):
        if isinstance(message, Frame):
            client.post("/queue", {"clear": True})
            break
    seen = client.collect(first)
    assert seen.outcome == "success"
    assert len(seen.frames) >= 10
    assert {frame.metadata["prompt_id"] for frame in seen.frames} == {first}
    after = client.listen(0.5)
    assert after.frames == []
    assert not client.history(second)
    assert not client.history(third)
    assert runs_under_way(client) == 0


def test_prompts_of_other_sizes_models_and_devices_have_pictures_of_their_own(client):
    kinds = [
        ({"width": 512, "height": 512}, {}),
        ({"width": 256, "height": 512, "picture_set": "animals"}, {"device": "cpu"}),
        ({"width": 512, "height": 128, "batch_size": 3}, {"format": "png", "max_size": 128}),
        ({"width": 64, "height": 64}, {"device": "same", "detail": "full"}),
    ]
    queued = []
    for model, settings in kinds:
        prompt = demo_graph({**PREVIEWS, **settings}, steps=6, seconds=0.06)
        known = {**prompt["1"]["inputs"], **model}
        prompt["1"]["inputs"] = known
        queued.append((client.queue(prompt), known, settings))
    for prompt_id, model, settings in queued:
        seen = client.collect(prompt_id)
        assert seen.outcome == "success"
        assert len(seen.frames) >= 2
        wide, high = model["width"], model["height"]
        longer = min(settings.get("max_size", 512), max(wide, high))
        shape = (high * longer // max(wide, high), wide * longer // max(wide, high), 3)
        for frame in seen.frames:
            assert frame.metadata["prompt_id"] == prompt_id
            assert decoded(frame.image).shape == shape


def test_unloading_all_models_in_mid_queue_changes_no_result_and_loses_no_preview(client):
    plain = client.run(graph(seed=5))
    latents = client.saved_latent(plain.prompt_id, SAVE)
    first = client.queue(graph(steps=30))
    second = client.queue(graph(seed=5, steps=8, size=512, seconds=0.031))
    for message in client.messages(first):
        if isinstance(message, Frame):
            client.post("/free", {"unload_models": True, "free_memory": True})
            break
    assert client.collect(first).outcome == "success"
    seen = client.collect(second)
    assert seen.outcome == "success"
    assert len(seen.frames) >= 3
    assert client.saved_latent(second, SAVE) == latents


# Reloaded


def test_i10_a_pack_reloaded_in_mid_run_goes_on_with_one_worker(running, client):
    client.run(graph())
    before, since = threads(running), len(running.log_text)
    prompt_id = client.queue(graph(steps=30))
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            assert client.post("/reload", {}) is True
            break
    assert client.collect(prompt_id).outcome == "success"
    seen = client.run(graph(steps=20))
    assert seen.outcome == "success"
    assert len(seen.frames) >= 10
    labels = [frame.sidestream["step"] for frame in seen.frames]
    assert labels == sorted(set(labels))
    status = client.get("/sidestream/status")
    assert status["provider"]["in_charge"] == "SideStream"
    assert status["counters"]["runs"] == 1  # the new pack's own
    assert wait_until(lambda: threads(running) <= before)
    assert "Traceback" not in running.log_text[since:]


# Stopped

BAD_ENDS = ("Traceback", "never awaited", "was destroyed", "SideStream]", "Exception ignored")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal for one process")
@pytest.mark.parametrize("decoder_seconds", [0.0, 60.0])
def test_a_server_stopped_in_mid_run_ends_soon_and_silently(comfy_host, connect, decoder_seconds):
    # How long ComfyUI itself takes depends on the machine; a worker that it waits for takes a
    # minute. Its own worker thread may end it with SIGABRT, with and without the pack.
    running = comfy_host(hostpack=("probe",), fresh=True)
    client = connect(running)
    prompt = graph(steps=2000)
    insert(prompt, "9", "ProbeSampling", name="stopped", decoder_seconds=decoder_seconds)
    prompt_id = client.queue(prompt)
    for message in client.messages(prompt_id):
        if isinstance(message, Event) and message.type == "progress" and message.data["value"] == 5:
            break
    since = len(running.log_text)
    os.kill(running.process.pid, signal.SIGINT)
    running.process.wait(30)
    assert not [bad for bad in BAD_ENDS if bad in running.log_text[since:]]
