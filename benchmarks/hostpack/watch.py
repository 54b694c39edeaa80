"""Routes that report memory and the log, or switch to ComfyUI's own previews."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import torch
from aiohttp import web
from server import PromptServer

from . import providers

MOST = 1000


class Lines(logging.Handler):
    """Keeps all warnings, and everything that SideStream logs."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[dict[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        loud = record.levelno >= logging.WARNING
        if (loud or text.startswith("[SideStream]")) and len(self.kept) < MOST:
            self.kept.append({"level": record.levelname, "text": text[:2000]})


def memory() -> list[dict[str, int]]:
    """For each GPU, in bytes: what torch holds, its peak, and what is free and in total."""
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(
            {
                "allocated": torch.cuda.memory_allocated(index),
                "reserved": torch.cuda.memory_reserved(index),
                "most_reserved": torch.cuda.max_memory_reserved(index),
                "free": free,
                "total": total,
            }
        )
    return found


def begin() -> None:
    """Listen to the log and add the routes."""
    lines = Lines()
    logging.getLogger().addHandler(lines)
    routes: web.RouteTableDef = PromptServer.instance.routes
    absent = contextlib.ExitStack()

    @routes.get("/sidestream-bench/memory")
    async def tell_memory(request: web.Request) -> web.Response:
        return web.json_response(memory())

    @routes.post("/sidestream-bench/fresh-memory")
    async def fresh_memory(request: web.Request) -> web.Response:
        """Only to be called while nothing samples, as it may stall the device."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            for index in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(index)
        return web.json_response(memory())

    @routes.get("/sidestream-bench/log")
    async def tell_log(request: web.Request) -> web.Response:
        return web.json_response(lines.kept)

    @routes.post("/sidestream-bench/absent")
    async def be_absent(request: web.Request) -> web.Response:
        wanted: Any = await request.json()
        absent.close()
        if wanted["absent"]:
            absent.enter_context(providers.sidestream_absent())
        return web.json_response({})
