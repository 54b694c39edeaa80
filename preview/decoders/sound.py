"""Latents to sound, a part at a time, by a copy of the model's own VAE.

A part is decoded with so much of the latent on both sides as has a share in it, so parts put one
behind the other are what the whole would have been. (Nearly so where a decoder attends to all of
what it is given.)
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from ..sound_copy import SoundCopy
from ..vae_copy import TensorFunction, copied
from .errors import DecoderError
from .vae import RESERVE, NotEnoughMemory, NothingRandom, memory_of

LONGEST = 10.0
"""Seconds of a sound that are decoded, from its beginning."""

PART = 3.0
"""Seconds of it that are decoded at a time, about."""


class SoundDecoder:
    """A decoder of sound on its device."""

    light = False

    def __init__(
        self, source: SoundCopy, process_out: TensorFunction, device: torch.device
    ) -> None:
        self.rate = source.rate
        self._source = source
        self._process_out = process_out
        self._device = device
        self._dtype = source.precision(device)
        self._decode: TensorFunction = copied(source.model, device, self._dtype).decode  # type: ignore[assignment]
        self._is_proven = False

    def length(self, latent: torch.Tensor) -> int:
        """How many positions in time a latent has."""
        return latent.shape[self._source.axis]

    def seconds(self, latent: torch.Tensor) -> float:
        """How long all of a latent sounds."""
        source = self._source
        return (self.length(latent) * source.hop - source.lead) / source.rate

    def parts(self, latent: torch.Tensor) -> list[slice]:
        """The positions of `latent` that are decoded, in parts of at least one."""
        source = self._source
        each = max(1, round(PART * source.rate / source.hop / source.grain)) * source.grain
        end = min(self.length(latent), math.ceil(LONGEST * source.rate / source.hop))
        return [slice(start, min(start + each, end)) for start in range(0, end, each)]

    def __call__(self, latent: torch.Tensor, part: slice) -> torch.Tensor:
        """The samples of a part of a latent [1, C, ...]: float32 [channels, n], about -1 to 1.

        Raises DecoderError.
        """
        source = self._source
        before, behind = source.reach
        first = max(0, (part.start - before) // source.grain * source.grain)
        last = min(self.length(latent), part.stop + behind)
        given = latent.narrow(source.axis, first, last - first)
        given = self._process_out(given.float())
        if given.shape[1] != source.channels:
            raise DecoderError(
                f"this VAE decodes sound from {source.channels} channels, this model's latents have"
                f" {given.shape[1]}"
            )
        self._check_memory(given)
        with nullcontext() if self._is_proven else NothingRandom():  # type: ignore[no-untyped-call]
            decoded = self._decode(given.to(self._dtype))
        wanted = (last - first) * source.hop - source.lead
        if decoded.ndim != 3 or decoded.shape[1] > 2 or decoded.shape[2] < wanted:
            raise DecoderError(
                f"this VAE decodes a latent {tuple(given.shape)} to {tuple(decoded.shape)},"
                f" which is not a sound of {wanted} samples"
            )
        self._is_proven = True
        start, stop = ((place - first) * source.hop for place in (part.start, part.stop))
        return decoded[0, :, start:stop].float()

    def _check_memory(self, latent: torch.Tensor) -> None:
        """Raises NotEnoughMemory."""
        memory = memory_of(self._device)
        if memory is None:
            return
        wanted = self._source.memory(latent.shape) * self._dtype.itemsize
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        room = memory.free - RESERVE + kept
        if wanted > room:
            raise NotEnoughMemory("a part of the sound", wanted, room)


@dataclass(frozen=True)
class SoundSource:
    """A copied VAE for sound, for a model's latents."""

    copy: SoundCopy
    process_out: TensorFunction = field(compare=False)
    """From the sampler's latents, float32 [1, C, ...], to the VAE's."""

    space: str = ""
    """What `process_out` belongs to: equal for equal ones."""

    name: str = "sound"

    @property
    def key(self) -> Hashable:
        return (self.copy.name, self.copy.number, self.space)

    def dtype(self, device: torch.device) -> torch.dtype:
        """That of staged latents: a sound is not decoded in less than its VAE's precision."""
        return torch.float32

    def load(self, device: torch.device) -> SoundDecoder:
        """Copy the weights to `device`. Raises NotEnoughMemory."""
        dtype = self.copy.precision(device)
        memory, wanted = memory_of(device), self.copy.size(dtype)
        if memory is not None and wanted > memory.free - RESERVE:
            raise NotEnoughMemory("the VAE for sound", wanted, memory.free - RESERVE)
        return SoundDecoder(self.copy, self.process_out, device)
