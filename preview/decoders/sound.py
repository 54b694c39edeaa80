"""Latents to sound, a part at a time, by a copy of the model's own VAE.

A part is decoded together with as much of the latent on both sides as influences it, so the parts,
joined, equal the decoded whole (nearly so for decoders that attend to all of their input).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..vae_copy import SoundCopy
from .protocols import DecoderError
from .vae import RESERVE, CopiedDecoder, CopiedSource, NotEnoughMemory, memory_of

LONGEST = 10.0
"""How many seconds of a sound are decoded, from its start."""

PART = 3.0
"""About how many seconds are decoded at a time."""


class SoundDecoder(CopiedDecoder[SoundCopy]):
    """A VAE's decoder of sound on its device."""

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self._source.rate

    @property
    def levelled(self) -> bool:
        """Whether loud sounds are made quieter, as ComfyUI does with this family's."""
        return self._source.levelled

    def length(self, latent: torch.Tensor) -> int:
        """The number of a latent's positions in time."""
        return latent.shape[self._source.axis]

    def seconds(self, latent: torch.Tensor) -> float:
        """The duration of a whole latent's sound."""
        source = self._source
        return (self.length(latent) * source.hop - source.lead) / source.rate

    def parts(self, latent: torch.Tensor) -> list[slice]:
        """The positions of `latent` that are decoded, in parts of at least one position."""
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
        decoded = self._checked_decode(given.to(self._dtype))
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
class SoundSource(CopiedSource[SoundCopy]):
    """A copied VAE for sound."""

    name: str = "sound"

    def dtype(self, device: torch.device) -> torch.dtype:
        """That of staged latents, in which no sound loses precision before its VAE has it."""
        return torch.float32

    def load(self, device: torch.device) -> SoundDecoder:
        """Copy the weights to `device`. Raises NotEnoughMemory."""
        dtype = self._dtype_that_fits(device, "the VAE for sound")
        return SoundDecoder(self.copy, self.process_out, device, dtype)
