"""A pack that loads SideStream anew while ComfyUI runs, as packs for developers do."""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web
from server import PromptServer

import nodes

NODE_CLASS_MAPPINGS: dict[str, Any] = {}


@PromptServer.instance.routes.post("/reload")
async def reload(request: web.Request) -> web.Response:
    path = nodes.LOADED_MODULE_DIRS["ComfyUI-SideStream"]
    name = path.replace(".", "_x_")
    for module in list(sys.modules):
        if module == name or module.startswith(f"{name}."):
            del sys.modules[module]
    return web.json_response(await nodes.load_custom_node(path))
