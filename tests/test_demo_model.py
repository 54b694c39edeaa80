"""The demo model in ComfyUI's own samplers, its pictures, and the graph that shows it."""

from __future__ import annotations

import itertools
import json
import threading
import time
import types
from typing import TYPE_CHECKING, Any

import numpy
import pytest
import torch
from PIL import ImageChops, ImageStat
from sidestream.tests.workflows import to_prompt
from sidestream.tools.places import REPO

if TYPE_CHECKING:
    from sidestream.tests.conftest import HostModules

API_PROMPT = REPO / "tools" / "demo_prompt.json"
WORKFLOW = REPO / "example_workflows" / "sidestream_demo.json"

Made = tuple[Any, Any, Any]
"""MODEL, CONDITIONING and LATENT."""

SIZE = 256
END_PSNR = 45.0
"""Decibels between a run's last latents and one of the pictures; two pictures differ by 5 to 15."""


@pytest.fixture(scope="module")
def demo(comfy: HostModules) -> Any:
    """The module of the node, imported after ComfyUI."""
    comfy("comfy_api.latest")
    from sidestream.nodes import demo_model

    return demo_model


@pytest.fixture(scope="module")
def pictures(comfy: HostModules) -> Any:
    from sidestream.nodes import demo_pictures

    return demo_pictures


def outputs(demo: Any, **widgets: Any) -> Made:
    """What the node makes of these widgets."""
    asked = {
        "width": SIZE, "height": SIZE, "seconds_per_step": 0.0, "picture_set": "animals",
        "batch_size": 1,
    }
    return demo.SideStreamDemoModel.execute(**{**asked, **widgets}).args


def sample(comfy: HostModules, made: Made, **widgets: Any) -> torch.Tensor:
    """The latents that ComfyUI's KSampler makes of the node's outputs."""
    model, conditioning, latent = made
    asked = {
        "seed": 7, "steps": 20, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal",
        "positive": conditioning, "negative": conditioning, "latent_image": latent,
    }
    return comfy.nodes.KSampler().sample(model, **{**asked, **widgets})[0]["samples"].cpu()


def nearest(demo: Any, made: Made, latents: torch.Tensor) -> list[tuple[int, float]]:
    """For each of the latents, which picture of "animals" it is, and the PSNR in decibels."""
    latent_format = made[0].model.latent_format
    height, width = latents.shape[-2:]
    known = demo.picture_latents("animals", width, height, latent_format)
    found = []
    for each in latent_format.process_in(latents):
        errors = (each - known).square().mean(dim=(1, 2, 3))
        peak = known.max() - known.min()
        best = int(errors.argmin())
        found.append((best, float(10 * torch.log10(peak**2 / errors[best]))))
    return found


# In ComfyUI's samplers


@pytest.mark.parametrize("cfg", [1.0, 8.0])
@pytest.mark.parametrize(("width", "height"), [(256, 256), (1024, 1024), (320, 192), (72, 200)])
def test_ksampler_ends_at_one_of_the_pictures(
    comfy: HostModules, demo: Any, width: int, height: int, cfg: float
) -> None:
    made = outputs(demo, width=width, height=height)
    latents = sample(comfy, made, cfg=cfg)
    assert latents.shape == (1, 4, height // 8, width // 8)
    assert nearest(demo, made, latents)[0][1] > END_PSNR


@pytest.mark.parametrize(
    "sampler", ["euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "ddim", "lcm", "uni_pc"]
)
def test_every_kind_of_sampler_ends_at_a_picture(
    comfy: HostModules, demo: Any, sampler: str
) -> None:
    made = outputs(demo)
    assert nearest(demo, made, sample(comfy, made, sampler_name=sampler))[0][1] > END_PSNR


@pytest.mark.parametrize("scheduler", ["simple", "karras", "exponential", "sgm_uniform", "beta"])
def test_every_common_scheduler_ends_at_a_picture(
    comfy: HostModules, demo: Any, scheduler: str
) -> None:
    made = outputs(demo)
    assert nearest(demo, made, sample(comfy, made, scheduler=scheduler))[0][1] > END_PSNR


def test_the_other_sampler_nodes_give_the_ksamplers_latents(
    comfy: HostModules, demo: Any
) -> None:
    """KSamplerAdvanced and SamplerCustom, which pass the model through other code."""
    made = outputs(demo)
    expected = sample(comfy, made)
    model, conditioning, latent = made
    advanced = comfy.nodes.KSamplerAdvanced().sample(
        model, "enable", 7, 20, 1.0, "euler", "normal", conditioning, conditioning, latent, 0,
        10000, "disable",
    )
    torch.testing.assert_close(advanced[0]["samples"].cpu(), expected, atol=1e-5, rtol=0)
    samplers = comfy("comfy.samplers")
    sigmas = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 20)
    custom = comfy("comfy_extras.nodes_custom_sampler").SamplerCustom
    chosen = samplers.sampler_object("euler")
    run = getattr(custom, "execute", None) or custom().sample  # V3 nodes and older ones
    result = run(model, True, 7, 1.0, conditioning, conditioning, chosen, sigmas, latent)
    output, _ = getattr(result, "args", result)
    torch.testing.assert_close(output["samples"].cpu(), expected, atol=1e-5, rtol=0)


def test_seeds_reach_different_pictures_and_the_same_seed_the_same_latents(
    comfy: HostModules, demo: Any
) -> None:
    made = outputs(demo)
    runs = [sample(comfy, made, seed=seed) for seed in range(12)]
    assert len({nearest(demo, made, run)[0][0] for run in runs}) >= 3
    assert torch.equal(sample(comfy, outputs(demo), seed=5), runs[5])


def test_each_of_a_batch_ends_at_a_picture(comfy: HostModules, demo: Any) -> None:
    made = outputs(demo, batch_size=6)
    found = nearest(demo, made, sample(comfy, made))
    assert all(psnr > END_PSNR for _, psnr in found)
    assert len({picture for picture, _ in found}) >= 2, "all of the batch are the same picture"


def test_a_picture_noised_half_way_comes_back(comfy: HostModules, demo: Any) -> None:
    """Image to image: each picture returns as itself."""
    model, conditioning, _ = outputs(demo)
    latent_format = model.model.latent_format
    clean = demo.picture_latents("animals", SIZE // 8, SIZE // 8, latent_format)
    made = (model, conditioning, {"samples": latent_format.process_out(clean)})
    found = nearest(demo, made, sample(comfy, made, denoise=0.5))
    assert [picture for picture, _ in found] == list(range(len(clean)))
    assert all(psnr > END_PSNR for _, psnr in found)


def test_one_model_serves_latents_of_any_size(comfy: HostModules, demo: Any) -> None:
    """The node's size is that of its LATENT; the MODEL adapts to what the sampler brings."""
    model, conditioning, _ = outputs(demo)
    for height, width in ((8, 8), (40, 24), (17, 33), (8, 8)):
        made = (model, conditioning, {"samples": torch.zeros(1, 4, height, width)})
        assert nearest(demo, made, sample(comfy, made))[0][1] > END_PSNR


def test_previews_of_a_run_come_closer_step_by_step(comfy: HostModules, demo: Any) -> None:
    """The picture emerges: no jump, no step back, and half way it is neither blank nor done."""
    model, conditioning, latent = made = outputs(demo, width=512, height=512)
    guesses: list[torch.Tensor] = []
    comfy("comfy.sample").sample(
        model, comfy("comfy.sample").prepare_noise(latent["samples"], 7), 20, 1.0, "euler",
        "normal", conditioning, conditioning, latent["samples"], seed=7, disable_pbar=True,
        callback=lambda step, x0, x, total: guesses.append(x0.float().cpu().clone()),
    )
    end = guesses[-1]
    assert nearest(demo, made, model.model.latent_format.process_out(end))[0][1] > END_PSNR
    left = [float((guess - end).square().mean().sqrt() / end.square().mean().sqrt())
            for guess in guesses]
    assert left[0] > 0.9
    assert all(then <= now for now, then in itertools.pairwise(left)), left
    assert max(now - then for now, then in itertools.pairwise(left)) < 0.3, left
    assert 0.1 < left[8] < 0.6, left
    assert left[15] < 0.05, left


# The wait


def test_each_call_takes_the_seconds_asked_for(
    comfy: HostModules, demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own: the machine may have other work."""
    clock = [100.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    ours = types.SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep)
    monkeypatch.setattr(demo, "time", ours)
    sample(comfy, outputs(demo, width=64, height=64, seconds_per_step=0.1), steps=4)
    assert clock[0] == pytest.approx(100.4)


def test_a_long_step_can_be_interrupted(comfy: HostModules, demo: Any) -> None:
    management = comfy("comfy.model_management")
    made = outputs(demo, width=64, height=64, seconds_per_step=60.0)
    timer = threading.Timer(0.3, management.interrupt_current_processing)
    start = time.monotonic()
    timer.start()
    try:
        with pytest.raises(management.InterruptProcessingException):
            sample(comfy, made)
    finally:
        timer.join()
        management.interrupt_current_processing(False)
    assert time.monotonic() - start < 30.0


def test_it_asks_for_next_to_no_memory(comfy: HostModules, demo: Any) -> None:
    """ComfyUI unloads other models to make module for what a model says it needs."""
    model = outputs(demo)[0]
    assert model.model.memory_required([2, 4, 256, 256]) < 256 * 1024**2
    assert model.model_size() < 1024**2


# The node


def test_every_widget_has_a_tooltip_a_default_and_a_range(demo: Any) -> None:
    inputs = demo.SideStreamDemoModel.define_schema().inputs
    assert [each.id for each in inputs] == [
        "width", "height", "seconds_per_step", "picture_set", "batch_size",
    ]
    for each in inputs:
        assert each.tooltip, each.id
        assert each.default is not None, each.id
        if each.id == "picture_set":
            assert each.default in each.options
        else:
            assert each.min <= each.default <= each.max, each.id


def test_an_unknown_picture_set_is_refused(demo: Any) -> None:
    with pytest.raises(KeyError, match="nothing"):
        demo.build_model("nothing", 0.0)


# The pictures


def test_there_are_several_sets_of_several_pictures(pictures: Any) -> None:
    assert len(pictures.PICTURE_SETS) >= 3
    assert all(len(painters) >= 3 for painters in pictures.PICTURE_SETS.values())


@pytest.mark.parametrize(("width", "height"), [(64, 64), (128, 40), (33, 90), (1, 1), (256, 8)])
def test_pictures_have_the_size_asked_for(pictures: Any, width: int, height: int) -> None:
    for name in pictures.PICTURE_SETS:
        for picture in pictures.draw_pictures(name, width, height):
            assert picture.size == (width, height)
            assert picture.mode == "RGB"


def test_pictures_are_colourful_smooth_and_unlike_each_other(pictures: Any) -> None:
    drawn = [p for name in pictures.PICTURE_SETS for p in pictures.draw_pictures(name, 64, 64)]
    for picture in drawn:
        saturation = ImageStat.Stat(picture.convert("HSV")).mean[1]
        assert saturation > 50
        # Soft edges have many more shades than the few colours that were drawn.
        assert len(picture.getcolors(64 * 64)) > 200
    for one, other in itertools.combinations(drawn, 2):
        assert sum(ImageStat.Stat(ImageChops.difference(one, other)).mean) > 60


def test_a_picture_is_the_same_at_every_size_and_every_time(pictures: Any) -> None:
    for name in pictures.PICTURE_SETS:
        small = pictures.draw_pictures(name, 64, 64)
        for one, again in zip(small, pictures.draw_pictures(name, 64, 64), strict=True):
            assert one.tobytes() == again.tobytes()
        for one, large in zip(small, pictures.draw_pictures(name, 128, 128), strict=True):
            gap = numpy.asarray(one, float) - numpy.asarray(large.reduce(2), float)
            assert numpy.abs(gap).mean() < 4


# The graph


def test_workflow_and_api_prompt_are_the_same_graph(comfy: HostModules, demo: Any) -> None:
    """The page runs the workflow, `dev.py demo --headless` the prompt."""
    from sidestream.nodes.preview_settings import SideStreamPreview
    from sidestream.preview.settings import explicit

    workflow, prompt = (json.loads(file.read_text("utf-8")) for file in (WORKFLOW, API_PROMPT))
    classes = {
        "SideStreamDemoModel": demo.SideStreamDemoModel,
        "SideStreamPreview": SideStreamPreview,
        **{name: comfy.nodes.NODE_CLASS_MAPPINGS[name] for name in ("KSampler", "SaveLatent")},
    }
    run = to_prompt(workflow, lambda kind: classes[kind].INPUT_TYPES())
    for node in (*run.values(), *prompt.values()):
        if node["class_type"] == "SideStreamPreview":
            inputs = node["inputs"]
            node["inputs"] = {"model": inputs.pop("model"), **explicit(inputs)}
    assert run == prompt
