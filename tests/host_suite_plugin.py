"""Loaded into a pytest that runs ComfyUI's own tests: on the CPU, and with the pack if it is named.

A process of its own, with ComfyUI's tree as its root: see test_host_suite.py.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys

import pytest

PACK = "SIDESTREAM_TEST_PACK"
"""Names the folder of the pack that is to be installed; absent for none."""


def pytest_sessionstart(session: pytest.Session) -> None:
    # As main.py does it, without the network: arguments, torchvision, server, custom nodes.
    launch = importlib.import_module("launch")
    launch.mend_torchvision_when_imported()
    importlib.import_module("comfy.cli_args").args.cpu = True
    importlib.import_module("utils.extra_config")
    pack = os.environ.get(PACK)
    if pack is not None:
        asyncio.run(_install(pack))


async def _install(pack: str) -> None:
    nodes, server = importlib.import_module("nodes"), importlib.import_module("server")
    instance = server.PromptServer(asyncio.get_running_loop())
    assert await nodes.load_custom_node(pack)
    status = instance.sidestream.pack.status()["provider"]
    assert status["installed"]
    assert status["in_charge"] == "SideStream"
    assert sys.modules["latent_preview"].get_previewer.__module__ != "latent_preview"
