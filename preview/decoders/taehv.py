"""TAEHV, the tiny video autoencoder (madebyollin/taehv), and its variants for Wan, LTX-2,
MiniMax H3, CogVideoX and Open-Sora.

The layout is determined from the file: channels, the kind of blocks, by how much each stage
multiplies the frames, the size of the final patches. State dicts are those that ComfyUI takes from
models/vae_approx: layers numbered from 0 after `decoder.`, together with an encoder that is not
used here; or the decoder's alone, without that prefix.

The network is a TAESD whose blocks have a memory: besides a frame, each sees its input for the
previous one. The last, largest layers process one picture at a time, so that intermediate results
stay small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Conv2d

from .convolution import conv_relu
from .files import Stored, opened
from .memory import BLOCKS, PLAIN, SUPER, WIDE, Memory, Stage, SuperStage, conv3x3
from .protocols import DecoderError
from .weights import UNFILLED, WIDEST, FileSource, fill, shape_of

STAGES = 3  # each doubles the size
MOST_PATCH = 4  # LTX-2
MOST_FRAMES = 8  # per latent frame: LTX-2

# What the layers do not reveal, ComfyUI deduces from the number of latent channels; so do we.
HUNYUAN_VIDEO = 16  # and Wan 2.1
HUNYUAN_VIDEO_15 = 32
MINIMAX_H3 = 24

AUTHORS = "tae"
"""How the names of files by TAEHV's author begin. All of them take latents as they are sampled and
give pictures from 0 to 1."""

LEAK = 0.2  # of the activations in LightX2V's for HunyuanVideo 1.5; the others have none
H3_CYCLE = 5  # latent frames, for 1 + 4 + 4 + 4 + 4 frames of the video

ProcessOut = Callable[[torch.Tensor], torch.Tensor]
"""From the sampler's latents [1, C, T, h, w] to the VAE's: a factor and an offset per channel."""


@dataclass(frozen=True)
class Layout:
    """What differs between the files of the family."""

    channels: int
    widths: tuple[int, ...]  # of each stage, and after the last one
    strides: tuple[int, ...]  # the frames that each stage makes from one
    patch: int  # the side of the squares of pixels that the last convolution gives
    kind: str = PLAIN  # of the blocks

    @classmethod
    def of(cls, stored: Mapping[str, Stored]) -> Layout:
        """The layout of the weights in a file, with layers numbered from 0. Raises DecoderError."""
        is_super = "0.weight" in stored
        kind = SUPER if is_super else WIDE if "3.conv.6.weight" in stored else PLAIN
        numbers = (7, 14, 21) if is_super else (7, 13, 19)
        growths = [shape_of(stored, f"{number}.conv.weight") for number in numbers]
        first, channels, *_ = shape_of(stored, "0.weight" if is_super else "1.weight")
        last = shape_of(stored, "22.weight")
        grown = [width for _, width, *_ in growths]
        found = cls(
            channels=channels,
            # Frames are multiplied before or after channels become fewer.
            widths=(first, *grown) if is_super else (*grown, last[1]),
            strides=tuple(more // width for more, width, *_ in growths),
            patch=math.isqrt(last[0] // 3),
            kind=kind,
        )
        if max(found.widths) > WIDEST or not (0 < found.patch <= MOST_PATCH) or found.grows_wild:
            raise DecoderError(f"its layers are inconsistent: {found}")
        return found

    @property
    def grows_wild(self) -> bool:
        """Whether it makes no frames from one, or more than any decoder does."""
        return not all(self.strides) or math.prod(self.strides) > MOST_FRAMES

    @property
    def scale(self) -> int:
        """Pixels of the picture per latent pixel."""
        return 2**STAGES * self.patch

    @property
    def cycle(self) -> int:
        """After how many latent frames there is a single frame again; 0 means never."""
        return H3_CYCLE if self.channels == MINIMAX_H3 else 0


class Network:
    """The layers of a decoder that have weights."""

    def __init__(self, layout: Layout, leak: float = 0.0) -> None:
        """Activations multiply negative values by `leak`."""
        first, last = layout.widths[0], layout.widths[-1]
        self.is_super = layout.kind == SUPER
        self.leak = leak
        self.enter = (
            Conv2d(layout.channels, first, 1, bias=False)
            if self.is_super
            else conv3x3(layout.channels, first)
        )
        sizes = zip(layout.widths, layout.widths[1:], layout.strides, strict=False)
        self.stages: list[Stage] = [
            SuperStage(*size) if self.is_super else Stage(*size, layout.kind, leak)
            for size in sizes
        ]
        self.leave = conv3x3(last, 3 * layout.patch**2)

    def numbered(self) -> nn.ModuleDict:
        """The layers by their numbers in a file, which counts those without weights, too."""
        enter, first, each = (0, 1, 7) if self.is_super else (1, 3, 6)
        layers: dict[str, nn.Module] = {str(enter): self.enter, "22": self.leave}
        for index, stage in enumerate(self.stages):
            layers |= stage.numbered(first + each * index)
        return nn.ModuleDict(layers)

    def entered(self, latent: torch.Tensor) -> torch.Tensor:
        """The first stage's frame [1, width, h, w] of the VAE's float32 `latent` [1, C, h, w]."""
        dtype = self.enter.weight.dtype
        if self.is_super:
            return self.enter(latent.to(dtype))
        x = 3 * torch.tanh(latent / 3)  # within ±3, smoothly
        return conv_relu(x.to(dtype), self.enter, leak=self.leak)


def with_past_apart(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Weights for blocks with a separate convolution for the previous frame."""
    parts = dict(stored)
    for name, weight in stored.items():
        if name.endswith(".conv.0.weight") and len(weight.shape) == 4:
            parts[name] = half_of(weight, 0)
            parts[name.replace("conv.0", "past")] = half_of(weight, 1)
    return parts


def half_of(weight: Stored, index: int) -> Stored:
    """The first or the second half of the channels that a convolution takes."""
    out, channels, *kernel = weight.shape
    shape = (out, channels // 2, *kernel)
    return Stored(shape, weight.dtype, lambda: weight.read().chunk(2, dim=1)[index].clone())


@dataclass(frozen=True)
class Affine:
    """A factor and an offset for each channel, float32 [1, C, 1, 1]."""

    factor: torch.Tensor
    offset: torch.Tensor

    @classmethod
    def of(cls, process_out: ProcessOut, channels: int) -> Affine:
        """What `process_out` does to latents of `channels`. Raises ValueError if it does more."""
        shape = (1, channels, 1, 1, 1)
        offset = process_out(torch.zeros(shape))
        factor = process_out(torch.ones(shape)) - offset
        probe = torch.linspace(-3, 3, channels).reshape(shape)
        expected, probed = probe * factor + offset, process_out(probe)
        if probed.shape != shape or not probed.isfinite().all():
            raise ValueError("process_out gives other shapes or infinite values")
        if not torch.allclose(probed, expected, rtol=1e-4, atol=1e-4):
            raise ValueError("process_out is more than a factor and an offset per channel")
        return cls(factor[:, :, 0], offset[:, :, 0])

    def to(self, device: torch.device) -> Affine:
        return Affine(self.factor.to(device), self.offset.to(device))

    def __call__(self, latent: torch.Tensor) -> torch.Tensor:
        """`latent` [1, C, h, w] of any dtype, as float32."""
        return latent * self.factor + self.offset


class Taehv:
    """A loaded TAEHV decoder."""

    light = True

    def __init__(
        self, network: Network, layout: Layout, space: Affine | None, signed: bool = False
    ) -> None:
        """`space` takes the sampler's latents to those of the network; None if they are the same.

        The pictures of a `signed` network are from -1 to 1.
        """
        self.scale = layout.scale
        self.frames_each = math.prod(layout.strides)
        self._network = network
        self._layout = layout
        self._space = space
        self._signed = signed

    def visible_frames(self, index: int) -> range:
        """Which pictures of latent frame `index` are frames of the video.

        The first latent frame stands for a single one, its last picture; so does the first of each
        cycle in MiniMax H3. H3's videos have 1 or 5 n + 2 latent frames. For any other number
        ComfyUI cuts frames off or adds black ones; here all that exist are shown.
        """
        cycle = self._layout.cycle
        single = index == 0 or (cycle > 0 and index % cycle == 0)
        return range(self.frames_each - 1 if single else 0, self.frames_each)

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w], or of the first frame of [1, C, T, h, w].

        It is the first frame of the video. H and W are halved if `min_side` allows.
        """
        first = latent[:, :, 0] if latent.ndim == 5 else latent
        nothing: list[Memory] = [[None] * BLOCKS] * STAGES
        return self.pictures(first, min_side, 1, nothing)[0]

    def streaming(self) -> StreamingTaehv:
        return StreamingTaehv(self)

    def pictures(
        self, latent: torch.Tensor, min_side: int, count: int, memory: Sequence[Memory]
    ) -> torch.Tensor:
        """The last `count` pictures [count, 3, H, W] of one latent frame [1, C, h, w].

        `memory` is that of each stage: of the previous frame when called, of this one afterwards.
        """
        *inner, last = self._network.stages
        counts = needed_of_each(self._layout.strides, count)
        latent = latent.float() if self._space is None else self._space(latent)
        frames: Iterable[torch.Tensor] = [self._network.entered(latent)]
        for stage, needed, seen in zip(inner, counts, memory, strict=False):
            frames = list(stage.frames(frames, needed, seen))
        # One at a time, and none for longer than needed: here the frames are largest.
        half = self._half_is_enough(latent, min_side)
        frames = last.frames(frames, count, memory[-1], half, last=True)
        return torch.cat(list(map(self._to_rgb, frames)))

    def zeros(self, latent: torch.Tensor) -> list[list[torch.Tensor]]:
        """The memory of each stage before the first frame of latents [1, C, h, w]."""
        height, width = latent.shape[-2:]
        like = self._network.enter.weight
        return [
            [
                like.new_zeros(1, channels, height << stage, width << stage).to(
                    memory_format=torch.channels_last
                )
                for _ in range(BLOCKS)
            ]
            for stage, channels in enumerate(self._layout.widths[:STAGES])
        ]

    def _to_rgb(self, x: torch.Tensor) -> torch.Tensor:
        """The picture [1, 3, H, W] from the last stage's output."""
        x = F.pixel_shuffle(self._network.leave(x), self._layout.patch)
        return (x + 1) / 2 if self._signed else x

    def _half_is_enough(self, latent: torch.Tensor, min_side: int) -> bool:
        """Whether to leave out the last upsampling, as in TAESD, if fewer pixels are enough.

        Not if a convolution gives patches, whose pixels are made for the full size. The loss of
        quality was measured for TAESD only.
        """
        if self._layout.patch > 1 or self._layout.kind == SUPER:
            return False
        return max(latent.shape[-2:]) * self.scale // 2 >= min_side


class StreamingTaehv:
    """The frames of one video: a decoder with a memory.

    The first call allocates the memory; later ones write to it in place.
    """

    def __init__(self, decoder: Taehv) -> None:
        self._decoder = decoder
        self._memory: list[list[torch.Tensor]] = []

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [frames_each, 3, H, W] of the next latent frame [1, C, 1, h, w]."""
        decoder, frame = self._decoder, latent[:, :, 0]
        self._memory = self._memory or decoder.zeros(frame)
        return decoder.pictures(frame, min_side, decoder.frames_each, self._memory)

    def rewind(self) -> None:
        """Forget earlier frames: the next call is for a first frame."""
        for stage in self._memory:
            for seen in stage:
                seen.zero_()


def needed_of_each(strides: Sequence[int], count: int) -> list[int]:
    """How many of each stage's last frames are needed for the last `count` of the last stage.

    A block's last n frames need n + 1 before it; there may be fewer, preceded by the memory.
    """
    needed = [count]
    for stride in reversed(strides[1:]):
        needed.insert(0, -(-needed[0] // stride) + BLOCKS)
    return needed


@dataclass(frozen=True)
class TaehvSource(FileSource):
    """A file of the TAEHV family."""

    space: str = ""
    """Identifies `process_out`: equal for equal functions."""
    process_out: ProcessOut | None = field(default=None, compare=False)
    """For files that expect the VAE's latents."""
    name: str = "taehv"

    @property
    def key(self) -> tuple[Hashable, ...]:
        return (*super().key, self.space)

    def load(self, device: torch.device) -> Taehv:
        with opened(self.path, "TAEHV decoder for this model") as whole:
            stored = decoder_weights(whole)
            layout = Layout.of(stored)
            self.check_channels(layout.channels)
            space = self._space(layout, stored)
            # ComfyUI assumes that all files with that many channels are LightX2V's.
            signed = layout.channels == HUNYUAN_VIDEO_15 and not self._is_authors(layout)
            with UNFILLED:
                network = Network(layout, LEAK if signed else 0.0)
                layers = network.numbered()
            parts = stored if network.is_super else with_past_apart(stored)
            fill(layers, parts, self.dtype(device))
        layers.to(device)
        return Taehv(network, layout, space and space.to(device), signed)

    def _is_authors(self, layout: Layout) -> bool:
        """Whether it appears to be by TAEHV's author, not LightX2V's."""
        return layout.kind != PLAIN or Path(self.path).name.startswith(AUTHORS)

    def _space(self, layout: Layout, stored: Mapping[str, Stored]) -> Affine | None:
        """What takes the sampler's latents to the decoder's; None if they are the same."""
        samplers = self._is_authors(layout) or takes_samplers_latents(layout, stored)
        if self.process_out is None or samplers:
            return None
        try:
            return Affine.of(self.process_out, layout.channels)
        except (RuntimeError, ValueError) as error:
            raise DecoderError(f"it cannot take this model's latents: {error}") from error


PREFIX = "decoder."


def decoder_weights(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The decoder's weights among those of a file, with layers numbered from 0."""
    names = [name for name in stored if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): stored[name] for name in names or stored}


def takes_samplers_latents(layout: Layout, stored: Mapping[str, Stored]) -> bool:
    """Whether a decoder was made for latents as they are sampled, not for those of the VAE.

    HunyuanVideo's decoder has the same layers as Wan 2.1's. As in ComfyUI, one stored in float16 is
    HunyuanVideo's. (The one for Wan 2.1 by TAEHV's author is float16, too, under the name that
    ComfyUI looks for; and it takes such latents as well.)
    """
    if layout.channels == HUNYUAN_VIDEO:
        return stored["1.weight"].dtype == torch.float16
    return layout.channels == HUNYUAN_VIDEO_15
