"""TAESD, the tiny image autoencoder (madebyollin/taesd), and its kin for SDXL, SD3, FLUX.1, FLUX.2.

The layout is read off the file: which blocks carry a middle pool (FLUX.2) and how many latent
channels it takes. State dicts are those that ComfyUI takes from models/vae_approx: a plain
sequence of layers, numbered from 0.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Hashable, Mapping
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

SKIPPED = 1
"""How many of the last upsamplings may be left out where fewer pixels are enough.

Against the full decode shrunk by area, real FLUX.2 weights at 1024 px: 34 to 35 dB without the
last one, 27 to 28 dB without the last two, which shows.
"""


Precision = Callable[[torch.device], torch.dtype]
"""The fastest type that convolutions on a device are right in."""


def float32_everywhere(device: torch.device) -> torch.dtype:
    """The precision to choose where nothing is known of the device."""
    return torch.float32


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
        first, second, third = (layer for layer in self.conv if isinstance(layer, nn.Conv2d))
        return conv_relu(conv_relu(conv_relu(x, first), second), third, add=x)


def conv_relu(x: torch.Tensor, conv: nn.Conv2d, add: torch.Tensor | None = None) -> torch.Tensor:
    """ReLU of the 3×3 convolution of `x`, plus `add`.

    On NVIDIA devices it is one kernel instead of three: half of the decoder's time goes into
    writing and reading what lies between. The pictures are the same but for one level in one of
    a thousand values.
    """
    if not can_fuse(x.device, x.dtype):
        y = conv(x)
        return F.relu(y if add is None else y + add)
    if add is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *GEOMETRY)
    return torch.cudnn_convolution_add_relu(x, conv.weight, add, 1.0, conv.bias, *GEOMETRY)


GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups


@functools.cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN's fused convolutions are to be had: tried once, small."""
    if device.type != "cuda" or torch.version.cuda is None or dtype == torch.float32:
        return False
    x = torch.zeros(1, WIDTH, 8, 8, device=device, dtype=dtype)
    weight, bias = x.new_zeros(WIDTH, WIDTH, 3, 3), x.new_zeros(WIDTH)
    try:
        torch.cudnn_convolution_add_relu(
            torch.cudnn_convolution_relu(x, weight, bias, *GEOMETRY),
            weight,
            x,
            1.0,
            bias,
            *GEOMETRY,
        )
    except RuntimeError:
        return False
    return True


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

    def __call__(self, latent: torch.Tensor, enough: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w]; H and W halved where `enough` allows."""
        if self._packed:
            latent = unpacked(latent)
        longer = max(latent.shape[-2:]) * SCALE
        skipped = next(n for n in range(SKIPPED, -1, -1) if n == 0 or longer >> n >= enough)
        x = latent
        upsamplings = STAGES
        for layer in self._layers:
            if isinstance(layer, nn.Upsample):
                upsamplings -= 1
                if upsamplings < skipped:
                    continue
            x = layer(x)
        return x[0]


@dataclass(frozen=True)
class TaesdSource:
    """A decoder file."""

    path: str
    latent_channels: int
    modified: float
    precision: Precision = float32_everywhere
    name: str = "taesd"

    @classmethod
    def of(
        cls, path: str, latent_channels: int, precision: Precision = float32_everywhere
    ) -> TaesdSource:
        """The source for the file at `path` as it is now, to work in the type `precision` gives."""
        try:
            modified = os.path.getmtime(path)
        except OSError:
            modified = 0.0  # load says what is wrong
        return cls(path, latent_channels, modified, precision)

    @property
    def key(self) -> Hashable:
        return (Path(self.path).name, self.path, self.modified, self.latent_channels)

    def dtype(self, device: torch.device) -> torch.dtype:
        return self.precision(device)

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
        layers.requires_grad_(False).eval()
        # Made ready on the CPU: what moves is all that the device sees of loading.
        layers.to(self.dtype(device)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return Taesd(layers.to(device), packed)


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
