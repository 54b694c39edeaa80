"""The last steps from RGB to a picture, on the decoding device."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def contained(width: int, height: int, max_size: int) -> tuple[int, int]:
    """Width and height with the same aspect and a longer side of at most `max_size` pixels."""
    scale = min(1.0, max_size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrunk(rgb: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """`rgb` [3, H, W] averaged down to [3, height, width]; never enlarged."""
    if rgb.shape[-1] <= width and rgb.shape[-2] <= height:
        return rgb
    return F.interpolate(rgb[None], size=(height, width), mode="area")[0]


def to_uint8(rgb: torch.Tensor) -> torch.Tensor:
    """`rgb` [3, H, W] of 0 to 1, any float type, as contiguous uint8 [H, W, 3].

    Rounds to nearest; values beyond the range are clamped.
    """
    levels = rgb.float().clamp(0, 1).mul(255).round_()
    return levels.to(torch.uint8).movedim(0, -1).contiguous()
