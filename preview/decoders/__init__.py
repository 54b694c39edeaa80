"""From latents to pictures: sources of decoders, a cache of loaded ones, a ladder for each run.

A `Source` says where a decoder comes from without loading it; a `Decoder` is loaded and turns a
staged latent into RGB. To add a family, write a module with both beside this one and name it in
`sources.py`.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from .picture import (
    contained,
    greyed,
    near_square,
    shrunk,
    tiled,
    to_uint8,
    without_holes,
    without_nans,
)

log = logging.getLogger(__name__)

EVERYTHING = 1 << 30  # more pixels than any picture has


class DecoderError(Exception):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it."""

    lasting = True
    """Whether it would fail again."""


def in_a_line(error: BaseException) -> str:
    """What went wrong, for a line of the log."""
    if isinstance(error, DecoderError):
        return str(error)
    said = str(error).splitlines()  # CUDA's errors go on with advice to programmers
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


class Decoder(Protocol):
    """A loaded decoder on its device."""

    @property
    def scale(self) -> int:
        """Pixels of the final picture for each latent pixel."""

    @property
    def recordable(self) -> bool:
        """Whether it does the same for all latents of one shape, so that this may be recorded."""

    @property
    def light(self) -> bool:
        """Whether its weights may stay on the device while nothing samples."""

    def __call__(self, latent: torch.Tensor, enough: int) -> torch.Tensor:
        """RGB of one staged latent [1, C, h, w], or of the first frame of [1, C, T, h, w].

        [3, H, W] on the same device, 0 to 1, maybe beyond. H and W are those of the final picture
        or, where that saves work, smaller; but not with a longer side below `enough` pixels if
        the decoder can give as many.
        """


@runtime_checkable
class Chart(Decoder, Protocol):
    """A decoder of latents that are no pictures, of [1, C, T] or [1, C, h, T].

    Its pictures have a size of their own; only across do they show the latent's positions.
    """

    def size(self, latents: torch.Tensor) -> tuple[int, int]:
        """Width and height of the final picture of each of `latents` [n, C, ...]."""


class Reel(Protocol):
    """Decodes the frames of one video latent, in their order, a few at a time.

    It keeps what a frame needs of those before it, in memory that stays where it is from its
    first call on: a call can be recorded as a graph.
    """

    def __call__(self, latent: torch.Tensor, enough: int) -> torch.Tensor:
        """RGB [n, 3, H, W] of the next latent frame [1, C, 1, h, w], else as `Decoder`.

        n is the same for every call: the decoder's `frames_each`.
        """

    def rewind(self) -> None:
        """Forget the frames before: the next call is for a first frame. In the order of calls."""


@runtime_checkable
class VideoDecoder(Decoder, Protocol):
    """A decoder that also gives every frame of a video latent [1, C, T, h, w]."""

    @property
    def frames_each(self) -> int:
        """Pictures that come of one latent frame."""

    def kept(self, index: int) -> range:
        """Which of the pictures of latent frame `index` (from 0) are frames of the video."""

    def reel(self) -> Reel:
        """A new one, with nothing before its first frame."""


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
    is shrunk; otherwise no more than is shown. Of a batch the first `images` are shown, side by
    side.
    """

    decoder: Decoder
    max_size: int
    full: bool = False
    images: int = 1
    lasting = True

    @property
    def recordable(self) -> bool:
        return self.decoder.recordable

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture, uint8 [H, W, 3], and of how many positions or pixels nothing is known."""
        whole, holes = without_holes(latent[: self.images])
        width, height = cell_size(self.decoder, whole, self.max_size)
        enough = EVERYTHING if self.full else max(width, height)
        cells = []
        unknown = holes.sum()
        for i in range(len(whole)):
            rgb, nans = without_nans(checked(self.decoder(whole[i : i + 1], enough), (3,)))
            cells.append(shrunk(greyed(rgb, on_picture(self.decoder, holes[i])), width, height))
            unknown = unknown + nans
        return to_uint8(tiled(cells)), unknown


class ReelPainting:
    """The work from the next frame of a video latent to pictures, as `lane.Painter`.

    It goes on where its last call ended, so it is itself and equals no other.
    """

    recordable = True
    lasting = False

    def __init__(self, decoder: VideoDecoder, max_size: int, full: bool) -> None:
        self._decoder = decoder
        self._max_size = max_size
        self._full = full
        self._reel = decoder.reel()

    def rewind(self) -> None:
        """The next call is for a first frame."""
        self._reel.rewind()

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a frame [1, C, 1, h, w] pictures, uint8 [n, H, W, 3], else as `Painting`."""
        decoder = self._decoder
        whole, holes = without_holes(latent)
        width, height = cell_size(decoder, whole, self._max_size)
        rgb = self._reel(whole, EVERYTHING if self._full else max(width, height))
        rgb, nans = without_nans(checked(rgb, (decoder.frames_each, 3)))
        rgb = greyed(rgb, on_picture(decoder, holes[0]))
        return to_uint8(shrunk(rgb, width, height)), holes.sum() + nans


def checked(rgb: torch.Tensor, channels: tuple[int, ...]) -> torch.Tensor:
    """What a decoder gave, [*channels, H, W]. Raises DecoderError where it is anything else."""
    if rgb.shape[:-2] != channels or not rgb.is_floating_point():
        shape = ", ".join(map(str, channels))
        raise DecoderError(
            f"the decoder gave {list(rgb.shape)} of {rgb.dtype}, not [{shape}, H, W] of floats"
        )
    return rgb


def on_picture(decoder: Decoder, positions: torch.Tensor) -> torch.Tensor:
    """Where `positions` of a latent, bool [h, w], [T, h, w] or [T], are in its picture.

    [h, w], of a video the first frame's; of a chart one row of columns [1, T].
    """
    if isinstance(decoder, Chart):
        return positions.reshape(-1, positions.shape[-1]).any(dim=0, keepdim=True)
    return positions[0] if positions.ndim == 3 else positions


def full_size(decoder: Decoder, latents: torch.Tensor) -> tuple[int, int]:
    """Width and height of the final picture of each of `latents` [n, C, ...]."""
    if isinstance(decoder, Chart):
        return decoder.size(latents)
    return latents.shape[-1] * decoder.scale, latents.shape[-2] * decoder.scale


def cell_size(decoder: Decoder, latents: torch.Tensor, max_size: int) -> tuple[int, int]:
    """Width and height of each picture where all of `latents` [n, C, ...] are shown together."""
    columns, rows = near_square(len(latents))
    width, height = full_size(decoder, latents)
    cell_width, cell_height = contained(columns * width, rows * height, max_size)
    return max(1, cell_width // columns), max(1, cell_height // rows)


def shown_size(decoder: Decoder, latents: torch.Tensor, max_size: int) -> tuple[int, int]:
    """Width and height of the preview of all of `latents` [n, C, ...]."""
    columns, rows = near_square(len(latents))
    width, height = cell_size(decoder, latents, max_size)
    return columns * width, rows * height


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
            if error.lasting:
                self._broken[source.key] = str(error)
            raise
        with self._lock:
            self._loaded[key] = decoder
            while len(self._loaded) > self.LIMIT:
                self._loaded.popitem(last=False)
        return decoder

    def release(self, device: torch.device) -> None:
        """Forget the decoders on `device` whose weights are too large to lie there unused."""
        with self._lock:
            for key, decoder in list(self._loaded.items()):
                if key[1] == device and not decoder.light:  # type: ignore[index]
                    del self._loaded[key]

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
        log.warning(
            "[SideStream] %s previews failed (%s); this run goes on with %s.",
            source.name,
            in_a_line(error),
            f"{after.name} previews" if after else "no previews",
        )
