"""What a decoder and its source are to the others.

A `Source` says where a decoder comes from without loading it; a `Decoder` is loaded and turns a
staged latent into RGB.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

if TYPE_CHECKING:
    import torch

T = TypeVar("T", covariant=True)


class Decoder(Protocol):
    """A loaded decoder on its device."""

    @property
    def scale(self) -> int:
        """Pixels of the final picture for each latent pixel."""

    @property
    def light(self) -> bool:
        """Whether its weights may stay on the device while nothing samples."""

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB of one staged latent [1, C, h, w], or of the first frame of [1, C, T, h, w].

        [3, H, W] on the same device, 0 to 1, maybe beyond. H and W are those of the final picture
        or, where that saves work, smaller; but not with a longer side below `min_side` pixels if
        the decoder can give as many.
        """


class Chart(ABC):
    """What decoders of latents that are no pictures, of [1, C, T] or [1, C, h, T], derive from.

    Their pictures have a size of their own; only across do they show a latent's positions.
    """

    @abstractmethod
    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Width and height of the final picture of each of latents with `shape` [n, C, ...]."""


class StreamingVideoDecoder(Protocol):
    """Decodes the frames of one video latent, in their order, a few at a time.

    It keeps what a frame needs of those before it, in memory that it takes at its first call.
    """

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [n, 3, H, W] of the next latent frame [1, C, 1, h, w], else as `Decoder`.

        n is the same for every call: the decoder's `frames_each`.
        """

    def rewind(self) -> None:
        """Forget the frames before: the next call is for a first frame. In the order of calls."""


@runtime_checkable
class DirectDecoder(Decoder, Protocol):
    """A decoder that can also do all of the work up to the picture by itself."""

    def to_picture(
        self, latent: torch.Tensor, min_side: int, width: int, height: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What `job.RenderJob` makes of one latent; None where it cannot now."""


@runtime_checkable
class VideoDecoder(Decoder, Protocol):
    """A decoder that also gives every frame of a video latent [1, C, T, h, w]."""

    @property
    def frames_each(self) -> int:
        """Pictures that come of one latent frame."""

    def visible_frames(self, index: int) -> range:
        """Which of the pictures of latent frame `index` (from 0) are frames of the video."""

    def streaming(self) -> StreamingVideoDecoder:
        """A new one, with nothing before its first frame."""


class Loads(Protocol[T]):
    """Where what is loaded onto a device comes from: decoders of pictures, and of sound."""

    @property
    def name(self) -> str: ...
    @property
    def key(self) -> Hashable: ...
    def dtype(self, device: torch.device) -> torch.dtype: ...
    def load(self, device: torch.device) -> T: ...


class Source(Loads[Decoder], Protocol):
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
