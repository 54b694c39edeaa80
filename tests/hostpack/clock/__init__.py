"""A pack that notes when the sampler's callback was called, with or without SideStream."""

from __future__ import annotations

import time
from typing import Any

import latent_preview
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, Any] = {}

moments: list[float] = []
"""Of the sampling that began last, in seconds of `time.monotonic`."""

_prepare_callback = latent_preview.prepare_callback


def prepare_callback(*args, **kwargs):
    callback = _prepare_callback(*args, **kwargs)
    moments.clear()

    def timed(*args):
        moments.append(time.monotonic())
        return callback(*args)

    return timed


latent_preview.prepare_callback = prepare_callback


@PromptServer.instance.routes.get("/clock")
async def clock(request: web.Request) -> web.Response:
    return web.json_response(moments)
