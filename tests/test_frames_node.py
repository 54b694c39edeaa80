"""The node 'Side-Stream Frames' in a real ComfyUI: every step, labelled right, cached or not."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from sidestream.tests.graphs import MODEL, SAMPLER, demo_graph, new_seed, settled

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient, Run
    from sidestream.tools.server import RunningHost

FRAMES, SAVED, STEPS, RATE = "20", "21", "22", "23"
EVERY_STEP = {"throttle_ms": 0}
FULL = EVERY_STEP | {"budget": 0, "format": "png"}


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Callable[..., ComfyClient]) -> ComfyClient:
    return connect(running)


def with_frames(prompt: dict[str, Any], source: str = SAMPLER, **fields: Any) -> dict[str, Any]:
    """The prompt with the node behind a sampler, and what saves its outputs."""
    saved = {"images": [FRAMES, 1], "filename_prefix": "frames"}
    return prompt | {
        FRAMES: {"class_type": "SideStreamFrames", "inputs": {"latent": [source, 0], **fields}},
        SAVED: {"class_type": "SaveImage", "inputs": saved},
        STEPS: {"class_type": "PreviewAny", "inputs": {"source": [FRAMES, 2]}},
        RATE: {"class_type": "PreviewAny", "inputs": {"source": [FRAMES, 3]}},
    }


def sampled(**how: Any) -> dict[str, Any]:
    return demo_graph(**{"seconds": 0.02, "size": 256, **how})


class Given:
    """What the node gave in one prompt."""

    def __init__(self, client: ComfyClient, prompt: dict[str, Any], **sent: Any) -> None:
        extra = {"sidestream": sent} if sent else None
        self.run: Run = client.run(prompt, extra_data=extra)
        assert self.run.outcome == "success", self.run.events[-1]
        self.outputs = client.history(self.run.prompt_id)["outputs"]
        self.cached = {n for e in self.run.events_of("execution_cached") for n in e.data["nodes"]}
        self.pictures = [
            np.asarray(Image.open(io.BytesIO(client.get_bytes(address(file)))).convert("RGB"))
            for file in self.outputs[SAVED]["images"]
        ]
        self.steps = [int(text) for text in self.outputs[STEPS]["text"]]
        self.rate = float(self.outputs[RATE]["text"][0])
        self.why = self.outputs.get(FRAMES, {}).get("sidestream_frames", [])


def address(file: dict[str, Any]) -> str:
    return f"/view?filename={file['filename']}&type={file['type']}&subfolder={file['subfolder']}"


def alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and int(np.abs(one.astype(int) - other).max()) <= 1


def test_20_steps_give_20_pictures_labelled_right_and_the_same_from_the_cache(client):
    """At the default budget, too, which keeps some of them from the panel."""
    prompt = with_frames(sampled(steps=20))
    first = Given(client, prompt, **EVERY_STEP)
    assert first.steps == list(range(1, 21))
    assert len(first.pictures) == 20
    assert first.rate == 8
    assert first.why == []
    assert len({picture.tobytes() for picture in first.pictures}) > 10
    # All from the cache; then the node alone runs again.
    again = Given(client, prompt, **EVERY_STEP)
    assert {SAMPLER, FRAMES} <= again.cached
    fewer = Given(client, with_frames(prompt, max_frames=5), **EVERY_STEP)
    assert SAMPLER in fewer.cached
    assert FRAMES not in fewer.cached
    assert again.steps == first.steps
    assert fewer.steps == [1, 6, 11, 15, 20]
    for given in (again, fewer):
        assert all(
            alike(first.pictures[step - 1], picture)
            for step, picture in zip(given.steps, given.pictures, strict=True)
        )


def test_its_pictures_are_those_that_were_shown(client):
    prompt = with_frames(settled(sampled(steps=6)))
    given = Given(client, prompt, **FULL, step_zero="noise")
    shown = {
        frame.sidestream["step"]: np.asarray(Image.open(io.BytesIO(frame.image)).convert("RGB"))
        for frame in given.run.frames
    }
    assert given.steps == sorted(shown) == [0, 1, 2, 3, 4, 5, 6]
    for step, picture in zip(given.steps, given.pictures, strict=True):
        assert alike(shown[step], picture), step


def test_the_throttle_is_the_users(client):
    given = Given(client, with_frames(sampled(steps=10)), throttle_ms=0, every_n_steps=4)
    assert given.steps == [1, 5, 9, 10]
    given = Given(client, with_frames(sampled(steps=6)), throttle_ms=60_000)
    assert given.steps == [1, 6]


def test_count_and_memory_are_bounded_and_the_ends_are_kept(client):
    prompt = with_frames(sampled(steps=40, seconds=0.0, size=1024), max_megabytes=32)
    given = Given(client, prompt, throttle_ms=0, max_size=512)
    assert 5 <= len(given.pictures) <= 10
    assert (given.steps[0], given.steps[-1]) == (1, 40)
    assert given.steps == sorted(given.steps)
    assert Given(client, with_frames(sampled(steps=5), max_frames=1), **EVERY_STEP).steps == [5]


def test_a_videos_frames_are_those_of_the_last_animation_forwards(client):
    inputs = {"steps": 3, "frames": 8, "seconds": 0.02, "seed": new_seed()}
    prompt = {"1": {"class_type": "ProbeVideoLatent", "inputs": inputs}}
    given = Given(client, with_frames(prompt, "1"), **EVERY_STEP)
    columns = [picture.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1) for picture in given.pictures]
    assert [int(column.argmax()) for column in columns] == list(range(8))
    assert given.steps == [3] * 8
    assert given.rate == 4  # 16 frames a second, of which latents have one in four
    assert {picture.shape for picture in given.pictures} == {given.pictures[0].shape}
    assert all(side % 2 == 0 for side in given.pictures[0].shape[:2])


@pytest.mark.parametrize(
    ("kind", "steps"), [("SampleTwice", [1, 2, 3, 4, 5, 6]), ("SampleByGraph", [1, 2, 3])]
)
def test_nodes_that_sample_in_other_ways(client, kind, steps):
    prompt = sampled(steps=3)
    prompt[SAMPLER]["class_type"] = kind
    given = Given(client, with_frames(prompt), **EVERY_STEP)
    assert given.steps == steps
    fewer = Given(client, with_frames(prompt, max_frames=2), **EVERY_STEP)
    assert SAMPLER in fewer.cached
    assert fewer.steps == [1, steps[-1]]


def test_each_item_of_a_list_has_its_own(client):
    prompt = sampled(steps=4)
    prompt["9"] = {"class_type": "Seeds", "inputs": {"first": new_seed() * 20, "count": 12}}
    prompt[SAMPLER]["inputs"]["seed"] = ["9", 0]
    given = Given(client, with_frames(prompt, max_frames=2), **EVERY_STEP, step_zero="noise")
    assert given.steps == [0, 4] * 12
    assert len({noise.tobytes() for noise in given.pictures[::2]}) == 12


def two_samplers() -> dict[str, Any]:
    """The second one begins with what the first one gave, by a MODEL of its own."""
    prompt = sampled(steps=3)
    own = dict(prompt[MODEL]["inputs"], picture_set="animals")
    prompt["10"] = {"class_type": "SideStreamDemoModel", "inputs": own}
    inputs = dict(prompt[SAMPLER]["inputs"], model=["10", 0], latent_image=[SAMPLER, 0], steps=5)
    prompt["11"] = {"class_type": "KSampler", "inputs": inputs}
    return prompt


def test_of_two_samplers_it_takes_the_nearest_or_that_of_the_model(client):
    prompt = two_samplers()
    by_model = with_frames(prompt, "11", model=[MODEL, 0])
    assert Given(client, with_frames(prompt, "11"), **EVERY_STEP).steps == [1, 2, 3, 4, 5]
    assert Given(client, by_model, **EVERY_STEP).steps == [1, 2, 3]
    assert Given(client, with_frames(prompt, SAMPLER), **EVERY_STEP).steps == [1, 2, 3]


def test_nodes_between_do_not_hide_the_sampler(client):
    prompt = sampled(steps=3)
    inputs = {"samples": [SAMPLER, 0], "upscale_method": "bilinear", "scale_by": 1.5}
    prompt["12"] = {"class_type": "LatentUpscaleBy", "inputs": inputs}
    assert Given(client, with_frames(prompt, "12"), **EVERY_STEP).steps == [1, 2, 3]


def test_without_previews_it_gives_one_black_picture_and_says_why(client, running):
    since = len(running.log_text)
    off = Given(client, with_frames(sampled(steps=3)), method="off")
    prompt = sampled(steps=3)
    client.run(prompt)  # without the node: nothing is kept
    late = Given(client, with_frames(prompt), **EVERY_STEP)
    assert SAMPLER in late.cached
    for given, why in ((off, "empty"), (late, "unknown")):
        assert given.why == [why]
        assert given.steps == [-1]
        assert [picture.max() for picture in given.pictures] == [0]
    log = running.log_text[since:]
    assert log.count("Side-Stream Frames: ") == 2
    assert "change the seed" in log
    # Another seed is sampled anew.
    prompt[SAMPLER]["inputs"]["seed"] = new_seed()
    assert Given(client, with_frames(prompt), **EVERY_STEP).steps == [1, 2, 3]


def test_a_client_that_is_not_connected_gets_them_too(client):
    prompt_id = client.post("/prompt", {"prompt": with_frames(sampled(steps=4))})["prompt_id"]
    client.run(sampled(steps=1))
    outputs = client.history(prompt_id)["outputs"]
    assert len(outputs[SAVED]["images"]) >= 2
    assert outputs[STEPS]["text"][-1] == "4"
