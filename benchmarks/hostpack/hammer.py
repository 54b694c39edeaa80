"""A sampler beside which other code does everything that ComfyUI allows."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import latent_preview
import torch
from server import PromptServer

from . import providers
from .inputs import Output, digest
from .sampling import INPUTS, sample

SIZES = (512, 256, 384, 128)
"""The previews' sizes in pixels, used in turn."""

WAYS = ("callback", "thread", "thread, graphs")
"""Who does it: the sampler's callback at each step, or another thread continuously. The thread may
also record graphs, which calls of other threads can break, even without SideStream."""


class Hammer(Output):
    """Samples, and reports the result and which calls raised."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        more = {
            "steps": ("INT", {"default": 20}),
            "sampler": ("STRING", {"default": "euler"}),
            "way": (list(WAYS),),
            "absent": ("BOOLEAN", {"default": False}),
        }
        return {"required": {**INPUTS, **more}}

    def run(
        self, model: Any, steps: int, sampler: str, way: str, absent: bool, **inputs: Any
    ) -> Any:
        blows = Blows(model.load_device, graphs=way != "thread", beside=way != "callback")
        sizes = itertools.cycle(SIZES)
        client = PromptServer.instance.client_id
        with contextlib.ExitStack() as stack:
            if absent:
                stack.enter_context(providers.sidestream_absent())
            previews = latent_preview.prepare_callback(model, steps)
            if way != "callback":
                stack.enter_context(blows.without_pause())

            def callback(step: int, x0: Any, x: Any, total_steps: int) -> None:
                if not absent:
                    providers.change_live(client, {"max_size": next(sizes)})
                previews(step, x0, x, total_steps)
                if way == "callback":
                    blows.all()

            samples = sample(model, **inputs, steps=steps, callback=callback, sampler=sampler)
        result = {
            "latent": digest(samples),
            "calls": dict(blows.calls),
            "raised": dict(blows.raised),
        }
        return {"ui": {"result": [json.dumps(result)]}}


class Blows:
    """Calls that affect the whole device, or shared random numbers, and what they raise."""

    def __init__(self, device: torch.device, graphs: bool, beside: bool) -> None:
        self._device = device
        self.calls: Counter[str] = Counter()
        self.raised: Counter[str] = Counter()
        self._on_cuda = device.type == "cuda"
        # From another thread, the CPU's shared generator would change the sampler's first noise.
        own = torch.Generator() if beside and not self._on_cuda else None
        self._kinds: dict[str, Callable[[], object]] = {
            "allocate": lambda: torch.empty(1 << 20, device=device).fill_(1),
            "noise": lambda: torch.randn(1 << 14, device=device, generator=own),
        }
        if self._on_cuda:
            self._kinds["synchronize"] = lambda: torch.cuda.synchronize(device)
            self._kinds["empty_cache"] = torch.cuda.empty_cache
        if self._on_cuda and graphs:
            self._numbers = torch.zeros(1 << 10, device=device)
            for mode in ("global", "thread_local"):
                self._kinds[f"graph, {mode}"] = functools.partial(self._record, mode)

    def all(self) -> None:
        """Make one call of each kind."""
        for name, call in self._kinds.items():
            self.calls[name] += 1
            try:
                call()
            except Exception as error:
                self.raised[f"{name}: {str(error).splitlines()[0]:.120}"] += 1

    @contextlib.contextmanager
    def without_pause(self) -> Any:
        """Make all calls repeatedly on a thread."""
        over = threading.Event()

        def work() -> None:
            if self._on_cuda:
                torch.cuda.set_device(self._device)
            while not over.is_set():
                self.all()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _record(self, mode: str) -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode=mode):
            self._numbers.add_(1)
        graph.replay()
