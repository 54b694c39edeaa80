"""TAEHV, the tiny video autoencoder (madebyollin/taehv), and its kin for Wan, LTX-2, MiniMax H3.

The layout is read off the file: channels, how often each stage multiplies the frames, the size of
the patches at the end. State dicts are those that ComfyUI takes from models/vae_approx: layers
numbered from 0 after `decoder.`, beside an encoder that is not used here.

The network is a TAESD whose blocks remember: each sees, beside a frame, what it saw as the frame
before. Every picture goes through the last, largest layers alone, so that what lies between the
layers stays small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Conv2d

from .convolution import conv_relu
from .errors import DecoderError
from .files import Stored, Version, opened, version_of
from .weights import UNFILLED, WIDEST, Precision, fill, float32_everywhere, shape_of

FAMILY = ("taehv", "lighttaew2_1", "lighttaew2_2", "lighttaehy1_5", "taeltx_2", "taeh3")
"""The names of decoder files, as ComfyUI's latent formats give them."""

STAGES = 3  # each doubles the size
MOST_PATCH = 4  # LTX-2
MOST_FRAMES = 8  # of one latent frame: LTX-2
BLOCKS = 3  # in each stage

# What the layers do not tell, ComfyUI tells by the number of latent channels, and so do we.
HUNYUAN_VIDEO = 16  # and Wan 2.1
HUNYUAN_VIDEO_15 = 32
MINIMAX_H3 = 24

LEAK = 0.2  # of HunyuanVideo 1.5's activations; the others have none
H3_CYCLE = 5  # latent frames, for 1 + 4 + 4 + 4 + 4 frames of the video

ProcessOut = Callable[[torch.Tensor], torch.Tensor]
"""From the sampler's latents [1, C, T, h, w] to the VAE's: a factor and an offset a channel."""


@dataclass(frozen=True)
class Layout:
    """What differs between the files of the family."""

    channels: int
    widths: tuple[int, ...]  # of each stage, and of what comes after the last one
    strides: tuple[int, ...]  # the frames that each stage makes of one
    patch: int  # the last convolution gives squares of so many pixels a side

    @classmethod
    def of(cls, stored: Mapping[str, Stored]) -> Layout:
        """The layout of weights in a file, with layers numbered from 0. Raises DecoderError."""
        growths = [shape_of(stored, f"{number}.conv.weight") for number in (7, 13, 19)]
        last = shape_of(stored, "22.weight")
        found = cls(
            channels=shape_of(stored, "1.weight")[1],
            widths=(*(channels for _, channels, *_ in growths), last[1]),
            strides=tuple(grown // channels for grown, channels, *_ in growths),
            patch=math.isqrt(last[0] // 3),
        )
        if max(found.widths) > WIDEST or not (0 < found.patch <= MOST_PATCH) or found.grows_wild:
            raise DecoderError(f"its layers are inconsistent: {found}")
        return found

    @property
    def grows_wild(self) -> bool:
        """Whether the frames that it makes of one are none, or more than any decoder's."""
        return not all(self.strides) or math.prod(self.strides) > MOST_FRAMES

    @property
    def scale(self) -> int:
        """Pixels of the picture for each latent pixel."""
        return 2**STAGES * self.patch

    @property
    def leak(self) -> float:
        return LEAK if self.channels == HUNYUAN_VIDEO_15 else 0.0

    @property
    def cycle(self) -> int:
        """After how many latent frames the video begins anew; 0 is never."""
        return H3_CYCLE if self.channels == MINIMAX_H3 else 0


def conv3x3(channels: int, out: int, bias: bool = True) -> Conv2d:
    """A convolution that keeps the size."""
    return Conv2d(channels, out, 3, padding=1, bias=bias)


class MemoryBlock(nn.Module):
    """Three convolutions beside the identity; the first one also sees the frame before.

    The file has one convolution of both frames. Here it is two, whose results add up: nothing is
    copied to lie together, and where there is no frame before, nothing is computed for it.
    """

    def __init__(self, width: int, leak: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [conv3x3(width, width), nn.LeakyReLU(leak)]
        self.conv = nn.Sequential(*layers[:-1])
        self.past = conv3x3(width, width, bias=False)
        self.leak = leak

    def forward(self, x: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """`x` and the frame before, each [1, width, h, w], to the same shape; None is zeros."""
        first, second, third = (layer for layer in self.conv if isinstance(layer, Conv2d))
        past = None if before is None else self.past(before)
        y = conv_relu(x, first, past, self.leak)
        return conv_relu(conv_relu(y, second, leak=self.leak), third, x, self.leak)


class Growth(nn.Module):
    """Makes `stride` frames of one, each by a 1×1 convolution of its own."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width * stride, 1, bias=False)
        self.stride = stride

    def forward(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """The frame `step` of those that come of `x`: the same shape."""
        return F.conv2d(x, self.conv.weight.chunk(self.stride)[step])


Memory = Sequence[torch.Tensor | None]
"""For each block of a stage the frame that it saw last, [1, width, h, w]. None is zeros."""


class Stage:
    """Blocks that remember, then more frames, twice the size and fewer channels."""

    def __init__(self, width: int, narrower: int, stride: int, leak: float) -> None:
        self.blocks = [MemoryBlock(width, leak) for _ in range(BLOCKS)]
        self.growth = Growth(width, stride)
        self.narrow = conv3x3(width, narrower, bias=False)

    def grown(
        self, frames: Iterable[torch.Tensor], count: int, memory: Memory
    ) -> Iterator[torch.Tensor]:
        """The last `count` frames that come of consecutive `frames`, before they are enlarged.

        They are made one by one, when they are asked for; what is not needed for them is not
        computed. What each block saw last takes the place of what `memory` holds for it.
        """
        stride = self.growth.stride
        frames = self.through_blocks(list(frames), -(-count // stride), memory)
        steps = [(frame, step) for frame in frames for step in range(stride)]
        for frame, step in steps[-count:]:
            yield self.growth(frame, step)

    def through_blocks(
        self, frames: list[torch.Tensor], count: int, memory: Memory
    ) -> list[torch.Tensor]:
        """The last `count` frames that the last block makes of `frames`."""
        for after, block, last in zip(reversed(range(BLOCKS)), self.blocks, memory, strict=True):
            needed = count + after  # each block after this one needs one frame before its own
            pairs = list(zip(frames, [last, *frames[:-1]], strict=True))
            done = [block(frame, before) for frame, before in pairs[-needed:]]
            if last is not None:
                last.copy_(frames[-1])
            frames = done
        return frames


class Network:
    """The layers of a decoder that have weights."""

    def __init__(self, layout: Layout) -> None:
        self.enter = conv3x3(layout.channels, layout.widths[0])
        self.stages = [
            Stage(*sizes, layout.leak)
            for sizes in zip(layout.widths, layout.widths[1:], layout.strides, strict=False)
        ]
        self.leave = conv3x3(layout.widths[-1], 3 * layout.patch**2)

    def numbered(self) -> nn.ModuleDict:
        """The layers by their numbers in a file, where those without weights count too."""
        layers: dict[str, nn.Module] = {"1": self.enter, "22": self.leave}
        for first, stage in zip((3, 9, 15), self.stages, strict=True):
            for number, block in enumerate(stage.blocks, first):
                layers[str(number)] = block
            layers[str(first + 4)] = stage.growth
            layers[str(first + 5)] = stage.narrow
        return nn.ModuleDict(layers)


def with_past_apart(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """Weights for `MemoryBlock`: the convolutions of two frames taken apart."""
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
        """What `process_out` does to latents of so many channels. ValueError if it does more."""
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
        """`latent` [1, C, h, w] of any type, as float32."""
        return latent * self.factor + self.offset


class Taehv:
    """A loaded TAEHV decoder."""

    light = True

    def __init__(self, network: Network, layout: Layout, space: Affine | None) -> None:
        """`space` takes the sampler's latents to those of the network; None if they are these."""
        self.scale = layout.scale
        self.frames_each = math.prod(layout.strides)
        self._network = network
        self._layout = layout
        self._space = space

    def visible_frames(self, index: int) -> range:
        """Which of the pictures of latent frame `index` are frames of the video.

        The first latent frame is a single one, its last picture; and so is, in MiniMax H3, the
        first of each cycle. H3's videos have 1 or 5 n + 2 latent frames. From any other number
        ComfyUI makes a video with frames cut off or black ones added; here it shows what is there.
        """
        cycle = self._layout.cycle
        single = index == 0 or (cycle > 0 and index % cycle == 0)
        return range(self.frames_each - 1 if single else 0, self.frames_each)

    def frames_of(self, latent_frames: int) -> int:
        """How many frames the video of so many latent frames has."""
        return sum(len(self.visible_frames(index)) for index in range(latent_frames))

    def __call__(self, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        """RGB [3, H, W] of `latent` [1, C, h, w], or of the first frame of [1, C, T, h, w].

        It is the first frame of the video. H and W are halved where `min_side` allows.
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

        `memory` is that of each stage: of the frame before when called, then of this one.
        """
        *inner, last = self._network.stages
        counts = needed_of_each(self._layout.strides, count)
        frames: Iterable[torch.Tensor] = [self._entered(latent)]
        for stage, needed, seen in zip(inner, counts, memory, strict=False):
            frames = [stage.narrow(doubled(x)) for x in stage.grown(frames, needed, seen)]
        # One at a time: here the frames are largest.
        frames = last.grown(frames, count, memory[-1])
        half = self._half_is_enough(latent, min_side)
        return torch.cat([self._to_rgb(x if half else doubled(x)) for x in frames])

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

    def _entered(self, latent: torch.Tensor) -> torch.Tensor:
        """The first stage's frame [1, width, h, w] of `latent` [1, C, h, w]."""
        x = latent.float() if self._space is None else self._space(latent)
        x = 3 * torch.tanh(x / 3)  # within ±3, smoothly
        enter = self._network.enter
        return conv_relu(x.to(enter.weight.dtype), enter, leak=self._layout.leak)

    def _to_rgb(self, x: torch.Tensor) -> torch.Tensor:
        """The picture [1, 3, H, W] of the last stage's enlarged frame."""
        x = conv_relu(x, self._network.stages[-1].narrow, leak=self._layout.leak)
        x = F.pixel_shuffle(self._network.leave(x), self._layout.patch)
        return (x + 1) / 2 if self._layout.channels == HUNYUAN_VIDEO_15 else x

    def _half_is_enough(self, latent: torch.Tensor, min_side: int) -> bool:
        """Whether to leave out the last upsampling, as TAESD's where fewer pixels are enough.

        Not where the last convolution gives patches: their pixels are made for the full size.
        What it costs in quality was measured for TAESD alone.
        """
        return self._layout.patch == 1 and max(latent.shape[-2:]) * self.scale // 2 >= min_side


class StreamingTaehv:
    """The frames of one video: a memory, and the decoder that it belongs to.

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
        """Forget the frames before: the next call is for a first frame."""
        for stage in self._memory:
            for seen in stage:
                seen.zero_()


def doubled(x: torch.Tensor) -> torch.Tensor:
    """`x` [1, C, h, w] as [1, C, 2 h, 2 w], every pixel four times."""
    return F.interpolate(x, scale_factor=2)


def needed_of_each(strides: Sequence[int], count: int) -> list[int]:
    """How many of the last frames of each stage the last `count` of the last stage are made of.

    A block's last n frames come of n + 1 before it; there may be fewer, with memory before them.
    """
    needed = [count]
    for stride in reversed(strides[1:]):
        needed.insert(0, -(-needed[0] // stride) + BLOCKS)
    return needed


@dataclass(frozen=True)
class TaehvSource:
    """A decoder file."""

    path: str
    latent_channels: int
    version: Version
    precision: Precision = float32_everywhere
    space: str = ""
    """What `process_out` belongs to: equal for equal ones."""
    process_out: ProcessOut | None = field(default=None, compare=False)
    name: str = "taehv"

    @classmethod
    def of(
        cls,
        path: str,
        latent_channels: int,
        precision: Precision = float32_everywhere,
        space: str = "",
        process_out: ProcessOut | None = None,
    ) -> TaehvSource:
        """The source for the file at `path` as it is now, to work in the type `precision` gives.

        `process_out` takes the sampler's latents to the VAE's, for files that expect these;
        `space` names it.
        """
        return cls(path, latent_channels, version_of(path), precision, space, process_out)

    @property
    def key(self) -> Hashable:
        return (Path(self.path).name, self.path, self.version, self.latent_channels, self.space)

    def dtype(self, device: torch.device) -> torch.dtype:
        return self.precision(device)

    def load(self, device: torch.device) -> Taehv:
        with opened(self.path, "TAEHV decoder for this model") as whole:
            stored = decoder_weights(whole)
            layout = Layout.of(stored)
            if self.latent_channels != layout.channels:
                raise DecoderError(
                    f"it expects latents with {layout.channels} channels,"
                    f" this model's have {self.latent_channels}"
                )
            space = self._space(layout, stored)
            with UNFILLED:
                network = Network(layout)
                layers = network.numbered()
            fill(layers, with_past_apart(stored), self.dtype(device))
        layers.to(device)
        return Taehv(network, layout, space and space.to(device))

    def _space(self, layout: Layout, stored: Mapping[str, Stored]) -> Affine | None:
        """What takes the sampler's latents to the decoder's; None where they are these."""
        if self.process_out is None or takes_samplers_latents(stored):
            return None
        try:
            return Affine.of(self.process_out, layout.channels)
        except (RuntimeError, ValueError) as error:
            raise DecoderError(f"it cannot take this model's latents: {error}") from error


def decoder_weights(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The decoder's among the weights of a file, with layers numbered from 0."""
    prefix = "decoder."
    return {
        name.removeprefix(prefix): weight
        for name, weight in stored.items()
        if name.startswith(prefix)
    }


def takes_samplers_latents(stored: Mapping[str, Stored]) -> bool:
    """Whether a decoder was made for latents as they are sampled, not for those of the VAE.

    The layers of HunyuanVideo's decoder are those of Wan 2.1's: as in ComfyUI, the one that is
    stored in float16 is HunyuanVideo's.
    """
    entrance = stored["1.weight"]
    channels = entrance.shape[1]
    return channels == HUNYUAN_VIDEO_15 or (
        channels == HUNYUAN_VIDEO and entrance.dtype == torch.float16
    )
