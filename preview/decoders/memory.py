"""The parts of TAEHV's decoders: blocks with a memory, and the stages that they form.

The file determines which of three kinds of blocks a decoder has: the usual one, that of a wide
decoder for LTX-2.3, or that of decoders called 'super', which also enlarge pictures differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Conv2d

from .convolution import conv_relu

BLOCKS = 3  # in each stage
GROUP = 64  # channels per group of a wide block's convolutions

PLAIN, WIDE, SUPER = "plain", "wide", "super"

Memory = Sequence[torch.Tensor | None]
"""For each block of a stage, the last frame that it saw, [1, width, h, w]; None means zeros."""


def conv3x3(channels: int, out: int, bias: bool = True, groups: int = 1) -> Conv2d:
    """A convolution that keeps the size."""
    return Conv2d(channels, out, 3, padding=1, bias=bias, groups=groups)


class PlainBlock(nn.Module):
    """Three convolutions beside the identity; the first also sees the previous frame.

    The file has one convolution of both frames. Here it is split into two whose results are added,
    so that frames need not be concatenated, and a missing previous frame costs nothing.
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
        """`x` and the previous frame, each [1, width, h, w]; None means zeros. Same shape out."""
        first, second, third = (layer for layer in self.conv if isinstance(layer, Conv2d))
        past = None if before is None else self.past(before)
        y = conv_relu(x, first, past, self.leak)
        return conv_relu(conv_relu(y, second, leak=self.leak), third, x, self.leak)


class WideBlock(nn.Module):
    """As `PlainBlock`, with convolutions of either a single pixel or few channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        groups = max(1, width // GROUP)
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [Conv2d(width, width, 1), nn.ReLU()]
            layers += [conv3x3(width, width, groups=groups), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])
        self.past = Conv2d(width, width, 1, bias=False)

    def forward(self, x: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """As `PlainBlock`."""
        first, second, third, fourth = (each for each in self.conv if isinstance(each, Conv2d))
        y = first(x)
        if before is not None:
            y += self.past(before)
        y = F.relu_(third(F.relu_(second(F.relu_(y)))))
        return F.relu_(fourth(y) + x)


class SuperBlock(nn.Module):
    """Convolves each channel of both frames separately, then mixes the channels of each pixel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Conv2d(2 * width, 2 * width, 7, padding=3, groups=2 * width, bias=False),
            Conv2d(2 * width, 4 * width, 1),
            nn.ReLU(),
            Conv2d(4 * width, width, 1, bias=False),
        )

    def forward(self, x: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """As `PlainBlock`."""
        before = torch.zeros_like(x) if before is None else before
        return self.conv(torch.cat([x, before], 1)) + x


class Growth(nn.Module):
    """Makes `stride` frames from one, each by its own 1×1 convolution."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width * stride, 1, bias=False)
        self.stride = stride

    def forward(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """Frame number `step` of those made from `x`, in the same shape."""
        return F.conv2d(x, self.conv.weight.chunk(self.stride)[step])


class Stage:
    """Blocks with a memory, then more frames, twice the size and fewer channels."""

    def __init__(self, width: int, narrower: int, stride: int, kind: str, leak: float) -> None:
        made = (lambda: WideBlock(width)) if kind == WIDE else (lambda: PlainBlock(width, leak))
        self.blocks: list[nn.Module] = [made() for _ in range(BLOCKS)]
        self.growth = Growth(width, stride)
        self.narrow = conv3x3(width, narrower, bias=False)
        self.leak = leak

    def numbered(self, first: int) -> dict[str, nn.Module]:
        """The layers by their numbers in a file, where the first block has number `first`."""
        return self._numbered(first, self.growth, self.narrow)

    def _numbered(self, first: int, *others: nn.Module) -> dict[str, nn.Module]:
        # A layer without weights lies between the blocks and the others.
        layers = dict(enumerate(self.blocks, first)) | dict(enumerate(others, first + BLOCKS + 1))
        return {str(number): layer for number, layer in layers.items()}

    def frames(
        self,
        frames: Iterable[torch.Tensor],
        count: int,
        memory: Memory,
        half: bool = False,
        last: bool = False,
    ) -> Iterator[torch.Tensor]:
        """The last `count` frames [1, narrower, 2 h, 2 w] made from consecutive `frames`.

        They are made one by one, on demand, and nothing is computed that they do not need. `memory`
        is updated to the last frame that each block saw. With `half` they are not enlarged; those
        of the `last` stage are ready for the last convolution.
        """
        stride = self.growth.stride
        done = self.through_blocks(list(frames), -(-count // stride), memory)
        unneeded = max(0, len(done) * stride - count)  # of those made from the first
        for frame in done:
            yield from self._grown(frame, range(unneeded, stride), half, last)
            unneeded = 0

    def _grown(
        self, x: torch.Tensor, steps: range, half: bool, last: bool
    ) -> Iterator[torch.Tensor]:
        """Frames number `steps` of those made from what the last block gives."""
        for step in steps:
            grown = self.growth(x, step)
            grown = grown if half else doubled(grown)
            yield conv_relu(grown, self.narrow, leak=self.leak) if last else self.narrow(grown)

    def through_blocks(
        self, frames: list[torch.Tensor], count: int, memory: Memory
    ) -> list[torch.Tensor]:
        """The last `count` frames that the last block makes from `frames`."""
        for after, block, last in zip(reversed(range(BLOCKS)), self.blocks, memory, strict=True):
            needed = count + after  # each later block also needs the previous frame
            pairs = list(zip(frames, [last, *frames[:-1]], strict=True))
            done = [block(frame, before) for frame, before in pairs[-needed:]]
            if last is not None:
                last.copy_(frames[-1])
            frames = done
        return frames


class SuperStage(Stage):
    """A stage that enlarges before it makes more frames: its convolution gives four pixels each.

    Its frames are always enlarged.
    """

    def __init__(self, width: int, narrower: int, stride: int) -> None:
        self.blocks = [SuperBlock(width) for _ in range(BLOCKS)]
        self.widen = conv3x3(width, 4 * narrower)
        self.growth = Growth(narrower, stride)

    def numbered(self, first: int) -> dict[str, nn.Module]:
        """As `Stage.numbered`."""
        widening = {str(first + BLOCKS): self.widen}
        return self._numbered(first) | widening | {str(first + BLOCKS + 3): self.growth}

    def _grown(
        self, x: torch.Tensor, steps: range, half: bool, last: bool
    ) -> Iterator[torch.Tensor]:
        wide = F.pixel_shuffle(F.relu_(self.widen(x)), 2)
        for step in steps:
            yield self.growth(wide, step)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """`x` [1, C, h, w] as [1, C, 2 h, 2 w], each pixel repeated four times."""
    return F.interpolate(x, scale_factor=2)
