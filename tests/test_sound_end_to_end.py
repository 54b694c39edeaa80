"""Sound in a real ComfyUI, heard by real websocket clients."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from sidestream.tests.helpers import HALF, SAMPLES_ON
from sidestream.tests.pictures import decoded, psnr
from sidestream.tests.small_audio_vaes import FAMILIES
from sidestream.tests.sounds import STEPS, read, sampled_graph, sound_graph
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
    for seconds in (0.15, 0.5, 2.0):  # a busy machine may only make the last one
        graph = sound_graph(seed=next(seeds), seconds=seconds)
        told = sounds(client.run(graph, extra_data=free))
        if len(told) > 1:
            break
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


def has_node(client: ComfyClient, kind: str) -> bool:
    return kind in client.get(f"/object_info/{kind}")


def sampled(
    running: RunningHost, client: ComfyClient, graph: dict[str, Any], **settings: Any
) -> tuple[Any, dict[str, Any]]:
    """The run of a `sampled_graph`, and what it saved."""
    asked = {"sidestream": LISTENS["sidestream"] | {"format": "png"} | settings}
    run = client.run(graph, extra_data=asked)
    assert run.outcome == "success"
    name = graph["save"]["inputs"]["name"]
    return run, torch.load(running.base_dir / "output" / f"{name}.pt")


def middles(picture: np.ndarray, scale: int) -> np.ndarray:
    """The levels in the middle of each latent pixel of a picture [H, W, 3], enlarged smoothly."""
    height, width, _ = picture.shape
    blocks = picture.reshape(height // scale, scale, width // scale, scale, 3).astype(float)
    middle = slice(scale // 2 - 1, scale // 2 + 1)
    return blocks[:, middle, :, middle].mean(axis=(1, 3))


def check_pictures(run: Any, expected: np.ndarray) -> None:
    """The last ones show the video `expected`: uint8 [T, h, w, 3], in latent pixels."""
    stills = [frame for frame in run.frames if "animation" not in frame.sidestream]
    [animation] = [frame for frame in run.frames if "animation" in frame.sidestream][-1:]
    for frame in (stills[-1], animation):
        assert frame.sidestream["step"] == STEPS
        assert frame.sidestream["decoder"] == "latent2rgb"
    scale = stills[-1].sidestream["height"] // expected.shape[1]
    assert psnr(middles(decoded(stills[-1].image), scale), expected[0]) > 30
    played = Image.open(io.BytesIO(animation.image))
    assert played.n_frames == len(expected)
    for at, picture in enumerate(expected):
        played.seek(at)
        shown = middles(np.asarray(played.convert("RGB")), scale)
        assert psnr(shown, picture) > 25  # WebP's colours have half the resolution


@pytest.mark.parametrize(
    ("family", "packed"),
    [
        *(("ltx_2", False), ("ltx_2", True), ("minimax_h3", False), ("minimax_h3", True)),
        *(("stable_audio", False), ("ace_step", False)),
    ],
)
def test_what_comfyui_samples_sounds_and_looks_as_it_decodes_it(running, client, family, packed):
    decoder = "LTXVAudioVAEDecode" if family == "ltx_2" else "VAEDecodeAudio"
    if family == "ace_step" and not has_node(client, decoder):
        decoder = "ProbeDecodeAudio"

    def graph(has_node: bool = True) -> dict[str, Any]:
        how: Any = {"packed": packed, "has_node": has_node, "decoder": decoder}
        return sampled_graph(family, again=next(seeds), **how)

    for node in graph().values():
        if not has_node(client, node["class_type"]):
            pytest.skip(f"this ComfyUI has no {node['class_type']}")
    since = len(running.log_text)
    unseen, without = sampled(running, client, graph(has_node=False), method="off")
    assert not unseen.frames
    for step_zero in ("off", "noise"):
        run, kept = sampled(running, client, graph(), step_zero=step_zero)
        for name in {"sound", "video"} & set(kept):
            assert torch.equal(kept[name], without[name]), name
        told = sounds(run)[-1]
        assert told["step"] == told["total_steps"] == STEPS
        made, rate = read(client.get_bytes(f"/sidestream/sound/{told['id']}"))
        assert rate == told["rate"] == kept["rate"]
        seconds = pytest.approx(made.shape[1] / rate, abs=1e-3)
        assert told["seconds"] == told["of_seconds"] == seconds
        expected = kept["audio"].numpy()[:, : made.shape[1]]
        assert made.shape == expected.shape
        assert expected.std() > 0.01
        tolerance = FAMILIES[family].tolerance if SAMPLES_ON == "cpu" else HALF
        assert np.abs(made - expected).max() < tolerance
        first = run.frames[0].sidestream
        assert (first["step"] == 0) == (step_zero == "noise")
        last = run.frames[-1].sidestream
        assert [first[side] for side in ("width", "height")] == [last["width"], last["height"]]
        if "pictures" in kept:
            check_pictures(run, kept["pictures"].numpy())
        else:
            assert {frame.sidestream["decoder"] for frame in run.frames} == {"spectrogram"}
    log = running.log_text[since:]
    assert "SideStream" not in log
    assert "Traceback" not in log
