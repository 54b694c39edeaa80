"""Whatever samples, and whatever it samples: right picture, right aspect, right run."""

from __future__ import annotations

import io
import logging
import types
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sidestream.preview import records
from sidestream.tests.helpers import wait_until
from sidestream.tests.pictures import decoded, psnr
from sidestream.tests.stage import (
    SIZE,
    all_told,
    demo_conditioning,
    no_frame_is_open,
    with_settings,
)

CPU = torch.device("cpu")


class Sampling:
    """A sampler of any model family: calls its callback with the latents that a test gives."""

    def __init__(self, stage, latent_format, steps=8, **settings):
        self.stage = stage
        options = {"sidestream": {"throttle_ms": 0, "budget": 0, **settings}}
        model = types.SimpleNamespace(
            load_device=CPU,
            model=types.SimpleNamespace(latent_format=latent_format),
            model_options=options,
        )
        preview = stage.comfy("latent_preview")
        self.callback = preview.prepare_callback(model, steps)
        self.steps = steps

    def step(self, number, x0, total=None):
        """The callback after step `number`, from 1."""
        self.callback(number - 1, x0, x0, total or self.steps)
        self.stage.wait_for_frames()


def formats(stage):
    return stage.comfy("comfy.latent_formats")


def size_of(frame):
    return Image.open(io.BytesIO(bytes(frame.image))).size


def resized(picture, size):
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))


def levels(latent_format, latent):
    """What Latent2RGB makes of an image's latent [C, h, w], as uint8 [h, w, 3]."""
    factors = torch.tensor(latent_format.latent_rgb_factors)
    rgb = torch.einsum("chw,ck->hwk", latent, factors)
    bias = getattr(latent_format, "latent_rgb_factors_bias", None)
    rgb = rgb if bias is None else rgb + torch.tensor(bias)
    return ((rgb + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()


def test_several_samplings_through_one_callback_are_all_previewed(stage, pack, client, told):
    model = with_settings(stage.demo_model())
    sample = stage.comfy("comfy.sample").sample
    conditioning = demo_conditioning()
    with stage.node():
        callback = stage.comfy("latent_preview").prepare_callback(model, 4)
        for seed in (1, 2):
            noise = torch.randn(1, 4, SIZE, SIZE, generator=torch.manual_seed(seed))
            sample(
                model, noise, 4, 1.0, "euler", "normal", conditioning, conditioning,
                torch.zeros(1, 4, SIZE, SIZE), callback=callback, seed=seed,
            )  # fmt: skip
            stage.wait_for_frames()
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2, 3, 4] * 2
    assert stages(client) == [1] * 4 + [2] * 4


def test_two_passes_of_different_sizes_keep_their_own_aspect(stage, pack, client, told):
    sizes = [(8, 12), (20, 6)]
    with stage.node():
        for height, width in sizes:
            stage.sample(
                with_settings(stage.demo_model(), max_size=64),
                steps=3,
                latent=torch.zeros(1, 4, height, width),
            )
        assert all_told(pack)
    assert [size_of(frame) for frame in client.frames] == [(64, 43)] * 3 + [(19, 64)] * 3
    assert stages(client) == [1] * 3 + [2] * 3


def stages(client):
    """The stage of each frame, all of one run."""
    assert len({frame.sidestream["run"] for frame in client.frames}) == 1
    return [frame.sidestream["stage"] for frame in client.frames]


def test_tiles_of_an_upscaler_are_each_a_stage_of_one_run(stage, pack, client, told):
    model = with_settings(stage.demo_model())
    with stage.node():
        for tile in range(6):
            stage.sample(model, steps=2, latent=torch.zeros(1, 4, 4 + tile, 8))
        assert all_told(pack)
    assert client.steps == [1, 2] * 6
    assert stages(client) == [tile for tile in range(1, 7) for _ in range(2)]
    assert pack.status()["counters"]["runs"] == 1
    assert wait_until(lambda: client.run_states == ["start", "end"] * 6)
    heights = [frame.sidestream["height"] for frame in client.frames]
    assert heights == [8 * (4 + tile) for tile in range(6) for _ in range(2)]


@pytest.mark.parametrize(
    "called",
    [
        pytest.param([1, 1, 2, 2, 3, 3], id="twice a step"),
        pytest.param([1, 2, 3], id="fewer than announced"),
        pytest.param([1, 2, 3, 4, 2, 3, 4, 5], id="a restart"),
        pytest.param([4, 5, 6, 7, 8, 9, 10], id="more than announced"),
    ],
)
def test_frames_carry_the_step_that_the_sampler_says(stage, pack, client, told, called):
    latent_format = formats(stage).SD15()
    with stage.node():
        sampling = Sampling(stage, latent_format)
        for number, step in enumerate(called):
            sampling.step(step, torch.full((1, 4, SIZE, SIZE), number / 4))
        del sampling
        assert all_told(pack)
    assert client.steps == called
    for number, frame in enumerate(client.frames):
        expected = levels(latent_format, torch.full((4, 1, 1), number / 4))[0, 0]
        assert np.abs(decoded(bytes(frame.image)).reshape(-1, 3).mean(0) - expected).max() < 3


def test_every_n_steps_is_exact_in_a_restart(stage, pack, client, told):
    with stage.node():
        sampling = Sampling(stage, formats(stage).SD15(), every_n_steps=3)
        for step in [1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]:
            sampling.step(step, torch.zeros(1, 4, SIZE, SIZE))
        del sampling
        assert all_told(pack)
    assert client.steps == [1, 4, 4, 7, 8]


def pictures(client):
    """Stage and step of each frame."""
    return [(frame.sidestream["stage"], frame.sidestream["step"]) for frame in client.frames]


def test_a_throttle_holds_over_the_samplings_of_a_node(stage, pack, client, told):
    """As where regions are sampled in turns: a sampling, a previewer and one step each."""
    with stage.node():
        for turn in range(38):
            sampling = Sampling(stage, formats(stage).SD15(), steps=1, throttle_ms=60_000)
            sampling.callback(0, torch.full((1, 4, SIZE, SIZE), turn / 38), None, 1)
            assert wait_until(lambda: no_frame_is_open(pack))
    del sampling
    assert all_told(pack)
    assert pictures(client) == [(1, 1), (38, 1)]
    assert len({frame.sidestream["run"] for frame in client.frames}) == 1
    [last] = {frame.sidestream["dropped"] for frame in client.frames}
    assert last == 0


def test_every_n_steps_counts_on_over_the_samplings_of_a_node(stage, pack, client, told):
    with stage.node():
        for _ in range(7):
            sampling = Sampling(stage, formats(stage).SD15(), steps=2, every_n_steps=5)
            for step in (0, 1):
                sampling.callback(step, torch.zeros(1, 4, SIZE, SIZE), None, 2)
                assert wait_until(lambda: no_frame_is_open(pack))
        # Steps 1, 6 and 11; the first sampling's last step, of which nobody knows what follows.
        expected = [(1, 1), (1, 2), (3, 2), (6, 1)]
        assert pictures(client) == expected
    del sampling
    assert all_told(pack)
    assert pictures(client) == [*expected, (7, 2)]


def test_a_last_step_that_was_held_comes_when_the_throttle_lets_it(
    stage, pack, client, told, monkeypatch
):
    """Where a node goes on without a sampler: it decodes, say."""
    clock = [100.0]
    monkeypatch.setattr(records, "now", lambda: clock[0])
    with stage.node():
        for _ in range(2):
            sampling = Sampling(stage, formats(stage).SD15(), steps=1, throttle_ms=300)
            sampling.callback(0, torch.zeros(1, 4, SIZE, SIZE), None, 1)
            assert wait_until(lambda: no_frame_is_open(pack))
        clock[0] += 0.299
        assert not wait_until(lambda: len(client.frames) == 2, 0.2)
        clock[0] += 0.001
        assert wait_until(lambda: len(client.frames) == 2)
        del sampling
        assert all_told(pack)
    assert pictures(client) == [(1, 1), (2, 1)]


def test_i7_a_last_step_that_was_held_is_not_shown_after_an_interrupt(stage, pack, client, told):
    management = stage.comfy("comfy.model_management")
    with stage.node():
        for _ in range(2):
            sampling = Sampling(stage, formats(stage).SD15(), steps=1, throttle_ms=60_000)
            sampling.callback(0, torch.zeros(1, 4, SIZE, SIZE), None, 1)
            assert wait_until(lambda: no_frame_is_open(pack))
        management.interrupt_current_processing()
        del sampling
        assert all_told(pack)
        management.interrupt_current_processing(False)
    assert pictures(client) == [(1, 1)]


def test_the_budget_holds_over_the_samplings_of_a_node(stage, pack, client, told):
    """And the last step of all is shown: it waits for the end of the node."""
    with stage.node():
        for turn in range(20):
            sampling = Sampling(stage, formats(stage).SD15(), steps=1, budget=1)
            sampling.callback(0, torch.zeros(1, 4, SIZE, SIZE), None, 1)
            assert wait_until(lambda: no_frame_is_open(pack))
            if turn == 1:
                [engine] = pack._engines.all()
                engine.budget.allows = lambda *_: False
    del sampling
    assert all_told(pack)
    assert pictures(client) == [(1, 1), (2, 1), (20, 1)]


def test_what_is_changed_live_holds_for_the_samplings_to_come(stage, pack, client, told):
    with stage.node(extra_data={"client_id": "c"}):
        for turn in range(3):
            sampling = Sampling(stage, formats(stage).SD15(), steps=4)
            for step in range(1, 5):
                sampling.step(step, torch.zeros(1, 4, SIZE, SIZE))
            if turn == 0:
                pack.change("c", {"every_n_steps": 100})
        del sampling
    assert all_told(pack)
    assert pictures(client) == [(1, 1), (1, 2), (1, 3), (1, 4), (3, 4)]


def test_no_label_goes_beyond_its_total(stage, pack, client, told):
    """As `dpm_adaptive`, which takes the steps that it needs and announces others."""
    with stage.node():
        sampling = Sampling(stage, formats(stage).SD15(), steps=6, every_n_steps=4)
        for step in range(1, 12):
            sampling.callback(step - 1, torch.zeros(1, 4, SIZE, SIZE), None, 6)
            assert wait_until(lambda: no_frame_is_open(pack))
    del sampling
    assert all_told(pack)
    labels = [(f.sidestream["step"], f.sidestream["total_steps"]) for f in client.frames]
    assert labels == [(1, 6), (5, 6), (6, 6), (9, 9), (11, 11)]


@pytest.mark.parametrize("steps", [3, 9])
def test_a_script_behind_a_sampler_of_its_node_begins_with_its_own_total(
    stage, pack, client, told, steps
):
    latent_preview = stage.comfy("latent_preview")
    progress = stage.comfy("comfy_execution.progress")
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=5)
        progress.get_progress_state().update_progress("3", 5, 5, None)
        client.frames.clear()
        previewer = latent_preview.get_previewer(CPU, formats(stage).SD15())
        previewer.run.change({"throttle_ms": 0, "budget": 0})
        bar = stage.comfy("comfy.utils").ProgressBar(steps)
        for step in range(steps):
            x0 = torch.zeros(1, 4, SIZE, SIZE)
            picture = previewer.decode_latent_to_preview_image("JPEG", x0)
            bar.update_absolute(step + 1, steps, picture)
            stage.wait_for_frames()
        del previewer
        assert all_told(pack)
    labels = [(f.sidestream["step"], f.sidestream["total_steps"]) for f in client.frames]
    assert labels == [(step, steps) for step in range(1, steps + 1)]


def test_inpainting(stage, pack, client, told):
    model = with_settings(stage.demo_model())
    mask = torch.zeros(1, 1, SIZE * 8, SIZE * 8)
    mask[..., : SIZE * 4] = 1
    conditioning = demo_conditioning()
    start = {"samples": torch.zeros(1, 4, SIZE, SIZE), "noise_mask": mask}
    with stage.node():
        stage.comfy.nodes.KSampler().sample(
            model, 1, 4, 1.0, "euler", "normal", conditioning, conditioning, start, denoise=0.7
        )
        assert all_told(pack)
    assert client.steps == [1, 2, 3, 4]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (13, 9), (3, 200)])
def test_any_size_has_a_picture_of_its_aspect(stage, pack, client, told, height, width):
    with stage.node():
        sampling = Sampling(stage, formats(stage).SD15(), max_size=256)
        sampling.step(1, torch.zeros(1, 4, height, width))
        del sampling
        assert all_told(pack)
    (frame,) = client.frames
    scale = min(8, 256 / max(height, width))
    assert size_of(frame) == (max(1, round(width * scale)), max(1, round(height * scale)))


def test_a_batch_is_shown_side_by_side(stage, pack, client, told):
    latent_format = formats(stage).SD15()
    batch = torch.randn(7, 4, 1, 1, generator=torch.manual_seed(3)).expand(-1, -1, 6, 6)
    with stage.node():
        sampling = Sampling(
            stage, latent_format, batch="spread", batch_images=3, format="png", max_size=96
        )
        sampling.step(1, batch)
        del sampling
        assert all_told(pack)
    (frame,) = client.frames
    assert frame.sidestream["grid"] == {"columns": 2, "rows": 2, "images": [0, 3, 6]}
    picture = decoded(bytes(frame.image))
    assert picture.shape == (96, 96, 3)
    cells = [picture[:48, :48], picture[:48, 48:], picture[48:, :48], picture[48:, 48:]]
    for cell, image in zip(cells, (0, 3, 6), strict=False):
        expected = levels(latent_format, batch[image])
        # Enlarged as a whole: compared away from the edges between cells.
        assert psnr(cell[8:40, 8:40], resized(expected, (48, 48))[8:40, 8:40]) > 40
    assert cells[3][8:, 8:].max() == 0


def test_a_batch_plays_as_an_animation(stage, pack, client, told):
    with stage.node():
        sampling = Sampling(stage, formats(stage).SD15(), batch="animation")
        sampling.step(1, torch.randn(6, 4, SIZE, SIZE, generator=torch.manual_seed(3)))
        assert wait_until(lambda: len(client.frames) == 2)
        del sampling
        assert all_told(pack)
    still, animation = client.frames
    assert animation.sidestream["animation"] == {"frames": 6, "fps": 8.0, "duration_ms": 750}
    assert Image.open(io.BytesIO(bytes(animation.image))).n_frames == 6
    assert "animation" not in still.sidestream


def test_a_video_plays_in_the_right_order_at_its_rate(stage, pack, client, told, shared_data):
    """The real latent of a video: 16 latent frames, of which Latent2RGB makes a picture each."""
    latent = torch.load(shared_data / "wan_latents.pth", map_location="cpu", weights_only=True)
    wan = formats(stage).Wan21()
    video = latent.float()
    with stage.node():
        sampling = Sampling(stage, wan, method="latent2rgb", quality=100)
        sampling.step(1, video)
        assert wait_until(lambda: len(client.frames) == 2, 20)
        del sampling
        assert all_told(pack)
    still, animation = client.frames
    assert animation.sidestream["animation"] == {"frames": 16, "fps": 4.0, "duration_ms": 4000}
    kinds = (animation.metadata["image_type"], still.metadata["image_type"])
    assert kinds == ("image/webp", "image/jpeg")
    movie = Image.open(io.BytesIO(bytes(animation.image)))
    assert (movie.size, size_of(still)) == ((384, 240), (512, 320))
    pictures = [np.asarray(p.convert("RGB")) for p in ImageSequence.Iterator(movie)]
    assert len(pictures) == 16
    expected = [resized(levels(wan, video[0, :, i]), movie.size) for i in range(16)]
    for i, picture in enumerate(pictures):
        likeness = [psnr(picture, other) for other in expected]
        assert likeness.index(max(likeness)) == i
    # In this latent frames of one parity are as alike as the next two are not, so what tells the
    # order is each picture's own latent frame; neighbours are different pictures.
    assert max(psnr(a, b) for a, b in pairwise(pictures)) < 45


def test_not_finite_is_grey_and_counted(stage, pack, client, told):
    x0 = torch.ones(1, 4, SIZE, SIZE)
    x0[0, 1, :, : SIZE // 2] = float("nan")
    with stage.node():
        sampling = Sampling(stage, formats(stage).SD15(), format="png")
        sampling.step(1, x0)
        del sampling
        assert all_told(pack)
    (frame,) = client.frames
    assert frame.sidestream["not_finite"] == SIZE * SIZE // 2
    picture = decoded(bytes(frame.image))
    assert set(picture[:, : SIZE * 3].flatten().tolist()) == {128}
    assert pack.status()["counters"]["not_finite"] == 1


def test_what_has_six_dimensions_has_one_line_and_no_preview(stage, pack, client, told, caplog):
    with stage.node(), caplog.at_level(logging.INFO):
        sampling = Sampling(stage, formats(stage).SD15())
        for step in range(1, 5):
            sampling.step(step, torch.zeros(1, 4, 2, 2, SIZE, SIZE))
        del sampling
        assert all_told(pack)
    assert client.frames == []
    assert [r.getMessage() for r in caplog.records if "SideStream" in r.getMessage()] == [
        "[SideStream] Latents with 6 dimensions are not supported; this run has no previews."
    ]
    assert no_frame_is_open(pack)
