"""Diffusion models of real shapes with random weights, wrapped as by ComfyUI."""

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

TINY = COMMON | {
    "adm_in_channels": None,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 0],
    "transformer_depth_middle": -1,
    "transformer_depth_output": [1, 1, 0, 0],
    "use_linear_in_transformer": False,
    "context_dim": 768,
    "num_heads": 8,
}
"""For tests without a GPU; ComfyUI treats it as SD1.5."""

WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 1536,
    "ffn_dim": 8960,
    "num_heads": 12,
    "num_layers": 8,  # of the 30 of Wan 2.1's small model, for steps of about 300 ms
    "in_dim": 16,
    "out_dim": 16,
    "text_dim": 4096,
    "freq_dim": 256,
}


@dataclass(frozen=True)
class Case:
    """A model, a latent and a length of sampling."""

    name: str
    unet: str
    latent: tuple[int, ...]
    """The shape: [B, C, h, w], or [B, C, T, h, w] for a video."""
    steps: int
    repetitions: int


CASES = {
    "sdxl": Case("SDXL 1024², batch 4", "sdxl", (4, 4, 128, 128), 20, 5),
    "sd15": Case("SD1.5 512², batch 16", "sd15", (16, 4, 64, 64), 20, 5),
    "sd15-launch": Case("SD1.5 512², batch 1", "sd15", (1, 4, 64, 64), 30, 15),
    "wan": Case("Wan 832×480, 81 frames, 8 of 30 layers", "wan", (1, 16, 21, 60, 104), 20, 5),
    "vae": Case("SDXL 1024², batch 4, by a real VAE", "sdxl", (4, 4, 128, 128), 30, 5),
}


def build(unet: str, device: torch.device) -> Any:
    """A MODEL of the shape `sd15`, `sdxl`, `tiny` or `wan`, in half precision, random weights."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    kinds: dict[str, tuple[dict[str, Any], Any, Any, torch.dtype]] = {
        "sd15": (
            SD15,
            comfy.supported_models.SD15,
            comfy.model_base.BaseModel,
            torch.float16,
        ),
        "tiny": (TINY, comfy.supported_models.SD15, comfy.model_base.BaseModel, torch.float16),
        "sdxl": (SDXL, comfy.supported_models.SDXL, comfy.model_base.SDXL, torch.float16),
        "wan": (WAN, comfy.supported_models.WAN21_T2V, comfy.model_base.WAN21, torch.bfloat16),
    }
    shape, family, kind, dtype = kinds[unet]
    config = family({**shape, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
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
    """A prompt's embedding with the right shape."""
    generator = torch.Generator().manual_seed(1)
    tokens, width = {"sd15": (77, 768), "sdxl": (77, 2048), "wan": (512, 4096)}[unet]
    extra: dict[str, Any] = {}
    if unet == "sdxl":
        extra["pooled_output"] = torch.randn(1, 1280, generator=generator)
    return [[torch.randn(1, tokens, width, generator=generator), extra]]


def vae() -> Any:
    """A VAE of SD's shape, loaded as by ComfyUI, with random weights."""
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    levels = {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": []}
    kind = {"in_channels": 3, "out_ch": 3, "z_channels": 4, "double_z": True, "resolution": 256}
    torch.manual_seed(5)
    model = AutoencoderKL(ddconfig={**levels, **kind, "dropout": 0.0}, embed_dim=4)
    generator = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.7 / parameter[0].numel() ** 0.5, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return comfy.sd.VAE(sd=model.state_dict())
