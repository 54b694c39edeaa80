"""The convolution in which the tiny decoders spend their time, in as few kernels as possible."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn


def conv_relu(
    x: torch.Tensor, conv: nn.Conv2d, add: torch.Tensor | None = None, leak: float = 0.0
) -> torch.Tensor:
    """ReLU of the 3×3 convolution of `x`, plus `add`; negative values are multiplied by `leak`.

    On NVIDIA devices it is one kernel instead of three, unless leaky: half of a decoder's time goes
    into writing and reading intermediate results. Pictures differ by one level in one of a thousand
    values.
    """
    if leak or not can_fuse(x.device, x.dtype):
        y = conv(x)
        if add is not None:
            y += add
        return F.leaky_relu_(y, leak) if leak else F.relu_(y)
    if add is None:
        return torch.cudnn_convolution_relu(x, conv.weight, conv.bias, *GEOMETRY)
    return torch.cudnn_convolution_add_relu(x, conv.weight, add, 1.0, conv.bias, *GEOMETRY)


GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)  # stride, padding, dilation, groups
TRIED = 64  # channels, the width of most convolutions


@functools.cache
def can_fuse(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether cuDNN's fused convolutions work, tried once on a small input.

    Raises torch's OutOfMemoryError, and is then tried again.
    """
    if device.type != "cuda" or torch.version.cuda is None or dtype == torch.float32:
        return False
    if not torch.backends.cudnn.enabled:  # switched off, as where it does not work
        return False
    x = torch.zeros(1, TRIED, 8, 8, device=device, dtype=dtype)
    weight, bias = x.new_zeros(TRIED, TRIED, 3, 3), x.new_zeros(TRIED)
    try:
        torch.cudnn_convolution_add_relu(
            torch.cudnn_convolution_relu(x, weight, bias, *GEOMETRY),
            weight,
            x,
            1.0,
            bias,
            *GEOMETRY,
        )
    except torch.cuda.OutOfMemoryError:
        raise  # which says nothing about cuDNN
    except RuntimeError:
        return False
    return True
