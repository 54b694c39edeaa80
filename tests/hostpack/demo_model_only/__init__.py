"""SideStream's demo model in a ComfyUI without SideStream: what its runs are compared with."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

from comfy_api.latest import ComfyExtension

_nodes = types.ModuleType("sidestream_demo_nodes")
_nodes.__path__ = [str(Path(__file__).resolve().parents[3] / "nodes")]
sys.modules[_nodes.__name__] = _nodes
_demo = importlib.import_module(f"{_nodes.__name__}.demo_model")


class DemoModelOnly(ComfyExtension):
    async def get_node_list(self):
        return [_demo.SideStreamDemoModel]


async def comfy_entrypoint():
    return DemoModelOnly()
