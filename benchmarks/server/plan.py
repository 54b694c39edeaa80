"""Which provider makes the previews of each block of steps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

NONE = "none"
CONTROL = "none, as a control"
EVERY_STEP = {"throttle_ms": 0, "budget": 0}
STEPS_PER_BLOCK = 6


def comfyui(method: str) -> dict[str, Any]:
    """ComfyUI's own previews."""
    return {"by": "comfyui", "method": method}


def sidestream(settings: dict[str, Any], *changes: str) -> dict[str, Any]:
    """SideStream's, with some of the changes in benchmarks/hostpack/providers.py."""
    return {"by": "sidestream", "settings": settings, "changes": changes}


PROVIDERS: dict[str, dict[str, Any]] = {
    NONE: comfyui("none"),
    CONTROL: comfyui("none"),
    "ComfyUI Latent2RGB": comfyui("latent2rgb"),
    "ComfyUI TAESD": comfyui("taesd"),
    "SideStream, every step": sidestream(EVERY_STEP),
    "SideStream, defaults": sidestream({}),
    "SideStream, every step, by PyTorch": sidestream(EVERY_STEP, "no kernels"),
    "SideStream, every step, by torch.compile": sidestream(EVERY_STEP, "no kernels", "compiled"),
    "SideStream, every step, memory not kept": sidestream(EVERY_STEP, "no kept memory"),
    "SideStream, every step, 256 px": sidestream(EVERY_STEP | {"max_size": 256}),
    "SideStream, every step, not encoded": sidestream(EVERY_STEP, "no encoding"),
    "SideStream, every step, not sent": sidestream(EVERY_STEP, "no sending"),
    "SideStream, every step, not decoded": sidestream(EVERY_STEP, "no decoding"),
    "SideStream, every step, captured only": sidestream(EVERY_STEP, "no worker"),
    "SideStream, every step, Latent2RGB": sidestream(EVERY_STEP | {"method": "latent2rgb"}),
}
COMPARED = tuple(name for name in PROVIDERS if name != NONE)
INSTALLED = {"by": "installed", "method": "installed"}
"""What a sampler gets in the running ComfyUI, with whatever packs are installed or on its MODEL."""


def order(compared: Sequence[str], rounds: int, seed: int) -> list[str]:
    """Every second block has no previews; in between, each round has all providers, shuffled."""
    chance = random.Random(seed)
    blocks = [NONE]
    for _ in range(rounds):
        shuffled = list(compared)
        chance.shuffle(shuffled)
        for name in shuffled:
            blocks += [name, NONE]
    return blocks


def plan(
    compared: Sequence[str], rounds: int, seed: int, seconds: float, defaults: dict[str, Any]
) -> dict[str, Any]:
    """For the node SideStreamBenchBlocks. The first round is warm-up; see `ratios.rows`."""
    return {
        "steps_per_block": STEPS_PER_BLOCK,
        "providers": {name: PROVIDERS[name] for name in (NONE, *compared)},
        "defaults": defaults,
        "order": order(compared, rounds + 1, seed),
        "seconds": seconds,
    }
