"""TAESD, the tiny image autoencoder (madebyollin/taesd), and its kin for SDXL, SD3, FLUX.1, FLUX.2.

The layout is read off the file: which blocks carry a middle pool (FLUX.2) and how many latent
channels it takes. State dicts are those that ComfyUI takes from models/vae_approx: a plain
sequence of layers, numbered from 0.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from . import DecoderError

FAMILY = ("taesd_decoder", "taesdxl_decoder", "taesd3_decoder", "taef1_decoder", "taef2_decoder")
"""The names of decoder files, as ComfyUI's latent formats give them."""

WIDTH = 64
STAGES = 3  # each doubles the size
SCALE = 2**STAGES


class SoftClamp(nn.Module):
    """Keeps latents within ±3, smoothly."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return torch.tanh(latent / 3) * 3


class ResidualBlock(nn.Module):
    """Three convolutions beside the identity; FLUX.2's have a pool of 1×1 convolutions before."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        wide = 4 * WIDTH
        self.pool = (
            nn.Sequential(
                nn.Conv2d(WIDTH, wide, 1, bias=False),
                nn.GroupNorm(4, wide),
                nn.ReLU(),
                nn.Conv2d(wide, WIDTH, 1, bias=False),
            )
            if pooled
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


def decoder_layers(latent_channels: int, pooled: bool) -> nn.Sequential:
    """The decoder: [B, latent_channels, H, W] to [B, 3, 8 H, 8 W] in 0 to 1."""
    layers: list[nn.Module] = [
        SoftClamp(),
        nn.Conv2d(latent_channels, WIDTH, 3, padding=1),
        nn.ReLU(),
    ]
    for stage in range(STAGES):
        layers += [ResidualBlock(pooled and stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
    layers += [ResidualBlock(False), nn.Conv2d(WIDTH, 3, 3, padding=1)]
    return nn.Sequential(*layers)


def unpacked(latent: torch.Tensor) -> torch.Tensor:
    """FLUX.2's [B, 4 C, H, W], which packs 2×2 pixels into channels, as [B, C, 2 H, 2 W]."""
    return F.pixel_shuffle(latent, 2)


class Taesd:
    """A loaded TAESD decoder."""

    def __init__(self, layers: nn.Sequential, packed: bool) -> None:
        self.scale = SCALE * (2 if packed else 1)
        self._layers = layers
        self._packed = packed

    def __call__(self, latent: torch.Tensor, max_size: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w]."""
        if self._packed:
            latent = unpacked(latent)
        return self._layers(latent)[0]


@dataclass(frozen=True)
class TaesdSource:
    """A decoder file."""

    path: str
    latent_channels: int
    modified: float
    name: str = "taesd"

    @classmethod
    def of(cls, path: str, latent_channels: int) -> TaesdSource:
        """The source for the file at `path` as it is now."""
        try:
            modified = os.path.getmtime(path)
        except OSError:
            modified = 0.0  # load says what is wrong
        return cls(path, latent_channels, modified)

    @property
    def key(self) -> Hashable:
        return (Path(self.path).name, self.path, self.modified, self.latent_channels)

    def dtype(self, device: torch.device) -> torch.dtype:
        return torch.float16 if device.type == "cuda" else torch.float32

    def load(self, device: torch.device) -> Taesd:
        weights = read_weights(self.path)
        try:
            file_channels = weights["1.weight"].shape[1]
            pooled = "3.pool.0.weight" in weights
            layers = decoder_layers(file_channels, pooled)
            layers.load_state_dict(weights)
        except (KeyError, IndexError, RuntimeError) as error:
            raise DecoderError(f"{self.path} is not a TAESD decoder") from error
        packed = pooled and self.latent_channels == 4 * file_channels
        if not packed and self.latent_channels != file_channels:
            raise DecoderError(
                f"{self.path} takes latents of {file_channels} channels,"
                f" this model's have {self.latent_channels}"
            )
        layers.requires_grad_(False).eval().to(device, self.dtype(device))
        layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Taesd(layers, packed)


def read_weights(path: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file, on the CPU. Raises DecoderError.

    Files are read as weights only: nothing in them is executed.
    """
    try:
        if path.endswith((".safetensors", ".sft")):
            from safetensors.torch import load_file  # shipped with ComfyUI

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DecoderError(f"{path} is gone") from error
    except (pickle.UnpicklingError, EOFError, OSError, RuntimeError, ValueError) as error:
        raise DecoderError(f"{path} is damaged or no file of weights") from error
    except Exception as error:  # safetensors has an error class of its own
        raise DecoderError(f"{path} cannot be read: {error}") from error
    if not isinstance(weights, Mapping):
        raise DecoderError(f"{path} holds no weights by name")
    return weights
