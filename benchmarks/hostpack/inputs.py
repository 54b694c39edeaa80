"""Inputs for a sampler, and what is kept of its result."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

CATEGORY = "SideStream/bench"
WIDTHS = {"sd15": 768, "tiny": 768, "sdxl": 2048}


class Conditioning:
    """A random prompt embedding with the right shape."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"unet": (list(WIDTHS),), "seed": ("INT", {"default": 1})}}

    def make(self, unet: str, seed: int) -> tuple[Any]:
        generator = torch.Generator().manual_seed(seed)
        embedding = torch.randn(1, 77, WIDTHS[unet], generator=generator)
        extra = {}
        if unet == "sdxl":
            extra["pooled_output"] = torch.randn(1, 1280, generator=generator)
        return ([[embedding, extra]],)


class Latent:
    """An empty latent; a new `nonce` makes ComfyUI sample it again."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        whole = ("INT", {"default": 512})
        return {"required": {"size": whole, "batch": ("INT", {"default": 1}), "nonce": whole}}

    def make(self, size: int, batch: int, nonce: int) -> tuple[Any]:
        return ({"samples": torch.zeros(batch, 4, size // 8, size // 8)},)


class Output:
    """The base of nodes that end a graph and report a result."""

    CATEGORY = CATEGORY
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True


class Keep(Output):
    """Reports the hash of the resulting latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"latent": ("LATENT",)}}

    def run(self, latent: Any) -> Any:
        return {"ui": {"sha256": [digest(latent["samples"])]}}


def digest(samples: torch.Tensor) -> str:
    """The hash of a latent's numbers, or "not finite"."""
    if not bool(torch.isfinite(samples).all()):
        return "not finite"
    return hashlib.sha256(samples.cpu().contiguous().numpy().tobytes()).hexdigest()
