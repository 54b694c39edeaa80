"""The prompts that tests queue: SideStream's demo model, maybe its node, a sampler, SaveLatent."""

from __future__ import annotations

import itertools
from typing import Any

MODEL, NODE, SAMPLER, SAVE = "1", "2", "3", "4"

_seeds = itertools.count(1000)


def new_seed() -> int:
    """A seed that no other prompt has, so that ComfyUI has no result of it in its cache."""
    return next(_seeds)


def demo_graph(
    node: dict[str, Any] | None = None,
    *,
    steps: int = 20,
    seconds: float = 0.06,
    seed: int | None = None,
    sampler: str = "euler",
    size: int = 512,
) -> dict[str, Any]:
    """A prompt of `steps` steps; `node` gives the widgets of SideStream's node, if there is one."""
    prompt = {
        MODEL: {
            "class_type": "SideStreamDemoModel",
            "inputs": {
                "width": size,
                "height": size,
                "seconds_per_step": seconds,
                "picture_set": "landmarks",
                "batch_size": 1,
            },
        },
        SAMPLER: a_sampler([MODEL, 0], steps, sampler, new_seed() if seed is None else seed),
        SAVE: {
            "class_type": "SaveLatent",
            "inputs": {"samples": [SAMPLER, 0], "filename_prefix": "test"},
        },
    }
    if node is not None:
        insert(prompt, NODE, "SideStreamPreview", **node)
    return prompt


def a_sampler(model: list[Any], steps: int, sampler: str, seed: int) -> dict[str, Any]:
    """A KSampler of the demo model."""
    return {
        "class_type": "KSampler",
        "inputs": {
            "model": model,
            "positive": [MODEL, 1],
            "negative": [MODEL, 1],
            "latent_image": [MODEL, 2],
            "seed": seed,
            "steps": steps,
            "cfg": 1.0,
            "sampler_name": sampler,
            "scheduler": "normal",
            "denoise": 1.0,
        },
    }


def settled(prompt: dict[str, Any]) -> dict[str, Any]:
    """The prompt, each of whose steps waits for its frame: none replaces another.

    However busy the machine is. With the helper `probe` in the server.
    """
    insert(prompt, "settled", "ProbeSampling", name="settled", decoder_seconds=0.0, settles=True)
    return prompt


def insert(prompt: dict[str, Any], key: str, class_type: str, **widgets: Any) -> None:
    """Put a node that changes the MODEL right before the sampler."""
    before = prompt[SAMPLER]["inputs"]["model"]
    prompt[key] = {"class_type": class_type, "inputs": {"model": before, **widgets}}
    prompt[SAMPLER]["inputs"]["model"] = [key, 0]
