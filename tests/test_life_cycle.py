"""Runs that end in every way, in a real ComfyUI: I7 timely, I11 light.

Interrupted at every step, cleared, one behind the other, unloaded in between, reloaded, stopped.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from aiohttp import web
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.render.engines import Engines
from sidestream.tests.graphs import SAVE, demo_graph, insert, settled
from sidestream.tests.helpers import (
    CPU,
    SAMPLES_ON,
    FakeSink,
    FakeSource,
    a_book,
    capture,
    start_run,
    wait_until,
)
from sidestream.tests.pictures import decoded
from sidestream.tools.comfy_client import Event, Frame, Run

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient
    from sidestream.tools.server import RunningHost

PREVIEWS = {"method": "latent2rgb", "throttle_ms": 0, "budget": 0}


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host(hostpack=("probe", "reloader"))


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


def interrupted_after(client: ComfyClient, step: int) -> Run:
    """All of a run of 8 steps that was interrupted as soon as that step's progress came.

    A busy machine may deliver that so late that the run is over: then with slower steps.
    """
    for seconds in (0.03, 0.1, 0.3, 1.0):
        prompt_id, earlier = client.queue(graph(seconds=seconds)), list[Event | Frame]()
        for message in client.messages(prompt_id):
            earlier.append(message)
            progress = isinstance(message, Event) and message.type == "progress"
            if progress and message.data["value"] == step:
                client.interrupt()
                break
        rest = client.collect(prompt_id)
        if rest.outcome == "interrupted" or step == 8:
            break
    frames = [message for message in earlier if isinstance(message, Frame)]
    events = [message for message in earlier if isinstance(message, Event)]
    return replace(rest, frames=frames + rest.frames, events=events + rest.events)


@pytest.mark.parametrize("step", range(1, 9))
def test_i7_an_interrupt_at_any_step_ends_the_run_and_its_frames(client, step):
    run = interrupted_after(client, step)
    assert run.outcome in ("interrupted", "success" if step == 8 else "interrupted")
    late = client.listen(0.2).frames
    assert late == [] or run.outcome == "success"  # it came too late, and the last step is shown
    taken = [event.data["value"] for event in run.events if event.type == "progress"]
    assert max([0, *(frame.sidestream["step"] for frame in run.frames)]) <= max(taken)
    assert wait_until(lambda: runs_under_way(client) == 0)
    again = client.run(graph(steps=4))
    assert again.outcome == "success"
    assert {frame.metadata["prompt_id"] for frame in again.frames} == {again.prompt_id}


def test_i11_interrupted_runs_leave_no_thread_behind(running, client):
    before = 0
    for turn in range(6):
        prompt_id = client.queue(graph())
        for message in client.messages(prompt_id):
            if isinstance(message, Event) and message.type == "progress":
                client.interrupt()
                break
        client.collect(prompt_id)
        assert wait_until(lambda: runs_under_way(client) == 0)
        before = before if turn else threads(running)  # the first one starts what stays
    assert wait_until(lambda: threads(running) <= before)


# One behind the other


def test_a_cleared_queue_leaves_the_running_prompt_its_previews(client):
    first, second, third = (client.queue(graph(steps=30, seconds=0.2)) for _ in range(3))
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
    assert wait_until(lambda: runs_under_way(client) == 0)


def test_prompts_of_other_sizes_models_and_devices_have_pictures_of_their_own(client):
    kinds = [
        ({"width": 512, "height": 512}, {}),
        ({"width": 256, "height": 512, "picture_set": "animals"}, {"device": "cpu"}),
        ({"width": 512, "height": 128, "batch_size": 3}, {"format": "png", "max_size": 128}),
        ({"width": 64, "height": 64}, {"device": "same", "detail": "full"}),
    ]
    queued = []
    for model, settings in kinds:
        prompt = settled(demo_graph({**PREVIEWS, **settings}, steps=6, seconds=0.06))
        known = {**prompt["1"]["inputs"], **model}
        prompt["1"]["inputs"] = known
        queued.append((client.queue(prompt), known, settings))
    for prompt_id, model, settings in queued:
        seen = client.collect(prompt_id)
        assert seen.outcome == "success"
        assert len(seen.frames) == 6
        wide, high = model["width"], model["height"]
        longer = min(settings.get("max_size", 512), max(wide, high))
        shape = (high * longer // max(wide, high), wide * longer // max(wide, high), 3)
        for frame in seen.frames:
            assert frame.metadata["prompt_id"] == prompt_id
            assert decoded(frame.image).shape == shape


def test_unloading_all_models_in_mid_queue_changes_no_result_and_loses_no_preview(client):
    plain = client.run(graph(seed=5))
    latents = client.saved_latent(plain.prompt_id, SAVE)
    first = client.queue(graph(steps=30, seconds=0.2))
    second = client.queue(settled(graph(seed=5, steps=8, size=512, seconds=0.031)))
    for message in client.messages(first):
        if isinstance(message, Frame):
            client.post("/free", {"unload_models": True, "free_memory": True})
            break
    assert client.collect(first).outcome == "success"
    seen = client.collect(second)
    assert seen.outcome == "success"
    assert len(seen.frames) == 8
    assert client.saved_latent(second, SAVE) == latents


# Reloaded


def test_i10_a_pack_reloaded_in_mid_run_goes_on_with_one_worker(running, client):
    client.run(graph())
    before, since = threads(running), len(running.log_text)
    prompt_id = client.queue(graph(steps=30, seconds=0.2))
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            assert client.post("/reload", {}) is True
            break
    assert client.collect(prompt_id).outcome == "success"
    # Not settled: the helper's callback is now within the new pack's, which publishes at its end.
    seen = client.run(graph(steps=20, seconds=0.2))
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

# Of its own coroutines ComfyUI may say that nobody awaited them, with and without the pack.
BAD_ENDS = (
    "Traceback",
    r"coroutine '(?!PromptServer\.)\S+' was never awaited",
    "was destroyed",
    r"SideStream\]",
    "Exception ignored",
)


def endings(log: str) -> dict[str, dict[str, Any]]:
    """What the pack `ending` said, by moment."""
    told = [json.loads(line) for line in re.findall(r"^\[ending\] (.+)$", log, re.MULTILINE)]
    return {each["moment"]: each for each in told}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal for one process")
@pytest.mark.parametrize("decoder_seconds", [0.0, 60.0])
def test_a_server_stopped_in_mid_run_ends_soon_and_silently(comfy_host, connect, decoder_seconds):
    # The pack's part ends with the last handler: from there on the interpreter takes itself apart,
    # which needs seconds of a CPU, or is cut short by SIGABRT, with and without the pack.
    running = comfy_host(hostpack=("probe",), early=("ending",), fresh=True)
    client = connect(running)
    assert client.post("/ending", {}) is True
    prompt = graph(steps=2000)
    insert(prompt, "9", "ProbeSampling", name="stopped", decoder_seconds=decoder_seconds)
    prompt_id = client.queue(prompt)
    for message in client.messages(prompt_id):
        if isinstance(message, Event) and message.type == "progress" and message.data["value"] == 5:
            break
    since = len(running.log_text)
    os.kill(running.process.pid, signal.SIGINT)
    running.process.wait(50)  # one that waits for the hanging decoder takes 60
    log = running.log_text[since:]
    assert not [bad for bad in BAD_ENDS if re.search(bad, log)]
    said = endings(log)
    assert said["first"]["threads"] == [f"SideStream {SAMPLES_ON}"]
    assert said["last"]["threads"] == ([f"SideStream {SAMPLES_ON}"] if decoder_seconds else [])
    # The pack waits a second for its worker.
    assert said["last"]["clock"] - said["first"]["clock"] < 5


def test_of_packs_loaded_anew_only_the_last_is_closed_at_the_end(
    comfy, latent_preview, monkeypatch
):
    from sidestream.preview import pack as packs

    handlers: list[Any] = []
    ways = SimpleNamespace(register=handlers.append, unregister=handlers.remove)
    monkeypatch.setattr(packs, "atexit", ways)
    server = comfy.server.PromptServer.instance
    monkeypatch.setattr(server, "routes", web.RouteTableDef())
    monkeypatch.setattr(server, "sidestream", None, raising=False)
    loaded = [packs.start() for _ in range(3)]
    assert handlers == [loaded[-1].close]
    loaded[-1].close()


def test_i11_a_sampler_that_begins_when_all_is_closed_leaves_no_worker():
    engines = Engines(DecoderCache(), FakeSink())
    engines.close()
    engine = engines.of(CPU)
    run = start_run(a_book(), FakeSource())
    capture(engine, run, 1)
    assert run.open_frames == 0
    assert wait_until(lambda: not engine.alive)
