"""Random-weight diffusion models of real shapes, wrapped as ComfyUI wraps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

COMMON = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
SD15 = COMMON | {
    "adm_in_channels": None,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "num_heads": 8,
}
SDXL = COMMON | {
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
}


@dataclass(frozen=True)
class Case:
    """A model, a size and a length of sampling."""

    name: str
    unet: str
    pixels: int
    batch: int
    steps: int
    repetitions: int


CASES = {
    "sdxl": Case("SDXL 1024², batch 4", "sdxl", 1024, 4, 20, 5),
    "sd15": Case("SD1.5 512², batch 16", "sd15", 512, 16, 20, 5),
    "sd15-launch": Case("SD1.5 512², batch 1", "sd15", 512, 1, 30, 15),
}


def build(unet: str, device: torch.device) -> Any:
    """A MODEL of the shape `sd15` or `sdxl`, float16, random weights, on `device`."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    kinds: dict[str, tuple[dict[str, Any], Any]] = {
        "sd15": (SD15, comfy.supported_models.SD15),
        "sdxl": (SDXL, comfy.supported_models.SDXL),
    }
    shape, family = kinds[unet]
    config = family({**shape, "dtype": torch.float16})
    config.set_inference_dtype(torch.float16, None)
    kind = comfy.model_base.SDXL if unet == "sdxl" else comfy.model_base.BaseModel
    model = kind(config, device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.inference_mode():
        for parameter in model.diffusion_model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.7 / parameter[0].numel() ** 0.5, generator=generator)
            else:
                parameter.fill_(0.0 if parameter.numel() == 0 else 0.01)
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=device)


def conditioning(unet: str) -> list[Any]:
    """A prompt's embedding of the right shape."""
    generator = torch.Generator().manual_seed(1)
    width = {"sd15": 768, "sdxl": 2048}[unet]
    extra: dict[str, Any] = {}
    if unet == "sdxl":
        extra["pooled_output"] = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, 77, width, generator=generator), extra]]
