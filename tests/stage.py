"""ComfyUI inside the tests: its real server object and its real samplers, without a network.

A test says which node of which prompt is at work, samples, and reads what a client got.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from sidestream.tests.helpers import wait_until
from sidestream.tools.comfy_client import Frame, parse_frame

if TYPE_CHECKING:
    from sidestream.preview.pack import Pack

SIZE = 8  # latent pixels


@dataclass(eq=False)
class FakeSocket:
    """A client's websocket, as ComfyUI's server writes to it."""

    frames: list[Frame] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    async def send_bytes(self, message: bytes) -> None:
        frame = parse_frame(message, 0.0)
        assert frame is not None
        self.frames.append(frame)

    async def send_json(self, message: dict[str, Any]) -> None:
        self.events.append(message)

    @property
    def steps(self) -> list[int]:
        """The labels of SideStream's frames; 0 for a frame that is not SideStream's."""
        return [frame.sidestream.get("step", 0) for frame in self.frames]

    @property
    def run_states(self) -> list[str]:
        """What was told of runs: `start` and `end`, or `none`."""
        states = [told["state"] for told in self.told_of_runs]
        return [state for state in states if state != "sampling"]

    @property
    def told_of_runs(self) -> list[dict[str, Any]]:
        return [e["data"] for e in self.events if e["type"] == "sidestream.run"]


class Stage:
    """One server for all tests of a session."""

    def __init__(self, comfy: Any) -> None:
        self.comfy = comfy
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = comfy.server.PromptServer(self.loop)
        self.waits_for: Pack | None = None
        """The demo model's steps wait until this pack's frames have found their end."""
        self._count = 0
        comfy("comfy.utils").set_progress_bar_global_hook(self._progress)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)

    def connect(self, client: str = "c", metadata: bool = True) -> FakeSocket:
        """A client, in the place of one of the same id."""
        socket = FakeSocket()
        self.server.sockets[client] = socket
        flags = {"supports_preview_metadata": True} if metadata else {}
        self.server.sockets_metadata[client] = {"feature_flags": flags}
        return socket

    @contextlib.contextmanager
    def node(
        self,
        node: str = "3",
        client: str | None = "c",
        extra_data: Mapping[str, Any] | None = None,
        prompt: str | None = None,
    ) -> Iterator[str]:
        """Within it that node of `prompt`, or a new one, is at work, as in ComfyUI's executor."""
        progress = self.comfy("comfy_execution.progress")
        graph = self.comfy("comfy_execution.graph").DynamicPrompt(
            {node: {"class_type": "KSampler", "inputs": {}}}
        )
        self._count += 1
        prompt = prompt or f"prompt-{self._count}"
        running = self.server.prompt_queue.currently_running
        running[self._count] = (0, prompt, {}, dict(extra_data or {}), [], {})
        self.server.client_id, self.server.last_prompt_id = client, prompt
        self.server.last_node_id = node
        set_method = getattr(self.comfy("latent_preview"), "set_preview_method", None)
        if extra_data and "preview_method" in extra_data and set_method:  # of a newer ComfyUI
            set_method(extra_data["preview_method"])
        progress.reset_progress_state(prompt, graph)
        registry = progress.get_progress_state()
        registry.start_progress(node)
        context = self.comfy("comfy_execution.utils").CurrentNodeContext(prompt, node)
        try:
            with context, torch.inference_mode():
                yield prompt
        finally:
            registry.finish_progress(node)
            del running[self._count]
            self.server.last_node_id = None

    def sample(
        self,
        model: Any,
        *,
        steps: int = 5,
        seed: int = 1,
        sampler: str = "euler",
        latent: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """KSampler's latent."""
        node = self.comfy.nodes.KSampler()
        latent = empty_latent() if latent is None else latent
        start = {"samples": latent}
        conditioning = demo_conditioning()
        result = node.sample(
            model, seed, steps, 1.0, sampler, "normal", conditioning, conditioning, start
        )
        self.wait_for_frames()
        return result[0]["samples"]

    def demo_model(self) -> Any:
        """SideStream's demo model, without its pauses."""
        from sidestream.nodes.demo_model import build_model

        model = build_model("landmarks", 0.0)
        model.model.diffusion_model.register_forward_pre_hook(lambda *_: self.wait_for_frames())
        return model

    def wait_for_frames(self) -> None:
        """Let the frames captured so far find their end, so that none takes another's place."""
        if self.waits_for is not None:
            wait_until(partial(no_frame_is_open, self.waits_for))

    def _progress(self, value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        self.comfy("comfy.model_management").throw_exception_if_processing_interrupted()
        context = self.comfy("comfy_execution.utils").get_executing_context()
        if context is not None:
            registry = self.comfy("comfy_execution.progress").get_progress_state()
            registry.update_progress(context.node_id, value, total, preview)


def with_settings(model: Any, **settings: Any) -> Any:
    """What the node SideStreamPreview makes of a MODEL; by default no throttle."""
    from sidestream.nodes.preview_settings import SideStreamPreview

    return SideStreamPreview.execute(model, **{"throttle_ms": 0, "budget": 0, **settings}).args[0]


def demo_conditioning() -> list[Any]:
    return [[torch.zeros(1, 77, 768), {}]]


def empty_latent() -> torch.Tensor:
    return torch.zeros(1, 4, SIZE, SIZE)


def no_frame_is_open(pack: Pack) -> bool:
    """Whether all frames have found their end, but for those that are held until their node's."""
    engines = [] if pack._engines is None else pack._engines.all()
    held = sum(frame.label.held for engine in engines for frame in engine._mailbox.waiting)
    return sum(run.open_frames for run in list(pack._runs._active.values())) <= held


def active_runs(pack: Pack) -> int:
    return int(pack.status()["counters"]["active_runs"])


def all_told(pack: Pack) -> bool:
    """Whether every frame has found its end, after waiting for it."""
    gc.collect()  # previewers of packs with callbacks of their own
    return wait_until(lambda: active_runs(pack) == 0)
