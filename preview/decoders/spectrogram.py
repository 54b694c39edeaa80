"""Latents that are no picture (audio, for one) as a map: time across, channels upwards."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .protocols import Chart

ROW = 4  # pixels that a channel is high, at the least
WIDEST = 4096  # columns, whatever the length
REACH = 3.0  # standard deviations from the middle to the darkest and to the brightest

COLOURS = (
    (0x00, 0x00, 0x04),
    (0x1B, 0x0C, 0x42),
    (0x4B, 0x0C, 0x6B),
    (0x78, 0x1C, 0x6D),
    (0xA5, 0x2C, 0x60),
    (0xCF, 0x44, 0x46),
    (0xED, 0x69, 0x25),
    (0xFB, 0x9A, 0x06),
    (0xF7, 0xD0, 0x3C),
    (0xFC, 0xFF, 0xA4),
)
"""Ten of the colour map "inferno": equal steps look equal, and each is brighter than the last."""


class Spectrogram(Chart):
    """Channels against time, each value by its distance from the middle of all.

    Latents with rows of their own (ACE-Step's: frequencies) show each channel's rows together.
    """

    scale = 1
    light = True

    def __init__(self, device: torch.device) -> None:
        self._colours = torch.tensor(COLOURS, dtype=torch.float32).div_(255).to(device)

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Width and height of the picture of each of latents, [n, C, T] or [n, C, h, T].

        At least as wide as high and at most twice, so that neither few moments nor many make a
        strip of it.
        """
        rows, length = row_count(shape), min(shape[-1], WIDEST)
        return max(length, ROW * rows), max(length // 2, ROW * rows)

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, rows, columns] of `latent` [1, C, T] or [1, C, h, T]: one pixel each value.

        More moments than columns are wanted are averaged before they are coloured: the mean of
        two colours says less than the colour of a mean.
        """
        length = latent.shape[-1]
        values = latent.reshape(1, row_count(latent.shape), length)
        columns = min(length, min_side, WIDEST)
        if columns < length:
            values = F.interpolate(values, size=columns, mode="area")
        return self._coloured(levels(values[0])).flip(1)

    def _coloured(self, levels: torch.Tensor) -> torch.Tensor:
        """RGB [3, ...] of `levels` [...], 0 to 1."""
        place = levels * (len(COLOURS) - 1)
        below = place.long().clamp_(max=len(COLOURS) - 2)
        part = (place - below)[..., None]
        rgb = torch.lerp(self._colours[below], self._colours[below + 1], part)
        return rgb.movedim(-1, 0)


def row_count(shape: Sequence[int]) -> int:
    """The rows in the picture of each of latents, [n, C, T] or [n, C, h, T]."""
    return math.prod(shape[1:-1])


def levels(values: torch.Tensor) -> torch.Tensor:
    """`values` of any size as 0 to 1, with their middle at a half.

    By medians, which no outlier moves however large it is.
    """
    distance = values - values.median()
    deviation = distance.abs().median() * 1.4826  # the standard deviation, of a normal distribution
    reach = (REACH * deviation).clamp(min=torch.finfo(values.dtype).tiny)
    return (distance / (2 * reach) + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class SpectrogramSource:
    """Needs no file."""

    name: str = "spectrogram"

    @property
    def key(self) -> Hashable:
        return (self.name,)

    def dtype(self, device: torch.device) -> torch.dtype:
        return torch.float32

    def load(self, device: torch.device) -> Spectrogram:
        return Spectrogram(device)
