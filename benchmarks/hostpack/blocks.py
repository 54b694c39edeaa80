"""One sampling in which the provider of previews changes every few steps.

A machine's speed drifts by more than a preview costs, so two runs cannot be compared, but blocks of
steps within one run can. Each block's first step includes the cost of the change and is left out.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import comfy.patcher_extension
import latent_preview
from server import PromptServer

from . import providers
from .inputs import Output, digest
from .sampling import INPUTS, Callback, sample, wait_for_device, wait_for_sampler

NATURAL = 0.5
"""The `denoise` of the sampling: from there on, pictures have nearly their final contrast."""
CALLBACK = 5
"""The callback's position among the arguments of ComfyUI's `outer_sample`."""


class Enough(Exception):
    """The time for the run is over."""


class Blocks(Output):
    """A sampler node that carries out a plan (JSON; see benchmarks/server/plan.py)."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {**INPUTS, "plan": ("STRING", {"multiline": True})}}

    def run(self, plan: str, model: Any, **inputs: Any) -> Any:
        run = Run(json.loads(plan), model.clone())
        samples = None
        with contextlib.suppress(Enough):
            samples = sample(
                run.model, **inputs, steps=run.steps, callback=run.outermost, denoise=NATURAL
            )
        run.leave()
        result = {
            "blocks": run.blocks,
            "left_out": run.left_out,
            "latent": "unfinished" if samples is None else digest(samples),
        }
        return {"ui": {"result": [json.dumps(result)]}}


class Run:
    """The callback of such a sampling, and its measurements.

    The sampler gets the usual callback of the running ComfyUI, and wrappers on `model` may change
    it. What arrives at the innermost wrapper is then the installed packs' callback, which is only
    called in their blocks.
    """

    def __init__(self, plan: dict[str, Any], model: Any) -> None:
        self._size: int = plan["steps_per_block"]
        self._kinds: dict[str, dict[str, Any]] = plan["providers"]
        self._defaults: dict[str, Any] = plan["defaults"]
        self._order: list[str] = plan["order"]
        self.steps = self._size * len(self._order)
        self._device = model.load_device
        self._client = PromptServer.instance.client_id
        self._end = time.monotonic() + plan["seconds"]
        self._switched = contextlib.ExitStack()
        self._live: dict[str, Any] = {}
        self._callbacks: dict[str, Callback] = {}
        methods = {k["method"] for k in self._kinds.values() if k["by"] == "comfyui"}
        for method in sorted(methods):
            self._callbacks[method] = providers.comfyui_callback(method, model, self.steps)
        self.outermost: Callback = self._callbacks["none"]
        if any(kind["by"] != "comfyui" for kind in self._kinds.values()):
            self.outermost = latent_preview.prepare_callback(model, self.steps)
        self.model = model
        outer = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
        model.add_wrapper_with_key(outer, "sidestream_bench", self._innermost)
        self.left_out = self._not_offered()
        self.blocks: list[dict[str, Any]] = []
        self._current: Callback = self._callbacks["none"]

    def _innermost(self, executor: Any, *given: Any, **named: Any) -> Any:
        self._callbacks["sidestream"] = self._callbacks["installed"] = given[CALLBACK]
        return executor(*given[:CALLBACK], self._callback, *given[CALLBACK + 1 :], **named)

    def _callback(self, step: int, x0: Any, x: Any, total_steps: int) -> None:
        """Called by the sampler after each step."""
        position = step % self._size
        if position == 0:
            self._enter(self._order[step // self._size], step)
        block = self.blocks[-1]
        start = time.perf_counter()
        self._current(step, x0, x, total_steps)
        spent = time.perf_counter() - start
        if position == 0:
            self._await_changes(block["provider"])
            wait_for_sampler(self._device)
            block["from"] = time.perf_counter()
            return
        block["callbacks_ms"].append(round(spent * 1000, 4))
        if position == self._size - 1:
            wait_for_sampler(self._device)
            block["seconds"] = time.perf_counter() - block.pop("from")
            wait_for_device(self._device)
            if time.monotonic() > self._end:
                raise Enough

    def leave(self) -> None:
        """Undo all changes, and drop an unfinished block."""
        self._switched.close()
        self.blocks = [block for block in self.blocks if "seconds" in block]

    def _enter(self, name: str, step: int) -> None:
        self._switched.close()
        kind = self._kinds[name]
        if name in self.left_out:
            kind = self._kinds["none"]
        if kind["by"] == "sidestream":
            settings = self._defaults | kind["settings"]
            if settings != self._live:
                self._live = settings
                providers.change_live(self._client, settings)
            for change in kind["changes"]:
                self._switched.enter_context(providers.CHANGES[change]())
            self._current = self._callbacks["sidestream"]
        else:
            self._current = self._callbacks[kind["method"]]
        began = time.monotonic()
        block = {"provider": name, "step": step + 1, "began": began, "callbacks_ms": []}
        self.blocks.append(block)

    def _await_changes(self, name: str) -> None:
        waits = providers.WAITS
        for change in self._kinds[name].get("changes", ()) if name not in self.left_out else ():
            problem = waits[change]() if change in waits else ""
            if problem:
                self.left_out[name] = problem

    def _not_offered(self) -> dict[str, str]:
        missing = {}
        for name, kind in self._kinds.items():
            for change in kind.get("changes", ()):
                try:
                    providers.CHANGES[change]()
                except providers.NotOffered as error:
                    missing[name] = str(error)
        return missing
