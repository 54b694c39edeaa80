"""TAESD's layers with weights that give pictures: with random ones all is one grey."""

from __future__ import annotations

import torch
from sidestream.preview.decoders.taesd import SCALE, STAGES, decoder_layers
from sidestream.preview.render.job import RenderJob
from torch import nn


def natural_layers(channels: int, seed: int = 5) -> nn.Sequential:
    """Layers in float32 on the CPU that make of noise pictures with both bright and dark places.

    Each weight is one that float16 has, so that decoders of both types are the same.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = decoder_layers(channels, pooled=False).requires_grad_(False).eval()
    for module in layers.modules():
        if isinstance(module, nn.Conv2d):
            deviation = (1.0 / module.weight[0].numel()) ** 0.5
            module.weight.normal_(0, deviation, generator=generator)
            if module.bias is not None:
                module.bias.normal_(0, 0.1, generator=generator)
    last = layers[-1]
    latent = torch.randn(1, channels, 16, 16, generator=generator) * 2
    last.weight *= 0.25 / layers(latent).std()
    last.bias += 0.5 - layers(latent).mean(dim=(0, 2, 3))
    return layers.half().float()


class Forced:
    """A decoder that leaves out the last `skipped` upsamplings of `layers`."""

    scale = SCALE
    light = True

    def __init__(self, layers: nn.Sequential, skipped: int) -> None:
        self._layers = layers
        self._skipped = skipped

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        upsamplings = STAGES
        x = latent
        for layer in self._layers:
            if isinstance(layer, nn.Upsample):
                upsamplings -= 1
                if upsamplings < self._skipped:
                    continue
            x = layer(x)
        return x[0]


def painted(
    layers: nn.Sequential, latent: torch.Tensor, max_size: int, skipped: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `RenderJob` makes of `latent` with `layers`."""
    return RenderJob(Forced(layers, skipped), max_size)(latent)
