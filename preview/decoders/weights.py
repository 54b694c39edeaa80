"""Decoders that come from files: their sources, their precision, and layers filled with weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from .files import Stored, Version, version_of
from .protocols import DecoderError

Precision = Callable[[torch.device], torch.dtype]
"""Gives the fastest dtype in which convolutions on a device are accurate."""

UNFILLED = torch.device("meta")
"""Layers are made on it without weights. Otherwise they would be initialised with random numbers
from the generator from which a sampler may be drawing its noise."""

WIDEST = 1024
"""The most channels between a decoder's layers: those of the wide one for LTX-2.3."""

LARGEST = 48 << 20
"""The most weights of a decoder. No known one has 40 million."""

S = TypeVar("S", bound="FileSource")


def float32_everywhere(device: torch.device) -> torch.dtype:
    """The precision if nothing is known about the device."""
    return torch.float32


@dataclass(frozen=True)
class FileSource:
    """A decoder file, at one version of it."""

    path: str
    latent_channels: int
    version: Version
    precision: Precision = float32_everywhere

    @classmethod
    def of(
        cls: type[S],
        path: str,
        latent_channels: int,
        precision: Precision = float32_everywhere,
        **more: Any,
    ) -> S:
        """The source for the file at `path` as it is now; `precision` gives the working dtype.

        `more` are further fields of the class.
        """
        return cls(path, latent_channels, version_of(path), precision, **more)

    @property
    def key(self) -> tuple[Hashable, ...]:
        return (Path(self.path).name, self.path, self.version, self.latent_channels)

    def dtype(self, device: torch.device) -> torch.dtype:
        return self.precision(device)

    def check_channels(self, expected: int) -> None:
        """Raise DecoderError, whose message follows a file's name, if latents have others."""
        if self.latent_channels != expected:
            raise DecoderError(
                f"it expects latents with {expected} channels,"
                f" this model's have {self.latent_channels}"
            )


def shape_of(stored: Mapping[str, Stored], name: str) -> tuple[int, int, int, int]:
    """The shape of the convolution `name`, whose channels are as many as a decoder may have.

    Raises DecoderError, whose message follows a file's name.
    """
    weight = stored.get(name)
    if weight is None:
        raise DecoderError(f"it has no {name}")
    if len(weight.shape) != 4 or not all(0 < length <= WIDEST * 8 for length in weight.shape):
        raise DecoderError(f"its {name} is {list(weight.shape)}")
    out, channels, height, width = weight.shape
    return out, channels, height, width


def fill(layers: nn.Module, stored: Mapping[str, Stored], dtype: torch.dtype) -> None:
    """Fill `layers`, made on `UNFILLED`, with the weights of the same names, on the CPU in `dtype`.

    Names and shapes are checked before anything is read. Raises DecoderError, whose message
    follows a file's name.
    """
    expected = {name: tuple(weight.shape) for name, weight in layers.state_dict().items()}
    for name, shape in expected.items():
        if name not in stored:
            raise DecoderError(f"it has no {name}")
        found = stored[name].shape
        if found != shape:
            raise DecoderError(f"its {name} is {list(found)}, not {list(shape)}")
    surplus = next((name for name in stored if name not in expected), None)
    if surplus is not None:
        raise DecoderError(f"it also has {surplus}")
    numbers = sum(math.prod(shape) for shape in expected.values())
    if numbers > LARGEST:
        raise DecoderError(f"it has {numbers:,} weights, more than any decoder")
    # One at a time, so that only one weight is held in another dtype.
    filled = {name: stored[name].read().to(dtype) for name in expected}
    layers.load_state_dict(filled, assign=True)
    layers.requires_grad_(False).train(False)
    # Prepared on the CPU, so that a device is only needed for the final copy.
    layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
