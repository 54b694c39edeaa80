"""The work that a backend does on a staged latent: decode, shrink, and round it to a picture."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..decoders.picture import (
    contained,
    greyed,
    near_square,
    shrunk,
    tiled,
    to_uint8,
    without_nans,
    without_non_finite,
)
from ..decoders.protocols import Chart, Decoder, DecoderError, DirectDecoder, VideoDecoder

EVERYTHING = 1 << 30  # more pixels than any picture has


@dataclass(frozen=True)
class RenderJob:
    """The work from a staged latent to a preview picture, as a backend's `Job`.

    The picture's longer side is at most `max_size`; if a decoder gives fewer pixels, the picture is
    enlarged when it is encoded. With `full`, the decoder gives all its pixels before the picture is
    shrunk; otherwise, only as many as are shown. Of a batch, the first `images` are shown side by
    side.
    """

    decoder: Decoder
    max_size: int
    full: bool = False
    images: int = 1

    @property
    def kind(self) -> object:
        """Equal for jobs that do the same work. It does not keep their decoder in memory."""
        return weakref.ref(self.decoder), self.max_size, self.full, self.images

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The picture, uint8 [H, W, 3], and the number of unknown positions or pixels."""
        shown = latent[: self.images]
        width, height = cell_size(self.decoder, shown.shape, self.max_size)
        min_side = EVERYTHING if self.full else max(width, height)
        if len(shown) == 1 and isinstance(self.decoder, DirectDecoder):
            made = self.decoder.to_picture(shown, min_side, width, height)
            if made is not None:
                return made
        whole, non_finite = without_non_finite(shown)
        cells = []
        unknown = non_finite.sum()
        for i in range(len(whole)):
            rgb, nans = without_nans(checked(self.decoder(whole[i : i + 1], min_side), (3,)))
            grey = on_picture(self.decoder, non_finite[i])
            cells.append(shrunk(greyed(rgb, grey), width, height))
            unknown = unknown + nans
        return to_uint8(tiled(cells)), unknown


class StreamingRenderJob:
    """The work from the next frame of a video latent to pictures, as a backend's `Job`.

    Each call continues where the last one ended, so jobs are compared by identity.
    """

    def __init__(self, decoder: VideoDecoder, max_size: int, full: bool) -> None:
        self._decoder = decoder
        self._max_size = max_size
        self._full = full
        self._streaming = decoder.streaming()

    @property
    def kind(self) -> object:
        """As `RenderJob.kind`."""
        return weakref.ref(self)

    def rewind(self) -> None:
        """The next call is for a first frame."""
        self._streaming.rewind()

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The pictures of a frame [1, C, 1, h, w], uint8 [n, H, W, 3]; otherwise as `RenderJob`."""
        decoder = self._decoder
        whole, non_finite = without_non_finite(latent)
        width, height = cell_size(decoder, whole.shape, self._max_size)
        rgb = self._streaming(whole, EVERYTHING if self._full else max(width, height))
        rgb, nans = without_nans(checked(rgb, (decoder.frames_each, 3)))
        rgb = greyed(rgb, on_picture(decoder, non_finite[0]))
        return to_uint8(shrunk(rgb, width, height)), non_finite.sum() + nans


def checked(rgb: torch.Tensor, channels: tuple[int, ...]) -> torch.Tensor:
    """What a decoder gave, [*channels, H, W]. Raises DecoderError if it is anything else."""
    if rgb.shape[:-2] != channels or not rgb.is_floating_point():
        shape = ", ".join(map(str, channels))
        raise DecoderError(
            f"the decoder returned {list(rgb.shape)} of {rgb.dtype}, not [{shape}, H, W] of floats"
        )
    return rgb


def on_picture(decoder: Decoder, positions: torch.Tensor) -> torch.Tensor:
    """Where `positions` of a latent, bool [h, w], [T, h, w] or [T], are in its picture.

    Returns [h, w], of the first frame for a video; for a chart, one row of columns [1, T].
    """
    if isinstance(decoder, Chart):
        return positions.reshape(-1, positions.shape[-1]).any(dim=0, keepdim=True)
    return positions[0] if positions.ndim == 3 else positions


def full_size(decoder: Decoder, shape: Sequence[int]) -> tuple[int, int]:
    """Width and height of the final picture of each latent in a batch of `shape` [n, C, ...]."""
    if isinstance(decoder, Chart):
        return decoder.size(shape)
    return shape[-1] * decoder.scale, shape[-2] * decoder.scale


def cell_size(decoder: Decoder, shape: Sequence[int], max_size: int) -> tuple[int, int]:
    """Width and height of each picture if all latents of a batch of `shape` are shown together."""
    columns, rows = near_square(shape[0])
    width, height = full_size(decoder, shape)
    cell_width, cell_height = contained(columns * width, rows * height, max_size)
    return max(1, cell_width // columns), max(1, cell_height // rows)


def shown_size(decoder: Decoder, shape: Sequence[int], max_size: int) -> tuple[int, int]:
    """Width and height of the preview of all latents of a batch of `shape` [n, C, ...]."""
    columns, rows = near_square(shape[0])
    width, height = cell_size(decoder, shape, max_size)
    return columns * width, rows * height
