"""Latent2RGB: multiplies each latent pixel by a small matrix from its latent format."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

Reshape = Callable[[torch.Tensor], torch.Tensor]


class Latent2RGB:
    """The matrix on a device."""

    light = True
    frames_each = 1

    def __init__(
        self, factors: torch.Tensor, bias: torch.Tensor | None, reshape: Reshape | None, scale: int
    ) -> None:
        """`factors` [channels, 3] and `bias` [3] map a latent to RGB from -1 to 1."""
        self.scale = scale
        self._matrix = factors.T * 0.5
        self._offset = torch.full_like(self._matrix[:, 0], 0.5)
        if bias is not None:
            self._offset += bias * 0.5
        self._reshape = reshape

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, h, w] of `latent` [1, C, h, w], or of the first frame of [1, C, T, h, w].

        A video's latent frame stands for several pictures; here it gives one, shown for as long.
        """
        if self._reshape is not None:
            latent = self._reshape(latent)
        latent = latent[0, :, 0] if latent.ndim == 5 else latent[0]
        pixels = torch.nn.functional.linear(
            latent.movedim(0, -1).to(self._matrix.dtype), self._matrix, self._offset
        )
        return pixels.movedim(-1, 0)

    def visible_frames(self, index: int) -> range:
        return range(1)

    def streaming(self) -> StreamingLatent2RGB:
        return StreamingLatent2RGB(self)


class StreamingLatent2RGB:
    """Frames are decoded independently."""

    def __init__(self, decoder: Latent2RGB) -> None:
        self._decoder = decoder

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [1, 3, h, w] of `latent` [1, C, 1, h, w]."""
        return self._decoder(latent, min_side)[None]

    def rewind(self) -> None:
        """There is nothing to forget."""


@dataclass(frozen=True)
class Latent2RGBSource:
    """The factors of a latent format, as the host lists them."""

    latent_format: str
    factors: Sequence[Sequence[float]]
    bias: Sequence[float] | None
    reshape: Reshape | None
    scale: int
    name: str = "latent2rgb"

    @property
    def key(self) -> Hashable:
        return (f"{self.name} {self.latent_format}", tuple(map(tuple, self.factors)), self.scale)

    def dtype(self, device: torch.device) -> torch.dtype:
        # Half precision would be off by up to two levels, and the matrix costs next to nothing.
        return torch.float32

    def load(self, device: torch.device) -> Latent2RGB:
        def tensor(values: object) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float32).to(device)

        bias = None if self.bias is None else tensor(self.bias)
        return Latent2RGB(tensor(self.factors), bias, self.reshape, self.scale)
