"""The model's own VAE: the true picture, for as much work and memory as that takes.

A VAE that ComfyUI loaded is copied once, decoder only, to the CPU (`VaeCopy`), and from there to
each device that previews. It decodes in tiles no larger than the memory that is free at that
moment, so that the sampler beside it never runs short.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .errors import DecoderError
from .weights import Precision

MB = 1 << 20
RESERVE = 1024 * MB
"""Bytes of the device that are left to the sampler."""

# Tiles, in latent pixels.
SMALLEST = 32
STEP = 8
WHERE_UNKNOWN = 64  # on devices that do not tell their free memory
SHARED = 16  # by neighbours, at the least: 8 to each side of the seam
UNUSED = 4  # at a tile's edge, where convolutions miss what lies beyond
RAMP = SHARED - 2 * UNUSED  # over which one tile fades into the next

SHRINKABLE = (8, 4, 2, 1)
"""How far a tile may be averaged down as soon as it is decoded."""

TensorFunction = Callable[[torch.Tensor], torch.Tensor]

_numbers = itertools.count(1)


class NotEnoughMemory(DecoderError):
    """The device has too little free memory for a VAE now."""

    lasting = False

    def __init__(self, what: str, wanted: float, room: float) -> None:
        super().__init__(
            f"{what} needs {wanted / MB:.0f} MB, {max(0, room) / MB:.0f} MB are free"
            f" beside the {RESERVE // MB} MB that are left to the sampler"
        )


class Memory(NamedTuple):
    """The memory of a device at a moment."""

    free: int
    """Bytes that the driver has free."""

    kept: int
    """Bytes that torch holds, in use or not."""

    returns: int
    """How often torch has given memory back to the driver."""


def memory_of(device: torch.device) -> Memory | None:
    """What the driver and torch say; None where they do not."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    returns = torch.cuda.memory_stats(device).get("num_device_free", 0)
    return Memory(free, torch.cuda.memory_reserved(device), returns)


# --- the copy -----------------------------------------------------------------------------------


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

    precision: Precision
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
        return copy_of(model).eval()


# --- tiles --------------------------------------------------------------------------------------


def places(length: int, side: int) -> list[slice]:
    """Where tiles of `side` lie along an axis of `length`: evenly, sharing at least `SHARED`."""
    if side >= length:
        return [slice(0, length)]
    gaps = math.ceil((length - side) / (side - SHARED))
    starts = [i * (length - side) // gaps for i in range(gaps + 1)]
    return [slice(start, start + side) for start in starts]


def feathers(
    tiles: list[slice], length: int, pixels: int, device: torch.device
) -> list[torch.Tensor]:
    """For each tile along an axis, the weights of its decoded pixels. They sum to 1 everywhere.

    `pixels` are decoded for each latent pixel.
    """
    total = torch.zeros(length * pixels, device=device)
    made = []
    for tile in tiles:
        side = tile.stop - tile.start
        at = (torch.arange(side * pixels, device=device) + 0.5) / pixels
        weight = torch.ones_like(at)
        if tile.start > 0:
            weight *= ((at - UNUSED) / RAMP).clamp(0, 1)
        if tile.stop < length:
            weight *= ((side - at - UNUSED) / RAMP).clamp(0, 1)
        total[tile.start * pixels : tile.stop * pixels] += weight
        made.append(weight)
    return [
        weight / total[tile.start * pixels : tile.stop * pixels]
        for tile, weight in zip(tiles, made, strict=True)
    ]


class NothingRandom(TorchDispatchMode):
    """Refuses to draw from torch's generators: what they give next is the sampler's."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if draws(func, args) and kwargs.get("generator") is None:
            raise DecoderError(f"this VAE draws random numbers to decode, by {func.name()}")
        return func(*args, **kwargs)


def draws(func: Any, args: Any) -> bool:
    """Whether an operation takes random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    name = func.name()
    if name.startswith(("aten::dropout", "aten::native_dropout")):
        _, _, training = args
        return bool(training)
    # Attention is marked for its dropout, which decoding has none of.
    return "attention" not in name and "sdp" not in name


class Vae:
    """A VAE's decoder on its device."""

    light = False

    def __init__(
        self, source: VaeCopy, process_out: TensorFunction, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.scale = source.scale
        self._source = source
        self._process_out = process_out
        self._device = device
        self._dtype = dtype
        model: Any = copied(source.model, device, dtype)
        self._decode: TensorFunction = model.decode
        self._is_proven = False
        self._taken = 0.0
        self._when_taken: Memory | None = None

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w], or of the first frame of [1, C, T, h, w].

        Raises NotEnoughMemory.
        """
        latent = self._as_decoded(latent)
        height, width = latent.shape[-2:]
        side = self._side(height, width)
        shrink = self._shrink(max(height, width), min_side)
        pixels = self.scale // shrink
        rows, columns = places(height, side), places(width, side)
        down = feathers(rows, height, pixels, latent.device)
        across = feathers(columns, width, pixels, latent.device)
        picture = torch.zeros(3, height * pixels, width * pixels, device=latent.device)
        for row, y in zip(rows, down, strict=True):
            for column, x in zip(columns, across, strict=True):
                tile = F.avg_pool2d(self._decoded(latent[..., row, column]), shrink)
                below = slice(row.start * pixels, row.stop * pixels)
                beside = slice(column.start * pixels, column.stop * pixels)
                picture[:, below, beside] += tile * y[:, None] * x
        self._when_taken = memory_of(self._device)
        return picture

    def _as_decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """The first frame of a sampler's latent, as the VAE takes it, in its type."""
        if latent.ndim == 5:
            latent = latent[:, :, :1]
        latent = self._process_out(latent.float())
        if latent.ndim == 5 and self._source.latent_dimensions == 2:
            latent = latent[:, :, 0]
        elif latent.ndim == 4 and self._source.latent_dimensions == 3:
            latent = latent[:, :, None]
        if latent.shape[1] != self._source.channels:
            raise DecoderError(
                f"this VAE takes latents of {self._source.channels} channels,"
                f" this model's have {latent.shape[1]}"
            )
        return latent.to(self._dtype)

    def _decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """One tile, whole: float32 [3, H, W]."""
        with nullcontext() if self._is_proven else NothingRandom():  # type: ignore[no-untyped-call]
            decoded = self._decode(latent)
        # Some VAEs leave their result on the CPU, some give views of what they keep.
        rgb = self._source.process_output(decoded.to(self._device, torch.float32, copy=True))[0]
        if rgb.ndim == 4:
            rgb = rgb[:, 0]
        height, width = (self.scale * length for length in latent.shape[-2:])
        if rgb.ndim != 3 or rgb.shape[0] < 3 or rgb.shape[1:] != (height, width):
            raise DecoderError(
                f"this VAE makes {tuple(decoded.shape)} of a latent {tuple(latent.shape)},"
                f" which is no picture of {width}x{height} pixels"
            )
        self._is_proven = True
        return rgb[:3]

    def _shrink(self, longer: int, min_side: int) -> int:
        """How far the pixels of a latent of `longer` may be averaged down."""
        pixels = longer * self.scale
        return next(
            by
            for by in SHRINKABLE
            if by == 1 or (self.scale % by == 0 and pixels // by >= min_side)
        )

    def _side(self, height: int, width: int) -> int:
        """The side of the largest tiles, for a latent of this size, that memory suffices for."""
        memory = memory_of(self._device)
        if memory is None:
            return WHERE_UNKNOWN
        room = max(memory.free - RESERVE, self._still_ours(memory))
        wanted = {
            side: self._working_memory(min(side, height), min(side, width))
            for side in range(SMALLEST, max(height, width, SMALLEST) + STEP, STEP)
        }
        fitting = [side for side, taken in wanted.items() if taken <= room]
        if not fitting:
            raise NotEnoughMemory("the smallest tile of the VAE", wanted[SMALLEST], room)
        self._taken = max(self._taken, wanted[fitting[-1]])
        return fitting[-1]

    def _still_ours(self, now: Memory) -> float:
        """Bytes that decoding took before and torch keeps for it, so that they are not free."""
        then = self._when_taken
        if then is None or now.returns != then.returns or now.kept < then.kept:
            self._taken = 0.0
        return self._taken

    def _working_memory(self, height: int, width: int) -> float:
        """Bytes that decoding a latent of this size takes."""
        return self._source.numbers_held * height * width * self._dtype.itemsize


@dataclass(frozen=True)
class VaeSource:
    """A copied VAE, for a model's latents."""

    copy: VaeCopy
    process_out: TensorFunction = field(compare=False)
    """From the sampler's latents, float32 [1, C, h, w] or [1, C, T, h, w], to the VAE's."""

    space: str = ""
    """What `process_out` belongs to: equal for equal ones."""

    name: str = "vae"

    @property
    def key(self) -> Hashable:
        return (self.copy.name, self.copy.number, self.space)

    def dtype(self, device: torch.device) -> torch.dtype:
        return self.copy.precision(device)

    def load(self, device: torch.device) -> Vae:
        """Copy the weights to `device`. Raises NotEnoughMemory."""
        dtype = self.dtype(device)
        memory, wanted = memory_of(device), self.copy.size(dtype)
        if memory is not None and wanted > memory.free - RESERVE:
            raise NotEnoughMemory("the VAE", wanted, memory.free - RESERVE)
        return Vae(self.copy, self.process_out, device, dtype)
