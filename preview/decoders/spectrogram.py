"""Latents that are not pictures, such as audio, as a map: time to the right, channels upwards."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .protocols import Chart

ROW = 4  # the least height of a channel, in pixels
WIDEST = 4096  # columns, whatever the length
REACH = 3.0  # standard deviations from the middle to the darkest and to the brightest colour

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
    """Channels over time; the colour shows a value's distance from the median.

    For latents with rows (ACE-Step's frequencies), each channel's rows are shown together.
    """

    scale = 1
    light = True

    def __init__(self, device: torch.device) -> None:
        self._colours = torch.tensor(COLOURS, dtype=torch.float32).div_(255).to(device)

    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Width and height of the picture of each latent in a batch [n, C, T] or [n, C, h, T].

        The width is one to two times the height, so that it never becomes a narrow strip, however
        long the sound is.
        """
        rows, length = row_count(shape), min(shape[-1], WIDEST)
        return max(length, ROW * rows), max(length // 2, ROW * rows)

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, rows, columns] of `latent` [1, C, T] or [1, C, h, T]: one pixel per value.

        If there are more moments than columns are needed, they are averaged before colouring: the
        mean of two colours says less than the colour of a mean.
        """
        length = latent.shape[-1]
        values = latent.reshape(1, row_count(latent.shape), length)
        columns = min(length, min_side, WIDEST)
        if columns < length:
            values = F.interpolate(values, size=columns, mode="area")
        return self._coloured(levels(values[0])).flip(1)

    def _coloured(self, levels: torch.Tensor) -> torch.Tensor:
        """RGB [3, ...] of `levels` [...] from 0 to 1."""
        place = levels * (len(COLOURS) - 1)
        below = place.long().clamp_(max=len(COLOURS) - 2)
        part = (place - below)[..., None]
        rgb = torch.lerp(self._colours[below], self._colours[below + 1], part)
        return rgb.movedim(-1, 0)


def row_count(shape: Sequence[int]) -> int:
    """The rows in the picture of each latent in a batch [n, C, T] or [n, C, h, T]."""
    return math.prod(shape[1:-1])


def levels(values: torch.Tensor) -> torch.Tensor:
    """`values` of any magnitude mapped to 0 to 1, with their median at a half.

    Medians are not affected by outliers, however large.
    """
    distance = values - values.median()
    deviation = distance.abs().median() * 1.4826  # the standard deviation of a normal distribution
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
