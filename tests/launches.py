"""Plays the launches of TAESD's kernels on the CPU: what `fused.Plan` says, without a GPU.

Each layer is a part of one memory, which is full of NaN at first: what is read before it is
written, or beyond a picture's rows, shows in the result.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from sidestream.preview.decoders import fused
from torch import nn
from torch.nn import functional as F

ROWS = {"small": 4, "large": 8, "leave": 8}
"""Of a tile, in pixels; it has `fused.ACROSS` columns."""


def loaded(multiprocessors: int) -> Any:
    """Stands for `fused.Loaded`."""
    kernels = {
        name: SimpleNamespace(name=name, threads=128)
        for name in ("enter", "small", "large", "leave", "finish")
    }
    return SimpleNamespace(multiprocessors=multiprocessors, **kernels)


WEIGHTS = [SimpleNamespace(data_ptr=lambda: 0)] * 4
"""Stand for the arranged weights: a convolution's address then says which one it is."""


class Launches:
    """Stands for `nvrtc.Launches`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int, Any]] = []

    def add(self, kernel: Any, across: int, down: int, work: Any, places: Any) -> None:
        self.calls.append((kernel.name, across, down, work))


class Player:
    """Plays the launches of a plan with the convolutions of `layers`, in float16 between them."""

    def __init__(self, layers: nn.Sequential, latent: torch.Tensor, size: int) -> None:
        """`latent` is [1, C, h, w]; the memory has `size` bytes."""
        self._convolutions = [each for each in layers.modules() if isinstance(each, nn.Conv2d)]
        self._latent = latent
        self._memory = torch.full((size // 2,), math.nan, dtype=torch.float16)

    def play(self, calls: list[tuple[str, int, int, Any]]) -> torch.Tensor:
        """The picture before it is shrunk, [3, H, W]."""
        for name, across, down, work in calls:
            if name == "enter":
                self._enter(across, work)
            elif name == "finish":
                height, width = work.source_height, work.source_width
                rgb = self._layer(work.source, width, 4, 0, height)
                return rgb[:, :, :3].permute(2, 0, 1)
            elif name == "leave":
                self._covers(name, across, down, work)
                made = self._convolved(work, self._convolutions[-1], up=0)
                padded = F.pad(made, (0, 0, 0, 0, 0, 1)).permute(1, 2, 0)
                self._layer(work.to, work.width, 4, work.rows.top, work.rows.bottom)[:] = padded
            else:
                self._covers(name, across, down, work)
                self._convolve(work)
        raise AssertionError("the launches end without a picture")

    def _layer(self, offset: int, width: int, channels: int, top: int, bottom: int) -> torch.Tensor:
        """The rows from `top` to `bottom` of a layer, [rows, width, channels]."""
        row = width * channels
        first, last = offset // 2 + top * row, offset // 2 + bottom * row
        assert 0 <= first <= last <= len(self._memory)
        return self._memory[first:last].view(bottom - top, width, channels)

    def _covers(self, name: str, across: int, down: int, work: Any) -> None:
        tile = ROWS[name]
        assert (across - 1) * fused.ACROSS < work.width <= across * fused.ACROSS
        rows = work.rows.bottom - work.rows.top
        assert (down - 1) * tile < rows <= down * tile

    def _enter(self, across: int, work: Any) -> None:
        _, channels, h, w = self._latent.shape
        assert (work.channels, work.pixels) == (channels, h * w)
        assert (across - 1) * 128 < h * w <= across * 128
        clamped = torch.tanh(self._latent[0] / 3) * 3
        padded = F.pad(clamped, (0, 0, 0, 0, 0, fused.WIDTH - channels))
        self._layer(work.to, w, fused.WIDTH, 0, h)[:] = padded.permute(1, 2, 0)

    def _convolve(self, work: Any) -> None:
        number = work.weights or 0
        conv = self._convolutions[number // (fused.TAPS * fused.TAP_BYTES)]
        assert (work.bias or 0) * fused.TAPS * fused.TAP_BYTES == number * fused.WIDTH * 4
        made = self._convolved(work, conv, work.up)
        rows = work.rows.top, work.rows.bottom
        if work.add != fused.NOTHING:
            made += self._layer(work.add, work.width, fused.WIDTH, *rows).permute(2, 0, 1)
        if work.relu:
            made = made.relu()
        self._layer(work.to, work.width, fused.WIDTH, *rows)[:] = made.permute(1, 2, 0)

    def _convolved(self, work: Any, conv: nn.Conv2d, up: int) -> torch.Tensor:
        """The rows of a convolution, [C, rows, width], which reads one more on both sides."""
        top, bottom = work.rows.top, work.rows.bottom
        first, end = max(0, top - 1), min(bottom + 1, work.height)
        source = self._layer(
            work.source, work.width >> up, fused.WIDTH, first >> up, ((end - 1) >> up) + 1
        )
        x = source.permute(2, 0, 1)[None].float()
        if up:
            begin = first - (first >> up << up)
            x = F.interpolate(x, scale_factor=2)[:, :, begin : begin + end - first]
        weight = F.pad(conv.weight, (0, 0, 0, 0, 0, fused.WIDTH - conv.in_channels))
        x = F.pad(x, (1, 1, first - top + 1, bottom + 1 - end))
        return F.conv2d(x, weight, conv.bias)[0]

