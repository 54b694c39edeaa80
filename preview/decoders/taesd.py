"""TAESD, the tiny image autoencoder (madebyollin/taesd), and its kin for SDXL, SD3, FLUX.1, FLUX.2.

The layout is read off the file: which blocks carry a middle pool (FLUX.2) and how many latent
channels it takes. State dicts are those that ComfyUI takes from models/vae_approx: a plain
sequence of layers, numbered from 0.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .convolution import conv_relu
from .errors import DecoderError
from .fused import WhenReady
from .weights import UNFILLED, Precision, float32_everywhere, modified_at, read_weights

FAMILY = ("taesd_decoder", "taesdxl_decoder", "taesd3_decoder", "taef1_decoder", "taef2_decoder")
"""The names of decoder files, as ComfyUI's latent formats give them."""

WIDTH = 64
STAGES = 3  # each doubles the size
SCALE = 2**STAGES

LARGEST = 2048 * 2048
"""Pixels up to which no more than the last upsampling is left out: half a gigabyte a layer.

Against the full decode shrunk by area, real FLUX.2 weights at 1024 px: 34 to 35 dB without the
last one, 27 to 28 dB without the last two. That shows, but a picture so large is still well
readable so, where all of it would take gigabytes.
"""


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


def left_out(height: int, width: int, enough: int) -> int:
    """How many of the last upsamplings to leave out, each of which halves the picture.

    Of a picture height × width with all of them, so many that its longer side keeps `enough`
    pixels: one at most, or as many as bring it down to `LARGEST`.
    """
    count = 0
    while count < STAGES and max(height, width) >> (count + 1) >= enough:
        if count > 0 and (height >> count) * (width >> count) <= LARGEST:
            break
        count += 1
    return count


class Taesd:
    """A loaded TAESD decoder."""

    recordable = True
    light = True

    def __init__(self, layers: nn.Sequential, packed: bool) -> None:
        self.scale = SCALE * (2 if packed else 1)
        self._layers = layers
        self._dtype = next(layers.parameters()).dtype
        self._packed = packed
        self._fused = WhenReady(layers)

    def __call__(self, latent: torch.Tensor, enough: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w], or of the first frame of [1, C, T, h, w].

        H and W are halved, once or more, where `enough` allows.
        """
        x = latent[:, :, 0] if latent.ndim == 5 else latent
        x = x.to(self._dtype)  # it may have been staged for a decoder that then failed
        if self._packed:
            x = unpacked(x)
        height, width = x.shape[-2:]
        skipped = left_out(height * SCALE, width * SCALE, enough)
        upsamplings = STAGES
        for layer in self._layers:
            if isinstance(layer, nn.Upsample):
                upsamplings -= 1
                if upsamplings < skipped:
                    continue
            x = layer(x)
        return x[0]

    def paint(
        self, latent: torch.Tensor, enough: int, width: int, height: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What `Painting` makes of one `latent` [1, C, h, w], in a few kernels; see `fused`.

        Where the decoder gives more, it is shrunk to `width` × `height`. None where the kernels
        are not there, yet or for good: then the decoder is called.
        """
        x = latent[:, :, 0] if latent.ndim == 5 and latent.shape[2] == 1 else latent
        if x.ndim != 4 or len(x) != 1 or self._packed:
            return None
        skipped = left_out(x.shape[-2] * SCALE, x.shape[-1] * SCALE, enough)
        return self._fused.paint(x, width, height, skipped)


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
        return cls(path, latent_channels, modified_at(path), precision)

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
            with UNFILLED:
                layers = decoder_layers(file_channels, pooled)
            layers.to_empty(device="cpu").load_state_dict(weights)
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
