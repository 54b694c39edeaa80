"""Sound in a real ComfyUI, heard by real websocket clients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sidestream.tests.helpers import HALF, SAMPLES_ON
from sidestream.tests.sounds import read, sound_graph
from sidestream.tools.comfy_client import RequestRefused

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient
    from sidestream.tools.server import RunningHost

seeds = itertools.count(100)
LISTENS = {"sidestream": {"accepts": ["sound"], "budget": 20, "throttle_ms": 0}}


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Callable[..., ComfyClient]) -> ComfyClient:
    return connect(running)


def sounds(run: Any) -> list[dict[str, Any]]:
    return [event.data for event in run.events_of("sidestream.sound")]


@pytest.mark.parametrize("video", [False, True])
def test_the_last_step_sounds_as_comfyui_decodes_it(running, client, video):
    seed = next(seeds)
    run = client.run(sound_graph(video=video, seed=seed), extra_data=LISTENS)
    assert run.outcome == "success"
    told = sounds(run)
    assert told[-1]["step"] == told[-1]["total_steps"] == 8
    assert [sound["step"] for sound in told] == sorted({sound["step"] for sound in told})
    seconds = pytest.approx(43 * 2048 / 44100, abs=1e-3)
    assert told[-1]["seconds"] == told[-1]["of_seconds"] == seconds
    made, rate = read(client.get_bytes(f"/sidestream/sound/{told[-1]['id']}"))
    assert rate == told[-1]["rate"] == 44100
    expected = torch.load(running.base_dir / "output" / f"sound-{seed}.pt").numpy()
    assert expected.std() > 0.01
    assert np.abs(made - expected.clip(-1, 1)).max() < (1e-4 if SAMPLES_ON == "cpu" else HALF)
    assert run.frames  # and the pictures are as without


def test_newer_sounds_take_the_place_of_older_ones(client):
    free = {"sidestream": LISTENS["sidestream"] | {"budget": 0}}
    told = sounds(client.run(sound_graph(seed=next(seeds)), extra_data=free))
    assert len(told) > 1
    *older, newest = told
    for sound in older:
        with pytest.raises(RequestRefused, match="404"):
            client.get_bytes(f"/sidestream/sound/{sound['id']}")
    assert len(client.get_bytes(f"/sidestream/sound/{newest['id']}")) == newest["bytes"]


def test_i8_only_who_queued_is_told(running, client, connect):
    other = connect(running)
    run = client.run(sound_graph(seed=next(seeds)), extra_data=LISTENS)
    assert sounds(run)
    assert not other.listen(1).events_of("sidestream.sound")


@pytest.mark.parametrize("asks", [{}, {"accepts": []}, {"accepts": "sound"}, {"accepts": {}}])
def test_i10_a_client_that_does_not_ask_gets_nothing_new(client, asks):
    run = client.run(sound_graph(seed=next(seeds)), extra_data={"sidestream": asks})
    assert run.outcome == "success"
    assert run.frames
    assert sounds(run) == []


def test_a_decoder_that_cannot_run_beside_the_sampler_is_told_of(client):
    run = client.run(sound_graph(seed=next(seeds), works=False), extra_data=LISTENS)
    assert run.outcome == "success"
    assert run.frames
    assert [sound["why"] for sound in sounds(run)] == ["thread"]


def test_without_a_vae_there_is_the_spectrogram_alone(client):
    run = client.run(sound_graph(seed=next(seeds), vae=False), extra_data=LISTENS)
    assert {frame.sidestream["decoder"] for frame in run.frames} == {"spectrogram"}
    assert sounds(run) == []
