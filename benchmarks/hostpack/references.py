"""The correct picture of every step of a run, decoded afterwards in single precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.taesd.taesd import TAESD
from PIL import Image, ImageOps

from .inputs import Output, digest
from .sampling import INPUTS, sample

SIDE = 512


class References(Output):
    """Samples, and writes `DECODER-STEP.png` for every step into a folder."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        more = {"steps": ("INT", {"default": 20}), "folder": ("STRING", {})}
        return {"required": {**INPUTS, **more}}

    def run(self, model: Any, steps: int, folder: str, **inputs: Any) -> Any:
        kept: list[torch.Tensor] = []

        def callback(step: int, x0: torch.Tensor, x: Any, total_steps: int) -> None:
            kept.append(x0[:1].to("cpu", torch.float32))

        samples = sample(model, **inputs, steps=steps, callback=callback)
        latent_format = model.model.latent_format
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            for name, decode in decoders(latent_format, model.load_device).items():
                for step, x0 in enumerate(kept, 1):
                    picture(decode(x0)).save(Path(folder, f"{name}-{step}.png"))
        result = {"latent": digest(samples), "steps": len(kept)}
        return {"ui": {"result": [json.dumps(result)]}}


def decoders(latent_format: Any, device: torch.device) -> dict[str, Any]:
    """By name, functions that turn a latent into RGB from 0 to 1, [H, W, 3]."""
    name = latent_format.taesd_decoder_name
    file = next(f for f in folder_paths.get_filename_list("vae_approx") if f.startswith(name))
    taesd = TAESD(None, folder_paths.get_full_path("vae_approx", file), latent_channels=4)
    taesd.to(device, torch.float32)
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bias = latent_format.latent_rgb_factors_bias
    shift = torch.zeros(3) if bias is None else torch.tensor(bias)

    def by_taesd(x0: torch.Tensor) -> torch.Tensor:
        try:
            decoded = taesd.decode(x0.to(next(taesd.parameters()).device))
        except torch.cuda.OutOfMemoryError:  # if something else fills the card
            decoded = taesd.to("cpu").decode(x0)
        return (decoded[0].movedim(0, 2).cpu() + 1) / 2

    def by_factors(x0: torch.Tensor) -> torch.Tensor:
        return (x0[0].movedim(0, -1) @ factors + shift + 1) / 2

    return {"taesd": by_taesd, "latent2rgb": by_factors}


def picture(rgb: torch.Tensor) -> Image.Image:
    """A picture of a preview's size, shrunk by area if it is larger."""
    levels = rgb.clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    image = Image.fromarray(np.ascontiguousarray(levels))
    shrinks = max(image.size) > SIDE
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    return ImageOps.contain(image, (SIDE, SIDE), how)
