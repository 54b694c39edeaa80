"""The decoder of a VAE that ComfyUI loaded, copied so that it decodes beside the sampler."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

SMALLEST = 32
"""The side of the smallest tile that is decoded, in latent pixels."""

TensorFunction = Callable[[torch.Tensor], torch.Tensor]

_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class VaeCopy:
    """A VAE's decoder on the CPU, which shares no weights with the VAE."""

    model: nn.Module
    """Its method `decode` takes [1, C, h, w] to [1, 3 or more, H, W]; with T before h and H where
    `latent_dimensions` is 3."""

    process_output: TensorFunction
    """From what `decode` gives, in float32, to RGB of 0 to 1. May change its argument."""

    channels: int
    """Of the latents that it takes."""

    scale: int
    """Pixels for each latent pixel."""

    latent_dimensions: int
    """2, or 3 with time."""

    precision: Callable[[torch.device], torch.dtype]
    """The fastest type that it is right in, on a device."""

    numbers_held: float
    """How many numbers decoding holds at a time, for each latent pixel."""

    name: str = "VAE"
    number: int = field(default_factory=lambda: next(_numbers))
    """No other copy has it, nor will have."""

    def size(self, dtype: torch.dtype) -> int:
        """Bytes of its weights in `dtype`."""
        return sum(weight.numel() for weight in weights(self.model)) * dtype.itemsize


def weights(model: nn.Module) -> Iterable[torch.Tensor]:
    """All parameters and buffers."""
    return itertools.chain(model.parameters(), model.buffers())


def copied(
    model: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    leave_out: Callable[[str], bool] = lambda name: False,
) -> nn.Module:
    """A copy of `model` on `device` in `dtype`, not to be trained.

    Module by module, so that no weight is ever there in another type or on another device than
    these, and what else hangs on a module (a host's bookkeeping) is shared, not copied. Children
    whose names `leave_out` are missing in the copy.
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

    # As ordinary tensors, also where ComfyUI calls in inference mode: what is made there is of
    # no use elsewhere.
    with torch.inference_mode(False), torch.no_grad():
        return copy_of(model).train(False)
