"""TAESD, the tiny image autoencoder (madebyollin/taesd), and its variants for SDXL, SD3, FLUX.1,
FLUX.2, Qwen-Image 2.1 and Sana.

The layout is determined from the file: the number of stages and their widths, which blocks have a
pool (FLUX.2), the number of latent channels, and whether the last layer gives patches of pixels
with transparency (Qwen-Image 2.1). State dicts are those that ComfyUI takes from models/vae_approx:
a plain sequence of layers, numbered from 0; or those of diffusers, together with an encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Conv2d, GroupNorm

from .convolution import conv_relu
from .files import Stored, opened
from .fused import WhenReady
from .picture import on_chequerboard
from .protocols import DecoderError
from .weights import UNFILLED, WIDEST, FileSource, fill, shape_of

BLOCKS = 3  # in each stage
STAGES = 3  # each doubles the size
MOST_STAGES = 5  # Sana
SCALE = 2**STAGES

LARGEST = 2048 * 2048
"""Pixels up to which only the last upsampling is left out: half a gigabyte per layer.

Compared with the full decode shrunk by area, for real FLUX.2 weights at 1024 px: 34 to 35 dB
without the last upsampling, 27 to 28 dB without the last two. The difference is visible, but a
picture that large stays legible, while all of it would take gigabytes.
"""


class SoftClamp(nn.Module):
    """Keeps latents within ±3, smoothly."""

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return torch.tanh(latent / 3) * 3


@dataclass(frozen=True)
class Layout:
    """What differs between the files of the family."""

    channels: int
    widths: tuple[int, ...] = (64, 64, 64, 64)  # of each stage, and after the last one
    pooled: bool = False
    colours: int = 3  # 4 with transparency
    patch: int = 1  # the side of the squares of pixels that the last convolution gives

    @property
    def stages(self) -> int:
        return len(self.widths) - 1

    @classmethod
    def of(cls, stored: Mapping[str, Stored]) -> Layout:
        """The layout of the weights in a file. Raises DecoderError."""
        width, channels, *_ = shape_of(stored, "1.weight")
        narrowings = [f"{NARROWING + (BLOCKS + 2) * stage}.weight" for stage in range(MOST_STAGES)]
        stages = next((i for i, name in enumerate(narrowings) if name not in stored), MOST_STAGES)
        stages = max(stages, STAGES)  # if there are fewer, the error says what is missing
        widths = (width, *(shape_of(stored, name)[0] for name in narrowings[:stages]))
        last, *_ = shape_of(stored, f"{NARROWING + (BLOCKS + 2) * (stages - 1) + 2}.weight")
        if max(widths) > WIDEST or last not in ENDS:
            raise DecoderError(f"it is {list(widths)} wide and ends with {last} channels")
        colours, patch = ENDS[last]
        pooled = f"{FIRST_BLOCK}.pool.0.weight" in stored
        return cls(channels, widths, pooled, colours, patch)


FIRST_BLOCK = 3
NARROWING = FIRST_BLOCK + BLOCKS + 1
"""The number of the layer after the first upsampling."""

ENDS = {3: (3, 1), 12: (3, 2), 16: (4, 2)}
"""By the channels of the last convolution: the colours, and the side of its patches."""


class ResidualBlock(nn.Module):
    """Three convolutions beside the identity, after a pool of 1×1 convolutions in FLUX.2's."""

    def __init__(self, width: int, pooled: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        wide = 4 * width
        self.pool = (
            nn.Sequential(
                Conv2d(width, wide, 1, bias=False),
                GroupNorm(4, wide),
                nn.ReLU(),
                Conv2d(wide, width, 1, bias=False),
            )
            if pooled
            else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        first, second, third = (layer for layer in self.conv if isinstance(layer, Conv2d))
        return conv_relu(conv_relu(conv_relu(x, first), second), third, add=x)


def decoder_layers(latent_channels: int, pooled: bool) -> nn.Sequential:
    """The layers of the most common layout, 64 channels wide."""
    return layers_of(Layout(latent_channels, pooled=pooled))


def layers_of(layout: Layout) -> nn.Sequential:
    """The decoder: [B, C, h, w] to [B, colours · patch², s h, s w] in 0 to 1, s = 2^stages."""
    first, *narrower = layout.widths
    layers: list[nn.Module] = [SoftClamp(), Conv2d(layout.channels, first, 3, padding=1), nn.ReLU()]
    for stage, (width, next_width) in enumerate(zip(layout.widths, narrower, strict=False)):
        pooled = layout.pooled and stage == 0
        layers += [ResidualBlock(width, pooled) for _ in range(BLOCKS)]
        layers += [nn.Upsample(scale_factor=2), Conv2d(width, next_width, 3, padding=1, bias=False)]
    last = layout.widths[-1]
    layers += [ResidualBlock(last, False)]
    layers += [Conv2d(last, layout.colours * layout.patch**2, 3, padding=1)]
    return nn.Sequential(*layers)


def unpacked(latent: torch.Tensor) -> torch.Tensor:
    """FLUX.2's [B, 4 C, H, W], which packs 2×2 pixels into channels, as [B, C, 2 H, 2 W]."""
    return F.pixel_shuffle(latent, 2)


def left_out(height: int, width: int, min_side: int, stages: int = STAGES) -> int:
    """How many of the last upsamplings, of `stages`, to leave out; each one halves the picture.

    With all of them the picture has height × width. Its longer side keeps at least `min_side`
    pixels. At most one is left out, or as many as it takes to have no more than `LARGEST` pixels.
    """
    count = 0
    while count < stages and max(height, width) >> (count + 1) >= min_side:
        if count > 0 and (height >> count) * (width >> count) <= LARGEST:
            break
        count += 1
    return count


class Taesd:
    """A loaded TAESD decoder."""

    light = True

    def __init__(self, layers: nn.Sequential, packed: bool, patch: int = 1) -> None:
        """`packed` latents are unpacked first; the last layer gives patches with side `patch`."""
        self._stages = sum(isinstance(layer, nn.Upsample) for layer in layers)
        self._decoded = 2**self._stages * patch  # pixels per position that the first layer sees
        self.scale = self._decoded * (2 if packed else 1)
        self._layers = layers
        self._dtype = next(layers.parameters()).dtype
        self._patch = patch
        self._packed = packed
        self._fused = WhenReady(layers)

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w], or of the first frame of [1, C, T, h, w].

        H and W are halved, once or more, if `min_side` allows. Transparency shows a chequerboard.
        """
        x = latent[:, :, 0] if latent.ndim == 5 else latent
        x = x.to(self._dtype)  # it may have been staged for another decoder, which then failed
        if self._packed:
            x = unpacked(x)
        height, width = x.shape[-2:]
        skipped = left_out(height * self._decoded, width * self._decoded, min_side, self._stages)
        upsamplings = self._stages
        for layer in self._layers:
            if isinstance(layer, nn.Upsample):
                upsamplings -= 1
                if upsamplings < skipped:
                    continue
            x = layer(x)
        return on_chequerboard(F.pixel_shuffle(x, self._patch)[0])

    def to_picture(
        self, latent: torch.Tensor, min_side: int, width: int, height: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What `RenderJob` makes of one `latent` [1, C, h, w], in a few kernels; see `fused`.

        A larger picture is shrunk to `width` × `height`. None if the kernels are not available, for
        now or for good; then the decoder is called.
        """
        x = latent[:, :, 0] if latent.ndim == 5 and latent.shape[2] == 1 else latent
        if x.ndim != 4 or len(x) != 1 or self._packed:
            return None
        skipped = left_out(x.shape[-2] * SCALE, x.shape[-1] * SCALE, min_side)
        return self._fused.to_picture(x, width, height, skipped)

    def rest(self) -> None:
        """Free the memory that is kept from one picture to the next."""
        self._fused.rest()


@dataclass(frozen=True)
class TaesdSource(FileSource):
    """A file of the TAESD family."""

    name: str = "taesd"

    def load(self, device: torch.device) -> Taesd:
        with opened(self.path, "TAESD decoder for this model") as whole:
            stored = decoder_weights(whole)
            layout = Layout.of(stored)
            packed = layout.pooled and self.latent_channels == 4 * layout.channels
            if not packed:
                self.check_channels(layout.channels)
            with UNFILLED:
                layers = layers_of(layout)
            fill(layers, stored, self.dtype(device))
        return Taesd(layers.to(device), packed, layout.patch)


DIFFUSERS = "decoder.layers."


def decoder_weights(stored: Mapping[str, Stored]) -> Mapping[str, Stored]:
    """The decoder's weights among those of a file, with layers numbered from 0.

    diffusers does not count the first layer, which has no weights.
    """
    names = [name for name in stored if name.startswith(DIFFUSERS)]
    if not names:
        return stored
    parts = {name: name.removeprefix(DIFFUSERS).split(".") for name in names}
    return {
        ".".join([str(int(number) + 1), *rest]): stored[name]
        for name, (number, *rest) in parts.items()
        if number.isdecimal()
    }
