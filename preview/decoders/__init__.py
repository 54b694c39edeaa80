"""From latents to pictures: sources of decoders, a cache of loaded ones, a ladder for each run.

A `Source` says where a decoder comes from without loading it; a `Decoder` is loaded and turns a
staged latent into RGB. To add a family, write a module with both beside this one and name it in
`provider.py`.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .picture import contained, shrunk, to_uint8

log = logging.getLogger(__name__)

EVERYTHING = 1 << 30  # more pixels than any picture has


class DecoderError(Exception):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it."""


class Decoder(Protocol):
    """A loaded decoder on its device."""

    scale: int
    """Pixels of the final picture for each latent pixel."""

    def __call__(self, latent: torch.Tensor, enough: int) -> torch.Tensor:
        """RGB of the staged latent: [3, H, W] on the same device, 0 to 1, maybe beyond.

        H and W are those of the final picture or, where that saves work, smaller; but not with
        a longer side below `enough` pixels if the decoder can give as many.
        """


class Source(Protocol):
    """Where a decoder comes from."""

    @property
    def name(self) -> str:
        """The method that it serves."""

    @property
    def key(self) -> Hashable:
        """Equal for sources that load the same decoder."""

    def dtype(self, device: torch.device) -> torch.dtype:
        """The type in which the decoder works, and latents are staged, on `device`."""

    def load(self, device: torch.device) -> Decoder:
        """Load it. Raises DecoderError."""


@dataclass(frozen=True)
class Painting:
    """The work from a staged latent to a preview picture, as `lane.Painter`.

    The picture's longer side is at most `max_size`; a decoder of few pixels gives a small one,
    which is enlarged when it is encoded. `full` decodes all that the decoder can give before it
    is shrunk; otherwise no more than is shown.
    """

    decoder: Decoder
    max_size: int
    full: bool = False

    def __call__(self, latent: torch.Tensor) -> torch.Tensor:
        """The picture of the first of the batch `latent`: uint8 [H, W, 3] on the same device."""
        latent = latent[:1]
        width, height = shown_size(self.decoder, latent, self.max_size)
        enough = EVERYTHING if self.full else max(width, height)
        return to_uint8(shrunk(self.decoder(latent, enough), width, height))


def shown_size(decoder: Decoder, latent: torch.Tensor, max_size: int) -> tuple[int, int]:
    """Width and height of the preview: those of the final picture, contained in `max_size`."""
    height, width = latent.shape[-2:]
    return contained(width * decoder.scale, height * decoder.scale, max_size)


class DecoderCache:
    """Loaded decoders by source, device and type; the least recently used leaves first."""

    LIMIT = 4

    def __init__(self) -> None:
        self._loaded: OrderedDict[Hashable, Decoder] = OrderedDict()
        self._broken: dict[Hashable, str] = {}
        self._lock = threading.Lock()

    def get(self, source: Source, device: torch.device) -> Decoder:
        """The decoder of `source` on `device`, loaded at the first call. Raises DecoderError."""
        key = (source.key, device, source.dtype(device))
        with self._lock:
            decoder = self._loaded.get(key)
            if decoder is not None:
                self._loaded.move_to_end(key)
                return decoder
        try:
            decoder = source.load(device)
        except DecoderError as error:
            self._broken[source.key] = str(error)
            raise
        with self._lock:
            self._loaded[key] = decoder
            while len(self._loaded) > self.LIMIT:
                self._loaded.popitem(last=False)
        return decoder

    def is_broken(self, source: Source) -> bool:
        """Whether this very source failed to load before; a changed file is a new source."""
        return source.key in self._broken

    def names(self) -> list[str]:
        """The loaded decoders, for people to read."""
        with self._lock:
            return [f"{key[0][0]} on {key[1]}" for key in self._loaded]  # type: ignore[index]


class Ladder:
    """The decoders of a run, best first. A rung that fails is left for the rest of the run."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)

    @property
    def current(self) -> Source | None:
        return self._sources[0] if self._sources else None

    def staging_dtype(self, device: torch.device) -> torch.dtype:
        """The type in which to stage latents for the current rung."""
        source = self.current
        return torch.float32 if source is None else source.dtype(device)

    def step_down(self, source: Source, error: Exception) -> None:
        """Leave `source`, which failed with `error`, and say so in one line."""
        if self.current is not source:
            return
        self._sources.pop(0)
        after = self.current
        reason = (
            str(error) if isinstance(error, DecoderError) else f"{type(error).__name__}: {error}"
        )
        log.warning(
            "[SideStream] %s previews failed (%s); this run goes on with %s.",
            source.name,
            reason,
            f"{after.name} previews" if after else "no previews",
        )
