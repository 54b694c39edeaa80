"""Sampling like ComfyUI's KSampler node, with a custom callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import torch

Callback = Callable[[int, Any, Any, int], None]

INPUTS: dict[str, Any] = {
    "model": ("MODEL",),
    "positive": ("CONDITIONING",),
    "negative": ("CONDITIONING",),
    "latent_image": ("LATENT",),
    "seed": ("INT", {"default": 7}),
}
CFG = 7.0


def sample(
    model: Any,
    positive: Any,
    negative: Any,
    latent_image: Any,
    seed: int,
    steps: int,
    callback: Callback,
    sampler: str = "euler",
    denoise: float = 1.0,
) -> torch.Tensor:
    """The sampled latent; with a smaller `denoise`, the same number of steps starts later."""
    latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"])
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        steps,
        CFG,
        sampler,
        "normal",
        positive,
        negative,
        latent,
        denoise=denoise,
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )


def wait_for_sampler(device: torch.device) -> None:
    """Wait until the work on the sampler's stream is done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def wait_for_device(device: torch.device) -> None:
    """Wait until all work on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
