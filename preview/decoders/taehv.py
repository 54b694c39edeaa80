"""TAEHV, the tiny video autoencoder (madebyollin/taehv), and its kin for Wan, LTX-2, MiniMax H3,
CogVideoX and Open-Sora.

The layout is read off the file: channels, the kind of its blocks, how often each stage multiplies
the frames, the size of the patches at the end. State dicts are those that ComfyUI takes from
models/vae_approx: layers numbered from 0 after `decoder.`, beside an encoder that is not used here;
or the decoder's alone, without that prefix.

The network is a TAESD whose blocks remember: each sees, beside a frame, what it saw as the frame
before. Every picture goes through the last, largest layers alone, so that what lies between the
layers stays small.
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
from .errors import DecoderError
from .files import Stored, Version, opened, version_of
from .memory import BLOCKS, PLAIN, SUPER, WIDE, Memory, Stage, SuperStage, conv3x3
from .weights import UNFILLED, WIDEST, Precision, fill, float32_everywhere, shape_of

STAGES = 3  # each doubles the size
MOST_PATCH = 4  # LTX-2
MOST_FRAMES = 8  # of one latent frame: LTX-2

# What the layers do not tell, ComfyUI tells by the number of latent channels, and so do we.
HUNYUAN_VIDEO = 16  # and Wan 2.1
HUNYUAN_VIDEO_15 = 32
MINIMAX_H3 = 24

AUTHORS = "tae"
"""How the names of files by TAEHV's author begin. All of them take latents as they are sampled and
give pictures of 0 to 1."""

LEAK = 0.2  # of the activations of LightX2V's for HunyuanVideo 1.5; the others have none
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
    kind: str = PLAIN  # of the blocks

    @classmethod
    def of(cls, stored: Mapping[str, Stored]) -> Layout:
        """The layout of weights in a file, with layers numbered from 0. Raises DecoderError."""
        is_super = "0.weight" in stored
        kind = SUPER if is_super else WIDE if "3.conv.6.weight" in stored else PLAIN
        numbers = (7, 14, 21) if is_super else (7, 13, 19)
        growths = [shape_of(stored, f"{number}.conv.weight") for number in numbers]
        first, channels, *_ = shape_of(stored, "0.weight" if is_super else "1.weight")
        last = shape_of(stored, "22.weight")
        grown = [width for _, width, *_ in growths]
        found = cls(
            channels=channels,
            # Frames are made more before or after there are fewer channels.
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
        """Whether the frames that it makes of one are none, or more than any decoder's."""
        return not all(self.strides) or math.prod(self.strides) > MOST_FRAMES

    @property
    def scale(self) -> int:
        """Pixels of the picture for each latent pixel."""
        return 2**STAGES * self.patch

    @property
    def cycle(self) -> int:
        """After how many latent frames the video begins anew; 0 is never."""
        return H3_CYCLE if self.channels == MINIMAX_H3 else 0


class Network:
    """The layers of a decoder that have weights."""

    def __init__(self, layout: Layout, leak: float = 0.0) -> None:
        """Below zero the activations let `leak` of a value through."""
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
        """The layers by their numbers in a file, where those without weights count too."""
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
    """Weights for blocks with a convolution of their own for the frame before."""
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

    def __init__(
        self, network: Network, layout: Layout, space: Affine | None, signed: bool = False
    ) -> None:
        """`space` takes the sampler's latents to those of the network; None if they are these.

        The pictures of a `signed` network are of -1 to 1.
        """
        self.scale = layout.scale
        self.frames_each = math.prod(layout.strides)
        self._network = network
        self._layout = layout
        self._space = space
        self._signed = signed

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
            frames = list(stage.frames(frames, needed, seen))
        # One at a time, and none longer than it is needed: here the frames are largest.
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

    def _entered(self, latent: torch.Tensor) -> torch.Tensor:
        """The first stage's frame [1, width, h, w] of `latent` [1, C, h, w]."""
        return self._network.entered(latent.float() if self._space is None else self._space(latent))

    def _to_rgb(self, x: torch.Tensor) -> torch.Tensor:
        """The picture [1, 3, H, W] of what the last stage made."""
        x = F.pixel_shuffle(self._network.leave(x), self._layout.patch)
        return (x + 1) / 2 if self._signed else x

    def _half_is_enough(self, latent: torch.Tensor, min_side: int) -> bool:
        """Whether to leave out the last upsampling, as TAESD's where fewer pixels are enough.

        Not where a convolution gives patches: their pixels are made for the full size. What it
        costs in quality was measured for TAESD alone.
        """
        if self._layout.patch > 1 or self._layout.kind == SUPER:
            return False
        return max(latent.shape[-2:]) * self.scale // 2 >= min_side


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
            # ComfyUI takes all of so many channels for LightX2V's.
            signed = layout.channels == HUNYUAN_VIDEO_15 and not self._is_authors(layout)
            with UNFILLED:
                network = Network(layout, LEAK if signed else 0.0)
                layers = network.numbered()
            parts = stored if network.is_super else with_past_apart(stored)
            fill(layers, parts, self.dtype(device))
        layers.to(device)
        return Taehv(network, layout, space and space.to(device), signed)

    def _is_authors(self, layout: Layout) -> bool:
        """Whether it is by TAEHV's author, as it seems, and not LightX2V's."""
        return layout.kind != PLAIN or Path(self.path).name.startswith(AUTHORS)

    def _space(self, layout: Layout, stored: Mapping[str, Stored]) -> Affine | None:
        """What takes the sampler's latents to the decoder's; None where they are these."""
        samplers = self._is_authors(layout) or takes_samplers_latents(layout, stored)
        if self.process_out is None or samplers:
            return None
        try:
            return Affine.of(self.process_out, layout.channels)
        except (RuntimeError, ValueError) as error:
            raise DecoderError(f"it cannot take this model's latents: {error}") from error


PREFIX = "decoder."


def decoder_weights(stored: Mapping[str, Stored]) -> dict[str, Stored]:
    """The decoder's among the weights of a file, with layers numbered from 0."""
    names = [name for name in stored if name.startswith(PREFIX)]
    return {name.removeprefix(PREFIX): stored[name] for name in names or stored}


def takes_samplers_latents(layout: Layout, stored: Mapping[str, Stored]) -> bool:
    """Whether a decoder was made for latents as they are sampled, not for those of the VAE.

    The layers of HunyuanVideo's decoder are those of Wan 2.1's: as in ComfyUI, the one that is
    stored in float16 is HunyuanVideo's. (So is that for Wan 2.1 by TAEHV's author, under the name
    that ComfyUI looks for; and it takes such latents too.)
    """
    if layout.channels == HUNYUAN_VIDEO:
        return stored["1.weight"].dtype == torch.float16
    return layout.channels == HUNYUAN_VIDEO_15
