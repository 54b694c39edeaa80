"""Sampling as ComfyUI does, on a GPU, in this process: see benchmarks/standin.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from sidestream.benchmarks import __main__ as entry
from sidestream.benchmarks import models, standin


@pytest.fixture(scope="session")
def cuda():
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def comfyui():
    """ComfyUI's modules from COMFYUI_PATH, with a stand-in for its server."""
    tree = os.environ.get("COMFYUI_PATH")
    if tree is None:
        pytest.skip("COMFYUI_PATH does not say where ComfyUI is")
    server = standin.install()
    entry.enter_comfyui(Path(tree))
    import comfy.utils

    comfy.utils.set_progress_bar_global_hook(standin.progress_hook(server))
    return server


@pytest.fixture
def pack(comfyui):
    """SideStream installed into that ComfyUI."""
    from sidestream.preview import pack as pack_module

    made = pack_module.Pack()
    made.install()
    assert made.problem is None
    yield made
    made.close()
    comfyui.pictures.clear()


@pytest.fixture(scope="session", params=["sd15", "sdxl"])
def shaped(request):
    """A name of a UNet's shape and the model."""
    sys.modules["server"]  # after `comfyui`
    return request.param, models.build(request.param, torch.device("cuda"))
