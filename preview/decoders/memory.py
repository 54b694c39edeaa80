"""The parts of TAEHV's decoders: blocks that remember, and the stages that these make up.

There are three kinds of blocks, told by the file: of most decoders, of a wide one for LTX-2.3, and
of those called 'super', which also enlarge their pictures in another way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import Conv2d

from .convolution import conv_relu

BLOCKS = 3  # in each stage
GROUP = 64  # channels that a wide block's convolutions take together

PLAIN, WIDE, SUPER = "plain", "wide", "super"

Memory = Sequence[torch.Tensor | None]
"""For each block of a stage the frame that it saw last, [1, width, h, w]. None is zeros."""


def conv3x3(channels: int, out: int, bias: bool = True, groups: int = 1) -> Conv2d:
    """A convolution that keeps the size."""
    return Conv2d(channels, out, 3, padding=1, bias=bias, groups=groups)


class PlainBlock(nn.Module):
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


class WideBlock(nn.Module):
    """As `PlainBlock`, of convolutions that are either of one pixel or of few channels."""

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
    """Each channel of both frames by itself, then all channels of each pixel."""

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
    """Makes `stride` frames of one, each by a 1×1 convolution of its own."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width * stride, 1, bias=False)
        self.stride = stride

    def forward(self, x: torch.Tensor, step: int) -> torch.Tensor:
        """The frame `step` of those that come of `x`: the same shape."""
        return F.conv2d(x, self.conv.weight.chunk(self.stride)[step])


class Stage:
    """Blocks that remember, then more frames, twice the size and fewer channels."""

    def __init__(self, width: int, narrower: int, stride: int, kind: str, leak: float) -> None:
        made = (lambda: WideBlock(width)) if kind == WIDE else (lambda: PlainBlock(width, leak))
        self.blocks: list[nn.Module] = [made() for _ in range(BLOCKS)]
        self.growth = Growth(width, stride)
        self.narrow = conv3x3(width, narrower, bias=False)
        self.leak = leak

    def numbered(self, first: int) -> dict[str, nn.Module]:
        """The layers by their numbers in a file, of which the first block's is `first`."""
        return self._numbered(first, self.growth, self.narrow)

    def _numbered(self, first: int, *others: nn.Module) -> dict[str, nn.Module]:
        # Between the blocks and these is a layer without weights.
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
        """The last `count` frames [1, narrower, 2 h, 2 w] that come of consecutive `frames`.

        They are made one by one, when they are asked for; what is not needed for them is not
        computed. What each block saw last takes the place of what `memory` holds for it. With
        `half` they are not enlarged; those of the `last` stage are ready for the last convolution.
        """
        for frame, step in self._steps(frames, count, memory):
            yield self._narrowed(self.growth(frame, step), half, last)

    def _narrowed(self, x: torch.Tensor, half: bool, last: bool) -> torch.Tensor:
        x = x if half else doubled(x)
        return conv_relu(x, self.narrow, leak=self.leak) if last else self.narrow(x)

    def _steps(
        self, frames: Iterable[torch.Tensor], count: int, memory: Memory
    ) -> list[tuple[torch.Tensor, int]]:
        """What the blocks make, for each of the last `count` frames, and which frame of it."""
        stride = self.growth.stride
        done = self.through_blocks(list(frames), -(-count // stride), memory)
        return [(frame, step) for frame in done for step in range(stride)][-count:]

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


class SuperStage(Stage):
    """A stage that enlarges before it makes more frames: each convolution gives four pixels."""

    def __init__(self, width: int, narrower: int, stride: int) -> None:
        self.blocks = [SuperBlock(width) for _ in range(BLOCKS)]
        self.widen = conv3x3(width, 4 * narrower)
        self.growth = Growth(narrower, stride)

    def numbered(self, first: int) -> dict[str, nn.Module]:
        """As `Stage.numbered`."""
        widening = {str(first + BLOCKS): self.widen}
        return self._numbered(first) | widening | {str(first + BLOCKS + 3): self.growth}

    def frames(
        self,
        frames: Iterable[torch.Tensor],
        count: int,
        memory: Memory,
        half: bool = False,
        last: bool = False,
    ) -> Iterator[torch.Tensor]:
        """As `Stage.frames`, always enlarged."""
        wide, of = None, None
        for frame, step in self._steps(frames, count, memory):
            if wide is None or of is not frame:
                wide, of = F.pixel_shuffle(F.relu_(self.widen(frame)), 2), frame
            yield self.growth(wide, step)


def doubled(x: torch.Tensor) -> torch.Tensor:
    """`x` [1, C, h, w] as [1, C, 2 h, 2 w], every pixel four times."""
    return F.interpolate(x, scale_factor=2)
