"""A stand-in for ComfyUI's server, with which benchmarks and tests sample as ComfyUI does.

It has what ComfyUI's sampling code and SideStream use: an event loop on its own thread, which
encodes pictures like ComfyUI's (Pillow, quality 95, fitted into the preview size); one client, in
its own process, which reads at once; and ComfyUI's progress hook with its messages. What a client
would do with a picture is left out, so that it does not affect timings.
"""

from __future__ import annotations

import asyncio
import functools
import io
import json
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps

CLIENT = "benchmark"
PROMPT = "prompt"
NODE = "1"

READER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
    while connection.recv(1 << 20):
        pass
"""


@dataclass
class Picture:
    """A preview as received by the client; only parsed after the run."""

    shown: int
    """ComfyUI's current step."""
    message: bytes
    encoded: bytes
    at: float

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """SideStream's own object; empty for ComfyUI's pictures."""
        if not self.message:
            return {}
        return dict(json.loads(self.message)["sidestream"])

    @property
    def step(self) -> int:
        """The step on its label, if it has one, otherwise the one at which it arrived."""
        return int(self.info.get("step", self.shown))

    @property
    def animated(self) -> bool:
        return "animation" in self.info

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded))


class Queue:
    """ComfyUI's prompt queue, with one running prompt."""

    def __init__(self) -> None:
        self.currently_running: dict[int, tuple[Any, ...]] = {}


class PromptServer:
    """ComfyUI's server without sockets."""

    instance: PromptServer

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.sockets = {CLIENT: object()}
        self.sockets_metadata = {CLIENT: {"feature_flags": {"supports_preview_metadata": True}}}
        self.prompt_queue = Queue()
        self.client_id = CLIENT
        self.last_node_id = NODE
        self.last_prompt_id = PROMPT
        self.pictures: list[Picture] = []
        self.step = 0
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self._client = asyncio.run_coroutine_threadsafe(self._connected(), self.loop).result(30)
        PromptServer.instance = self

    async def _connected(self) -> asyncio.StreamWriter:
        """The connection to a client in its own process, which reads everything."""
        came: asyncio.Future[asyncio.StreamWriter] = self.loop.create_future()
        server = await asyncio.start_server(
            lambda reader, writer: came.set_result(writer), "127.0.0.1"
        )
        port = server.sockets[0].getsockname()[1]
        self._reader = subprocess.Popen([sys.executable, "-c", READER, str(port)])
        return await came

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.loop.call_soon_threadsafe(self._send, event, data, self.step)

    def _send(self, event: Any, data: Any, step: int) -> None:
        if not isinstance(event, int):
            self._client.write(json.dumps({"type": event, "data": data}).encode())
            return
        kind, image, max_size = data[0]
        image = ImageOps.contain(image, (max_size, max_size), Image.Resampling.BILINEAR)
        encoded = io.BytesIO()
        image.save(encoded, format=kind, quality=95, compress_level=1)
        self._client.write(encoded.getvalue())
        self.pictures.append(Picture(step, b"", encoded.getvalue(), time.perf_counter()))

    async def send_bytes(self, event: int, data: bytes, sid: str | None = None) -> None:
        """Called by SideStream with a finished event 4."""
        self._client.write(struct.pack(">I", event) + data)
        await self._client.drain()
        length = struct.unpack(">I", data[:4])[0]
        message, encoded = data[4 : 4 + length], data[4 + length :]
        self.pictures.append(Picture(self.step, message, encoded, time.perf_counter()))

    async def send_json(self, event: str, data: Any, sid: str | None = None) -> None:
        self._client.write(json.dumps({"type": event, "data": data}).encode())
        await self._client.drain()


def install() -> PromptServer:
    """Install the stand-in as the module from which ComfyUI imports its server."""
    module = types.ModuleType("server")
    module.PromptServer = PromptServer  # type: ignore[attr-defined]
    sys.modules["server"] = module
    return PromptServer()


def begin_prompt(server: PromptServer, extra_data: dict[str, Any]) -> None:
    """Do what ComfyUI's executor does when a prompt with one sampler node starts."""
    from comfy_execution.graph import DynamicPrompt
    from comfy_execution.progress import (
        WebUIProgressHandler,
        add_progress_handler,
        get_progress_state,
        reset_progress_state,
    )

    server.prompt_queue.currently_running = {0: (0, PROMPT, {}, extra_data, [], {})}
    graph = DynamicPrompt({NODE: {"class_type": "KSampler", "inputs": {}}})
    reset_progress_state(PROMPT, graph)
    add_progress_handler(WebUIProgressHandler(server))
    get_progress_state().start_progress(NODE)


def end_prompt(server: PromptServer) -> None:
    """Do what ComfyUI's executor does when the prompt ends."""
    from comfy_execution.progress import get_progress_state

    get_progress_state().finish_progress(NODE)
    server.prompt_queue.currently_running = {}


def progress_hook(server: PromptServer) -> Callable[..., None]:
    """The hook that ComfyUI's main.py sets for its progress bars."""
    import comfy.model_management
    from comfy_execution.progress import get_progress_state

    def hook(
        value: int, total: int, preview: Any, prompt_id: Any = None, node_id: Any = None
    ) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        server.step = value
        get_progress_state().update_progress(NODE, value, total, preview)
        progress = {"value": value, "max": total, "prompt_id": PROMPT, "node": NODE}
        server.send_sync("progress", progress, server.client_id)

    return hook
