"""What sampling starts from, as step 0: where it is wanted, and nothing else is changed by it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from sidestream.preview.decoders.latent2rgb import Latent2RGBSource
from sidestream.preview.render.job import RenderJob
from sidestream.preview.render.mailbox import Mailbox
from sidestream.tests.helpers import FakeSource, a_book, pictured, start_run
from sidestream.tests.pictures import label_of
from sidestream.tests.stage import all_told, empty_latent, with_settings

if TYPE_CHECKING:
    from sidestream.tests.stage import FakeSocket, Stage

STEPS = 5


def decoded(stage: Stage, latent: torch.Tensor) -> np.ndarray:
    """What Latent2RGB makes of a latent of the demo model, uint8 [H, W, 3]."""
    made = stage.comfy("comfy.latent_formats").SD15()
    source = Latent2RGBSource(
        "SD15", made.latent_rgb_factors, getattr(made, "latent_rgb_factors_bias", None), None, 8
    )
    decoder = source.load(torch.device("cpu"))
    return RenderJob(decoder, 64)(latent.to(source.dtype(torch.device("cpu"))))[0].numpy()


def picture(frame: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(frame.image)).convert("RGB"))


def sampled(stage: Stage, model: Any, **how: Any) -> torch.Tensor:
    with stage.node():
        return stage.sample(model, steps=STEPS, **how)


def test_it_is_shown_where_wanted_and_counts_as_no_step(stage, pack, client: FakeSocket, told):
    plain = sampled(stage, with_settings(stage.demo_model()))
    assert client.steps == list(range(1, STEPS + 1))
    client.frames.clear()
    throttled: dict[str, Any] = {"throttle_ms": 60_000, "every_n_steps": 3}
    for settings, expected in (({}, [0, 1, 2, 3, 4, 5]), (throttled, [0, 1, 5])):
        asked = with_settings(stage.demo_model(), step_zero="noise", format="png", **settings)
        latent = sampled(stage, asked)
        assert all_told(pack)
        assert client.steps == expected
        assert torch.equal(latent, plain)
        assert label_of(client.frames[0].image)["step"] == 0
        assert {frame.sidestream["total_steps"] for frame in client.frames} == {STEPS}
        client.frames.clear()


def test_it_is_what_the_model_is_given_first(stage, pack, client: FakeSocket, told):
    """Noise; where a picture is changed, that with some noise."""
    given: list[torch.Tensor] = []
    model = with_settings(stage.demo_model(), step_zero="noise", format="png", max_size=64)
    network = model.model.diffusion_model
    network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].cpu()))
    start = torch.linspace(-1, 1, empty_latent().numel()).view_as(empty_latent())
    for latent, denoise in ((empty_latent(), 1.0), (start, 0.4)):
        given.clear()
        client.frames.clear()
        with stage.node():
            node = stage.comfy.nodes.KSampler()
            nothing = [[torch.zeros(1, 77, 768), {}]]
            node.sample(
                model, 3, STEPS, 1.0, "euler", "normal", nothing, nothing,
                {"samples": latent}, denoise,
            )  # fmt: skip
        assert all_told(pack)
        assert client.steps[0] == 0
        shown = picture(client.frames[0])
        expected = Image.fromarray(decoded(stage, given[0][:1])).resize(shown.shape[1::-1], 2)
        assert np.abs(shown.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("settings", [{"method": "off"}, {}])
def test_where_nothing_is_shown_or_it_is_not_wanted_there_is_none(
    stage, pack, client: FakeSocket, told, settings
):
    wanted = {"step_zero": "noise"} if settings else {}
    sampled(stage, with_settings(stage.demo_model(), **settings, **wanted))
    assert all_told(pack)
    assert 0 not in client.steps


def test_a_node_that_samples_again_has_one(stage, pack, client: FakeSocket, told):
    model = with_settings(stage.demo_model(), step_zero="noise")
    with stage.node():
        stage.sample(model, steps=2)
        stage.sample(model, steps=2)
    assert all_told(pack)
    assert client.steps == [0, 1, 2, 1, 2]


def test_a_decoder_that_is_cold_does_not_cost_it():
    run, box = start_run(a_book(), FakeSource(), throttle_ms=1), Mailbox()
    frames = []
    for step in (0, 1, 2):
        run.step = step
        frames.append(pictured(run))
    assert [box.put(frame) for frame in frames] == [None, None, frames[1]]
    assert [box.take(lambda frame: True, 0) for _ in "ab"] == [frames[0], frames[2]]
