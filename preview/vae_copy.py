"""Decoders of VAEs that ComfyUI loaded, copied so that they can decode beside the sampler."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

SMALLEST = 32
"""The side of the smallest tile that is decoded, in latent pixels."""

TensorFunction = Callable[[torch.Tensor], torch.Tensor]

_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Copy:
    """A VAE's decoder on the CPU, which shares no weights with the VAE."""

    model: nn.Module
    """Has a method `decode`."""

    channels: int
    """Those of its latents, [1, channels, ...]."""

    precision: Callable[[torch.device], torch.dtype]
    """The fastest dtype in which it is accurate, on a device."""

    name: str = "VAE"
    number: int = field(default_factory=lambda: next(_numbers))
    """Unique in this process."""

    def size(self, dtype: torch.dtype) -> int:
        """Bytes of its weights in `dtype`."""
        return sum(weight.numel() for weight in weights(self.model)) * dtype.itemsize


@dataclass(frozen=True, eq=False, kw_only=True)
class VaeCopy(Copy):
    """A decoder of pictures: `model.decode` takes [1, C, h, w] to [1, 3 or more, H, W].

    With T before h and H if `latent_dimensions` is 3.
    """

    process_output: TensorFunction
    """Takes what `decode` gives, as float32, to RGB from 0 to 1. May modify its argument."""

    scale: int
    """Pixels per latent pixel."""

    latent_dimensions: int
    """2, or 3 with time."""

    numbers_held: float
    """How many numbers decoding holds at a time, per latent pixel."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SoundCopy(Copy):
    """A decoder of sound: `model.decode` takes a latent to a waveform [1, channels, samples].

    The samples are from -1 to 1.
    """

    rate: int
    """Samples per second."""

    hop: int
    """Samples per position of a latent."""

    lead: int
    """How many samples fewer the first position has."""

    reach: tuple[int, int]
    """How many positions before and after a position influence its samples."""

    grain: int
    """A part of a latent may begin at multiples of this."""

    axis: int
    """The latents' dimension of time, counted from the last."""

    levelled: bool
    """Whether ComfyUI's node for decoding it makes loud sounds quieter."""

    memory: Callable[[Sequence[int]], float]
    """How many numbers decoding a latent of a shape holds at a time."""


def weights(model: nn.Module) -> Iterable[torch.Tensor]:
    """All parameters and buffers."""
    return itertools.chain(model.parameters(), model.buffers())


def copied(
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    leave_out: Callable[[str], bool] = lambda name: False,
) -> nn.Module:
    """A copy of `model` on `device` in `dtype`, for inference only.

    It is made module by module, so that no weight is ever held in another dtype or on another
    device, and a module's other attributes (a host's bookkeeping) are shared, not copied. Children
    whose names `leave_out` accepts are left out.
    """
    done: dict[int, nn.Module] = {}

    def moved(weight: torch.Tensor) -> torch.Tensor:
        to = dtype if weight.is_floating_point() else weight.dtype
        return weight.detach().to(device, to, copy=True)

    def copy_of(module: nn.Module) -> nn.Module:
        if id(module) not in done:
            twin = done[id(module)] = module.__new__(type(module))
            twin.__dict__ = {
                name: copy.copy(value) if isinstance(value, (dict, list, set)) else value
                for name, value in vars(module).items()
            }
            for name, weight in module._parameters.items():
                if weight is not None:
                    twin._parameters[name] = nn.Parameter(moved(weight), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    twin._buffers[name] = moved(buffer)
            for name, child in module._modules.items():
                if child is not None:
                    twin._modules[name] = None if leave_out(name) else copy_of(child)
        return done[id(module)]

    # As ordinary tensors, even if ComfyUI calls in inference mode: tensors made in that mode cannot
    # be used outside it.
    with torch.inference_mode(False), torch.no_grad():
        return copy_of(model).train(False)
