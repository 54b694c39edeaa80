"""The types that decoders work in, and layers filled with the weights of a file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import nn

from .errors import DecoderError
from .files import Stored

Precision = Callable[[torch.device], torch.dtype]
"""The fastest type that convolutions on a device are right in."""

UNFILLED = torch.device("meta")
"""Within it layers are made without weights. Else they would be filled with random numbers, drawn
from the generator that a sampler draws its noise from at the same time."""

WIDEST = 1024
"""Channels between the layers of a decoder: no more than the wide one's for LTX-2.3."""

LARGEST = 48 << 20
"""Numbers in a decoder, all weights together. None that is known has 40 million."""


def float32_everywhere(device: torch.device) -> torch.dtype:
    """The precision to choose where nothing is known of the device."""
    return torch.float32


def shape_of(stored: Mapping[str, Stored], name: str) -> tuple[int, int, int, int]:
    """The shape of the convolution `name`, whose channels are of a decoder's number.

    Raises DecoderError, whose message is to follow a file's name.
    """
    weight = stored.get(name)
    if weight is None:
        raise DecoderError(f"it has no {name}")
    if len(weight.shape) != 4 or not all(0 < length <= WIDEST * 8 for length in weight.shape):
        raise DecoderError(f"its {name} is {list(weight.shape)}")
    out, channels, height, width = weight.shape
    return out, channels, height, width


def fill(layers: nn.Module, stored: Mapping[str, Stored], dtype: torch.dtype) -> None:
    """Give `layers`, made within `UNFILLED`, the weights of those names, on the CPU in `dtype`.

    Names and shapes are compared before anything is read. Raises DecoderError, whose message is
    to follow a file's name.
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
    # One at a time: of what is read in another type only one is there.
    filled = {name: stored[name].read().to(dtype) for name in expected}
    layers.load_state_dict(filled, assign=True)
    layers.requires_grad_(False).train(False)
    # Made ready on the CPU: what moves to a device is all that it sees of loading.
    layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
