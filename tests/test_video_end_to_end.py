"""Animated previews in a real ComfyUI, seen by real websocket clients."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sidestream.benchmarks.weights import WAN, video_decoder
from sidestream.tests.pictures import label_of

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient
    from sidestream.tools.server import RunningHost

FRAMES = 8

seeds = itertools.count()


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Callable[..., ComfyClient]) -> ComfyClient:
    return connect(running)


def video_graph(steps: int = 12, seconds: float = 0.3) -> dict[str, Any]:
    inputs = {"steps": steps, "frames": FRAMES, "seconds": seconds, "seed": next(seeds)}
    return {"1": {"class_type": "ProbeVideo", "inputs": inputs}}


def animations(run: Any) -> list[Any]:
    return [frame for frame in run.frames if "animation" in frame.sidestream]


def stills(run: Any) -> list[Any]:
    return [frame for frame in run.frames if "animation" not in frame.sidestream]


def bars(animation: Any) -> list[int]:
    """Where the bar is in each picture: the brightest of as many columns."""
    pictures = ImageSequence.Iterator(Image.open(io.BytesIO(animation.image)))
    found = []
    for picture in pictures:
        grey = np.asarray(picture.convert("L")).astype(float).mean(axis=0)
        columns = grey[: len(grey) // FRAMES * FRAMES].reshape(FRAMES, -1)
        found.append(int(columns.mean(axis=1).argmax()))
    return found


def test_animations_play_in_order_while_stills_go_on(client):
    free = {"sidestream": {"budget": 0, "throttle_ms": 0}}
    run = client.run(video_graph(), extra_data=free)
    assert run.outcome == "success"
    assert animations(run)
    # On a quick machine there is one for each still; never more, and none without its still.
    assert {animation.sidestream["step"] for animation in animations(run)} <= {
        still.sidestream["step"] for still in stills(run)
    }
    assert len(stills(run)) >= 6
    for animation in animations(run):
        assert animation.mime == "image/webp"
        told = animation.sidestream["animation"]
        assert told == {"frames": FRAMES, "fps": 4.0, "duration_ms": 2000}
        assert label_of(animation.image)["animation"] == told
        assert bars(animation) == list(range(FRAMES))
    for still in stills(run):
        assert still.mime == "image/jpeg"
        assert bars(still) == [0]  # the first frame, as ComfyUI shows it
    steps = [frame.sidestream["step"] for frame in animations(run)]
    assert steps == sorted(set(steps))
    sequence = [frame.sidestream["seq"] for frame in run.frames]
    assert sequence == sorted(set(sequence))


def test_a_run_has_an_animation_by_three_quarters_and_one_of_its_last_step(client, running):
    """At the default budget, with a decoder that would take a minute for one."""
    torch.manual_seed(3)
    file = running.base_dir / "models" / "vae_approx" / "lighttaew2_1.pth"
    torch.save(video_decoder(WAN), file)
    try:
        for seconds in (0.8, 1.2, 2.0):  # a busy machine may be late
            run = client.run(video_graph(20, seconds), timeout=180)
            assert "taehv" in {still.sidestream["decoder"] for still in stills(run)}
            assert animations(run)[-1].sidestream["step"] == 20
            for animation in animations(run):
                assert bars(animation) == list(range(FRAMES)), animation.sidestream["decoder"]
            due = next(e for e in run.events_of("progress") if e.data["value"] == 15).received_at
            first = animations(run)[0]
            if first.received_at <= due:
                assert first.sidestream["step"] <= 15
                return
    finally:
        file.unlink()
    pytest.fail("no animation was there by three quarters of any run")


def test_what_is_asked_of_animations_is_done(client):
    asked = {"budget": 0, "throttle_ms": 0, "video_frames": 4, "fps": 8}
    run = client.run(video_graph(), extra_data={"sidestream": asked})
    assert animations(run)
    for animation in animations(run):
        assert animation.sidestream["animation"] == {"frames": 4, "fps": 1.0, "duration_ms": 4000}
        assert bars(animation) == [0, 2, 4, 6]


def test_one_frame_is_a_still(client):
    run = client.run(video_graph(4), extra_data={"sidestream": {"video_frames": 1}})
    assert stills(run)
    assert not animations(run)


def test_a_client_that_knows_no_metadata_gets_stills_alone(running, connect):
    client = connect(running, announce_features=False)
    run = client.run(video_graph(6), extra_data={"sidestream": {"budget": 0}})
    assert run.outcome == "success"
    assert run.frames
    assert {frame.mime for frame in run.frames} == {"image/jpeg"}
