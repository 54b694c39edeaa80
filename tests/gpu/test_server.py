"""I3, I4, I7 through ComfyUI's own main.py: both allocators, with and without DynamicVRAM."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sidestream.benchmarks.server import modes, session

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

STEPS = 20
ALLOCATORS = {"cudaMallocAsync": (), "native": ("--disable-cuda-malloc",)}
WEIGHTS = {"DynamicVRAM": (), "whole": ("--disable-dynamic-vram",)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def asked(request, models):
    """What to run, with model files written."""
    tree = os.environ.get("COMFYUI_PATH")
    if tree is None:
        pytest.skip("COMFYUI_PATH does not say where ComfyUI is")
    asked = session.Setup(Path(tree).absolute(), models, (request.param,), steps=STEPS)
    session.write_models(asked)
    return asked


@pytest.mark.parametrize("allocator", ALLOCATORS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_step_is_shown_and_nothing_is_harmed(asked, allocator, weights):
    arguments = ALLOCATORS[allocator] + WEIGHTS[weights]
    if "--disable-dynamic-vram" in arguments and not knows_dynamic_vram(asked.comfyui):
        pytest.skip("this ComfyUI has no DynamicVRAM")
    result = modes.ordinary(modes.with_arguments(asked, *arguments))
    (found,) = result["unets"].values()
    assert found["bit_identical"]
    assert found["reference_latent_same"]
    for run in found["runs"]:
        seen = run["frames"]
        assert seen["in_order"]
        assert seen["wrong"] == []
        assert seen["judged"] == seen["frames"]
        if run["kind"] == "every step":
            assert seen["missing"] == []
        elif run["kind"] == "off":
            assert seen["frames"] == 0
    loud = [line["text"] for line in result["log"] if line["level"] != "INFO"]
    assert loud == []


def knows_dynamic_vram(tree: Path) -> bool:
    return "--disable-dynamic-vram" in (tree / "comfy" / "cli_args.py").read_text("utf-8")
