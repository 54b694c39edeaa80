"""A stand-in for ComfyUI's server, so that a benchmark or a test samples as ComfyUI does.

It has what ComfyUI's sampling code and SideStream touch: an event loop on a thread of its own,
which encodes pictures as ComfyUI's does (Pillow, quality 95, contained in the preview size), one
connected client that reads at once, and the progress hook with the messages of ComfyUI's.
"""

from __future__ import annotations

import asyncio
import io
import json
import struct
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


@dataclass
class Picture:
    """One preview as the client got it."""

    step: int
    image: Image.Image
    at: float
    captured_to_sent_ms: float | None = None
    ready_to_sent_ms: float | None = None
    animated: bool = False


class Queue:
    """ComfyUI's prompt queue, with one prompt that runs."""

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
        PromptServer.instance = self

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        self.loop.call_soon_threadsafe(self._send, event, data, self.step)

    def _send(self, event: Any, data: Any, step: int) -> None:
        if not isinstance(event, int):
            json.dumps({"type": event, "data": data})
            return
        kind, image, max_size = data[0]
        image = ImageOps.contain(image, (max_size, max_size), Image.Resampling.BILINEAR)
        encoded = io.BytesIO()
        image.save(encoded, format=kind, quality=95, compress_level=1)
        image = Image.open(encoded)  # decoded when it is looked at
        self.pictures.append(Picture(step, image, time.perf_counter()))

    async def send_bytes(self, event: int, data: bytes, sid: str | None = None) -> None:
        """What SideStream calls: a finished event 4."""
        length = struct.unpack(">I", data[:4])[0]
        info = json.loads(data[4 : 4 + length])["sidestream"]
        image = Image.open(io.BytesIO(data[4 + length :]))
        times = (info["captured_to_sent_ms"], info["ready_to_sent_ms"])
        animated = "animation" in info
        self.pictures.append(Picture(info["step"], image, time.perf_counter(), *times, animated))

    async def send_json(self, event: str, data: Any, sid: str | None = None) -> None:
        json.dumps({"type": event, "data": data})


def install() -> PromptServer:
    """Put the stand-in where ComfyUI's modules import their server from."""
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
    """The hook that ComfyUI's main gives to its progress bars."""
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
