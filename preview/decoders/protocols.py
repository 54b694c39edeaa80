"""The interfaces of decoders and their sources, and the error that they raise.

A `Source` identifies a decoder without loading it; a `Decoder` is loaded and turns a staged latent
into RGB.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

from ..plain import PlainError

if TYPE_CHECKING:
    import torch

T = TypeVar("T", covariant=True)


class DecoderError(PlainError):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it."""

    lasting = True
    """Whether loading it again would fail, too."""


class Decoder(Protocol):
    """A loaded decoder on its device."""

    @property
    def scale(self) -> int:
        """Pixels of the final picture per latent pixel."""

    @property
    def light(self) -> bool:
        """Whether its weights are small enough to stay on the device while nothing samples."""

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB of one staged latent [1, C, h, w], or of the first frame of [1, C, T, h, w].

        [3, H, W] on the same device, from 0 to 1, possibly beyond. H and W are those of the final
        picture or, if that saves work, smaller; but the longer side has at least `min_side` pixels
        if the decoder can give as many.
        """


class Chart(ABC):
    """The base of decoders for latents that are not pictures, [1, C, T] or [1, C, h, T].

    They determine their pictures' size; only the horizontal axis shows a latent's positions.
    """

    @abstractmethod
    def size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Width and height of the final picture of each latent in a batch, `shape` [n, C, ...]."""


class StreamingVideoDecoder(Protocol):
    """Decodes the frames of one video latent in order, a few at a time.

    It keeps what later frames need, in memory that it allocates at its first call.
    """

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [n, 3, H, W] of the next latent frame [1, C, 1, h, w]; otherwise as `Decoder`.

        n is the same at every call: the decoder's `frames_each`.
        """

    def rewind(self) -> None:
        """Forget earlier frames: the next call is for a first frame. Ordered like the calls."""


@runtime_checkable
class DirectDecoder(Decoder, Protocol):
    """A decoder that can also do all the work up to the picture itself."""

    def to_picture(
        self, latent: torch.Tensor, min_side: int, width: int, height: int
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What `job.RenderJob` makes of one latent; None if it cannot at the moment."""

    def rest(self) -> None:
        """Free the memory that is kept from one picture to the next."""


@runtime_checkable
class VideoDecoder(Decoder, Protocol):
    """A decoder that also gives every frame of a video latent [1, C, T, h, w]."""

    @property
    def frames_each(self) -> int:
        """Pictures made from one latent frame."""

    def visible_frames(self, index: int) -> range:
        """Which pictures of latent frame `index` (from 0) are frames of the video."""

    def streaming(self) -> StreamingVideoDecoder:
        """A new one, at the beginning of a video."""


class Loads(Protocol[T]):
    """Loads something onto a device: a decoder of pictures or of sound."""

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
        """The preview method that it implements."""

    @property
    def key(self) -> Hashable:
        """Equal for sources that load the same decoder."""

    def dtype(self, device: torch.device) -> torch.dtype:
        """The dtype in which the decoder works, and latents are staged, on `device`."""

    def load(self, device: torch.device) -> Decoder:
        """Load it. Raises DecoderError."""
