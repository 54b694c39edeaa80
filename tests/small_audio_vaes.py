"""VAEs for sound of every family that ComfyUI has, as small as their architectures allow.

Their weights are random, saved and loaded as a user's are: by safetensors and `comfy.sd.VAE`. Needs
nothing of SideStream or of the tests: tests/hostpack/sound uses it in ComfyUI's own process.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

Import = Callable[[str], Any]
"""Imports one of ComfyUI's modules by its full name."""


@dataclass(frozen=True)
class Family:
    """How to make a small VAE of it, and what its latents are like."""

    path: str
    """Of its class, in ComfyUI."""
    shape: Callable[[int], tuple[int, ...]]
    """Of a latent with so many positions in time."""
    rate: int
    hop: int
    lead: int = 0
    small: dict[str, Any] = field(default_factory=dict)
    """Arguments that are smaller than those of the real ones."""
    metadata: dict[str, Any] = field(default_factory=dict)
    loudness: float = 1.0
    """Of the last layer, so that sound is neither clipped nor too soft."""
    tolerance: float = 1e-4
    """How far parts of it may be from the whole, of full scale."""


def vocoder(channels: int, rates: list[int], kernels: list[int]) -> dict[str, Any]:
    return {
        "upsample_initial_channel": channels,
        "upsample_rates": rates,
        "upsample_kernel_sizes": kernels,
    }


LTX = {
    "model": {
        "params": {
            "ddconfig": {
                "double_z": True, "mel_bins": 64, "z_channels": 8, "resolution": 256, "ch": 8,
                "downsample_time": False, "in_channels": 2, "out_ch": 2, "ch_mult": [1, 2, 4],
                "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
                "mid_block_add_attention": False, "norm_type": "pixel", "causality_axis": "height",
            },
            "sampling_rate": 16000,
        }
    },
    "preprocessing": {"stft": {"filter_length": 1024, "hop_length": 160}},
}  # fmt: skip
BASE = vocoder(64, [6, 5, 2, 2, 2], [16, 15, 8, 4, 4])
WIDER = vocoder(64, [5, 4, 2, 2, 2], [11, 8, 4, 4, 4]) | {
    "input_sampling_rate": 16000, "output_sampling_rate": 32000, "hop_length": 80, "n_fft": 512,
    "num_mels": 64,
}  # fmt: skip
ACE = {
    "dcae_config": {
        "encoder_block_out_channels": (32, 32, 64, 64),
        "decoder_block_out_channels": (32, 32, 64, 64),
    },
    "vocoder_config": {"dims": [16, 16, 32, 32], "num_mels": 32, "upsample_initial_channel": 256},
}

FAMILIES = {
    "stable_audio": Family(
        "comfy.ldm.audio.autoencoder.AudioOobleckVAE",
        lambda n: (1, 64, n), 44100, 2048, small={"channels": 8},
    ),
    "ace_step": Family(
        "comfy.ldm.ace.vae.music_dcae_pipeline.MusicDCAE",
        lambda n: (1, 8, 16, n), 44100, 4096, small=ACE, loudness=10, tolerance=1e-3,
    ),
    "ace_step_1_5": Family(
        "comfy.ldm.audio.autoencoder.AudioOobleckVAE",
        lambda n: (1, 64, n), 48000, 1920, small={"channels": 8, "strides": [2, 4, 4, 6, 10]},
    ),
    "ltx_2": Family(
        "comfy.ldm.lightricks.vae.audio_vae.AudioVAE",
        lambda n: (1, 8, n, 16), 24000, 960, 720,
        metadata={"audio_vae": LTX, "vocoder": BASE}, loudness=10,
    ),
    "ltx_2_wider": Family(
        "comfy.ldm.lightricks.vae.audio_vae.AudioVAE",
        lambda n: (1, 8, n, 16), 32000, 1280, 960,
        metadata={
            "audio_vae": LTX,
            "vocoder": {"vocoder": vocoder(64, [5, 4, 2, 2, 2], [11, 8, 4, 4, 4]), "bwe": WIDER},
        },
        loudness=0.3,
    ),
    "minimax_h3": Family(
        "comfy.ldm.minimax.audio_vae.MiniMaxH3AudioVAE",
        lambda n: (1, 32, 2, n), 32000, 800,
        small={"encoder_dim": 2, "latent_dim": 64, "decoder_dim": 128}, loudness=0.002,
    ),
    "stable_audio_3": Family(
        "comfy.ldm.audio.vae_sa3.SA3AudioVAE",
        lambda n: (1, 256, n), 44100, 4096, small={"channels": 32}, tolerance=1e-3,
    ),
    "minimax_music_3": Family(
        "comfy.ldm.minimax_music.dav.MiniMaxMusic3DAV", lambda n: (1, 128, n), 44100, 512
    ),
}  # fmt: skip


def class_of(comfy: Import, family: Family) -> Any:
    """The family's class. Raises ImportError where ComfyUI has none."""
    module_name, name = family.path.rsplit(".", 1)
    return getattr(comfy(module_name), name)


def make_vae(comfy: Import, family: Family, folder: Path) -> Any:
    """ComfyUI's VAE of a small model with random weights, from a file."""
    kind = class_of(comfy, family)
    name, full_size = kind.__name__, kind.__init__

    @functools.wraps(full_size)
    def smaller(self: Any, **arguments: Any) -> None:
        full_size(self, **(arguments | family.small))

    metadata = {"config": json.dumps(family.metadata)} if family.metadata else None
    extra = {"metadata": metadata} if metadata else {}
    if name == "MiniMaxMusic3DAV":
        extra["operations"] = comfy("comfy.ops").disable_weight_init
    file = folder / f"{name}.safetensors"
    with ExitStack() as patched:
        patched.enter_context(mock.patch.object(kind, "__init__", smaller))
        if name == "MusicDCAE":  # for its encoder it wants torchaudio, which need not be there
            mel = comfy("comfy.ldm.ace.vae.music_log_mel")
            patched.enter_context(mock.patch.object(mel, "MelScale", NoMelScale, create=True))
        model = kind(**extra)
        weights = random_weights(model, family.loudness)
        comfy("safetensors.torch").save_file(weights, str(file), metadata)
        loaded, metadata = comfy("comfy.utils").load_torch_file(str(file), return_metadata=True)
        wanted = {} if metadata is None else {"metadata": metadata}
        return comfy("comfy.sd").VAE(sd=loaded, **wanted)


class NoMelScale(torch.nn.Module):
    def __init__(self, *sizes: Any) -> None:
        super().__init__()


def random_weights(model: Any, loudness: float) -> dict[str, torch.Tensor]:
    """Such that sound comes of it: of its layers each keeps about the size of what it is given."""
    generator = torch.Generator().manual_seed(7)
    made = {}
    for name, weight in model.state_dict().items():
        random = torch.randn(weight.shape, generator=generator)
        if not weight.is_floating_point() or name.endswith(("filter", "window")):
            random = weight.clone()
        elif "std" in name or name.endswith(("scaling_factor", "running_std")):
            random = random.abs() * 0.1 + 1
        elif name.endswith("original0"):  # the length of a weight, of weight norm
            random = random.abs() * 0.1 + 0.7
        elif weight.ndim > 1:
            random = random / weight[0].numel() ** 0.5
        else:
            random = random * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        if "conv_post" in name:
            random *= loudness
        made[old_name(name)] = random.contiguous()
    return made


def old_name(name: str) -> str:
    """As files name what weight norm computes a weight from."""
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        name = name.replace(f"parametrizations.weight.{new}", old)
    return name
