"""The model's own VAE: exact pictures, at the cost of more work and memory.

The decoder of a VAE that ComfyUI loaded is copied once to the CPU (`VaeCopy`), and from there to
each device that decodes previews. It decodes in tiles that fit into the memory that is free at that
moment, so that the sampler beside it never runs out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ..vae_copy import SMALLEST, Copy, TensorFunction, VaeCopy, copied
from .picture import on_chequerboard
from .protocols import DecoderError

MB = 1 << 20
RESERVE = 1024 * MB
"""Bytes of the device's memory that are left to the sampler."""

# Tiles, in latent pixels, of at least `SMALLEST`.
STEP = 8
WHERE_UNKNOWN = 64  # on devices that do not report their free memory
SHARED = 16  # the least overlap of neighbours: 8 on each side of the seam
UNUSED = 4  # at a tile's edge, where convolutions lack what lies beyond it
RAMP = SHARED - 2 * UNUSED  # over which one tile fades into the next

SHRINKABLE = (8, 4, 2, 1)
"""The factors by which a tile may be averaged down as soon as it is decoded."""

C = TypeVar("C", bound=Copy)


class NotEnoughMemory(DecoderError):
    """The device has too little free memory for a VAE at the moment."""

    lasting = False

    def __init__(self, what: str, wanted: float, room: float) -> None:
        super().__init__(
            f"{what} needs {wanted / MB:.0f} MB, but only {max(0, room) / MB:.0f} MB are free"
            f" besides the {RESERVE // MB} MB reserved for the sampler"
        )


def is_short_of_memory(error: Exception) -> bool:
    """Whether `error` says that a device has too little memory at the moment."""
    return isinstance(error, (NotEnoughMemory, torch.cuda.OutOfMemoryError))


class Memory(NamedTuple):
    """The state of a device's memory."""

    free: int
    """Bytes that are free according to the driver."""

    kept: int
    """Bytes that torch holds, whether in use or not."""

    returns: int
    """How often torch has given memory back to the driver."""


def memory_of(device: torch.device) -> Memory | None:
    """What the driver and torch report; None for devices without such reports."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    returns = torch.cuda.memory_stats(device).get("num_device_free", 0)
    return Memory(free, torch.cuda.memory_reserved(device), returns)


# --- what decoders of pictures and of sound share -----------------------------------------------


class NothingRandom(TorchDispatchMode):
    """Refuses to draw from torch's generators: their next numbers belong to the sampler."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if draws(func, args) and kwargs.get("generator") is None:
            raise DecoderError(f"this VAE draws random numbers while decoding, with {func.name()}")
        return func(*args, **kwargs)


def draws(func: Any, args: Any) -> bool:
    """Whether an operation draws random numbers."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    name = func.name()
    if name.startswith(("aten::dropout", "aten::native_dropout")):
        _, _, training = args
        return bool(training)
    # Attention is tagged because of its dropout, which decoding does not use.
    return "attention" not in name and "sdp" not in name


class CopiedDecoder(Generic[C]):
    """A copied VAE on its device."""

    light = False

    def __init__(
        self, source: C, process_out: TensorFunction, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._source = source
        self._process_out = process_out
        self._device = device
        self._dtype = dtype
        model: Any = copied(source.model, device, dtype)
        self._decode: TensorFunction = model.decode
        self._is_proven = False
        """Whether a latent was decoded, without drawing random numbers."""

    def _checked_decode(self, latent: torch.Tensor) -> torch.Tensor:
        """What the model makes of `latent`. Raises DecoderError if it draws random numbers."""
        with nullcontext() if self._is_proven else NothingRandom():  # type: ignore[no-untyped-call]
            return self._decode(latent)


@dataclass(frozen=True)
class CopiedSource(Generic[C]):
    """A copied VAE, for a model's latents."""

    copy: C
    process_out: TensorFunction = field(compare=False)
    """From the sampler's latents, float32 [1, C, ...], to the VAE's."""

    space: str = ""
    """Identifies `process_out`: equal for equal functions."""

    @property
    def key(self) -> Hashable:
        return (self.copy.name, self.copy.number, self.space)

    def _dtype_that_fits(self, device: torch.device, what: str) -> torch.dtype:
        """The copy's dtype on `device`. Raises NotEnoughMemory if its weights don't fit there."""
        dtype = self.copy.precision(device)
        memory, wanted = memory_of(device), self.copy.size(dtype)
        if memory is not None and wanted > memory.free - RESERVE:
            raise NotEnoughMemory(what, wanted, memory.free - RESERVE)
        return dtype


# --- tiles --------------------------------------------------------------------------------------


def places(length: int, side: int) -> list[slice]:
    """Tiles of `side` along an axis of `length`: evenly spaced, sharing `SHARED` or more."""
    if side >= length:
        return [slice(0, length)]
    gaps = math.ceil((length - side) / (side - SHARED))
    starts = [i * (length - side) // gaps for i in range(gaps + 1)]
    return [slice(start, start + side) for start in starts]


def feathers(
    tiles: list[slice], length: int, pixels: int, device: torch.device
) -> list[torch.Tensor]:
    """For each tile along an axis, the weights of its decoded pixels. They sum to 1 everywhere.

    Each latent pixel is decoded to `pixels`.
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


class Vae(CopiedDecoder[VaeCopy]):
    """A VAE's decoder of pictures on its device."""

    def __init__(
        self, source: VaeCopy, process_out: TensorFunction, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(source, process_out, device, dtype)
        self.scale = source.scale
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
        picture: torch.Tensor | None = None
        for row, y in zip(rows, down, strict=True):
            for column, x in zip(columns, across, strict=True):
                tile = F.avg_pool2d(self._decoded(latent[..., row, column]), shrink)
                if picture is None:
                    size = (height * pixels, width * pixels)
                    picture = torch.zeros(len(tile), *size, device=latent.device)
                below = slice(row.start * pixels, row.stop * pixels)
                beside = slice(column.start * pixels, column.stop * pixels)
                picture[:, below, beside] += tile * y[:, None] * x
        self._when_taken = memory_of(self._device)
        assert picture is not None  # there is at least one tile
        return on_chequerboard(picture)

    def _as_decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """The first frame of a sampler's latent, in the VAE's space, shape and dtype."""
        if latent.ndim == 5:
            latent = latent[:, :, :1]
        latent = self._process_out(latent.float())
        if latent.ndim == 5 and self._source.latent_dimensions == 2:
            latent = latent[:, :, 0]
        elif latent.ndim == 4 and self._source.latent_dimensions == 3:
            latent = latent[:, :, None]
        if latent.shape[1] != self._source.channels:
            raise DecoderError(
                f"this VAE expects latents with {self._source.channels} channels,"
                f" this model's have {latent.shape[1]}"
            )
        return latent.to(self._dtype)

    def _decoded(self, latent: torch.Tensor) -> torch.Tensor:
        """One tile, whole: float32 [3, H, W], or [4, H, W] with transparency."""
        decoded = self._checked_decode(latent)
        # Some VAEs leave their result on the CPU, some return views of what they keep.
        rgb = self._source.process_output(decoded.to(self._device, torch.float32, copy=True))[0]
        if rgb.ndim == 4:
            rgb = rgb[:, 0]
        height, width = (self.scale * length for length in latent.shape[-2:])
        if rgb.ndim != 3 or rgb.shape[0] < 3 or rgb.shape[1:] != (height, width):
            raise DecoderError(
                f"this VAE decodes a latent {tuple(latent.shape)} to {tuple(decoded.shape)},"
                f" which is not a picture of {width}x{height} pixels"
            )
        self._is_proven = True
        return rgb if len(rgb) == 4 else rgb[:3]

    def _shrink(self, longer: int, min_side: int) -> int:
        """The factor by which the pixels of a latent with that longer side may be averaged down."""
        pixels = longer * self.scale
        return next(
            by
            for by in SHRINKABLE
            if by == 1 or (self.scale % by == 0 and pixels // by >= min_side)
        )

    def _side(self, height: int, width: int) -> int:
        """The side of the largest tiles of a latent of this size for which there is memory."""
        memory = memory_of(self._device)
        if memory is None:
            return WHERE_UNKNOWN
        room = max(memory.free - RESERVE, self._still_ours(memory))
        held, size = self._source.numbers_held, self._dtype.itemsize
        wanted = {
            side: held * min(side, height) * min(side, width) * size  # bytes that decoding takes
            for side in range(SMALLEST, max(height, width, SMALLEST) + STEP, STEP)
        }
        fitting = [side for side, taken in wanted.items() if taken <= room]
        if not fitting:
            raise NotEnoughMemory("the smallest tile of the VAE", wanted[SMALLEST], room)
        self._taken = max(self._taken, wanted[fitting[-1]])
        return fitting[-1]

    def _still_ours(self, now: Memory) -> float:
        """Bytes that an earlier decode took and torch still keeps, so they don't count as free."""
        then = self._when_taken
        if then is None or now.returns != then.returns or now.kept < then.kept:
            self._taken = 0.0
        return self._taken


@dataclass(frozen=True)
class VaeSource(CopiedSource[VaeCopy]):
    """A copied VAE of pictures; its latents are [1, C, h, w] or [1, C, T, h, w]."""

    name: str = "vae"

    def dtype(self, device: torch.device) -> torch.dtype:
        return self.copy.precision(device)

    def load(self, device: torch.device) -> Vae:
        """Copy the weights to `device`. Raises NotEnoughMemory."""
        dtype = self._dtype_that_fits(device, "the VAE")
        return Vae(self.copy, self.process_out, device, dtype)
