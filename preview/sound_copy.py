"""The decoder of a VAE for sound that ComfyUI loaded, copied to decode beside the sampler."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from .vae_copy import weights

_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class SoundCopy:
    """A decoder of sound on the CPU, which shares no weights with its VAE."""

    model: nn.Module
    """Its method `decode` takes a latent to a waveform [1, channels, samples], -1 to 1."""

    rate: int
    """Samples in a second."""

    hop: int
    """Samples for each position of a latent."""

    lead: int
    """Samples that the first position has fewer than the others."""

    reach: tuple[int, int]
    """How many positions before and behind a position have a part in its samples."""

    grain: int
    """Where a part of a latent may begin: at multiples of this."""

    axis: int
    """The dimension of latents that is time, counted from the last."""

    channels: int
    """Of the latents that it takes, [B, channels, ...]."""

    precision: Callable[[torch.device], torch.dtype]
    """The type that its VAE works in, on a device."""

    memory: Callable[[Sequence[int]], float]
    """How many numbers decoding a latent of a shape holds at a time."""

    name: str = "sound"
    number: int = field(default_factory=lambda: next(_numbers))
    """No other copy has it, nor will have."""

    def size(self, dtype: torch.dtype) -> int:
        """Bytes of its weights in `dtype`."""
        return sum(weight.numel() for weight in weights(self.model)) * dtype.itemsize
