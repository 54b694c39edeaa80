"""The last steps from RGB to a picture, on the decoding device."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def contained(width: int, height: int, max_size: int) -> tuple[int, int]:
    """Width and height with the same aspect and a longer side of at most `max_size` pixels."""
    scale = min(1.0, max_size / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def near_square(cells: int) -> tuple[int, int]:
    """Columns and rows for that many cells: equally many, or one column more."""
    columns = math.isqrt(cells - 1) + 1
    return columns, -(-cells // columns)


def tiled(cells: list[torch.Tensor]) -> torch.Tensor:
    """Pictures [3, H, W] side by side, row by row; cells left over are black."""
    if len(cells) == 1:
        return cells[0]
    columns, rows = near_square(len(cells))
    black = torch.zeros_like(cells[0])
    cells = cells + [black] * (columns * rows - len(cells))
    lines = [torch.cat(cells[i : i + columns], dim=2) for i in range(0, len(cells), columns)]
    return torch.cat(lines, dim=1)


def without_non_finite(latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`latent` [B, C, ...] with 0 for every NaN and infinity, and where these were: [B, ...]."""
    finite = torch.isfinite(latent)
    return latent.where(finite, 0), ~finite.all(dim=1)


def without_nans(rgb: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`rgb` [..., 3, H, W] with grey for every pixel that is NaN, and how many there are."""
    nans = rgb.isnan().any(dim=-3, keepdim=True)
    return rgb.where(~nans, 0.5), nans.sum()


def greyed(rgb: torch.Tensor, non_finite: torch.Tensor) -> torch.Tensor:
    """`rgb` [..., 3, H, W] with grey at the latent positions `non_finite` [h, w]."""
    # By area, not the nearest: if a pixel stands for many positions, all of them count.
    share = F.interpolate(non_finite[None, None].to(rgb.dtype), size=rgb.shape[-2:], mode="area")
    return rgb.where(share[0] == 0, 0.5)


SQUARES = 64
"""Squares of a chequerboard along the longer side of a picture."""

LIGHT, DARK = 0.8, 0.6


def on_chequerboard(rgba: torch.Tensor) -> torch.Tensor:
    """`rgba` [4, H, W] with straight alpha as [3, H, W], on a chequerboard.

    The squares' size is relative to the picture's, so that a smaller decode looks the same.
    [3, H, W], without transparency, is returned as it is.
    """
    if len(rgba) == 3:
        return rgba
    rgb, alpha = rgba[:3], rgba[3:4].clamp(0, 1)
    height, width = rgba.shape[-2:]
    side = max(1, max(height, width) // SQUARES)
    rows, columns = (torch.arange(n, device=rgba.device) // side for n in (height, width))
    is_light = (rows[:, None] + columns) % 2 == 0
    board = torch.where(is_light, LIGHT, DARK).to(rgb.dtype)
    return torch.lerp(board.expand_as(rgb), rgb, alpha)


def shrunk(rgb: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """`rgb` [..., 3, H, W] averaged down to [..., 3, height, width]; never enlarged."""
    if rgb.shape[-1] <= width and rgb.shape[-2] <= height:
        return rgb
    pictures = rgb.reshape(-1, *rgb.shape[-3:])
    small = F.interpolate(pictures, size=(height, width), mode="area")
    return small.reshape(*rgb.shape[:-2], height, width)


def to_uint8(rgb: torch.Tensor) -> torch.Tensor:
    """`rgb` [..., 3, H, W] from 0 to 1, of any float dtype, as contiguous uint8 [..., H, W, 3].

    Rounds to nearest; values outside the range are clamped.
    """
    levels = rgb.float().clamp(0, 1).mul(255).round_()
    return levels.to(torch.uint8).movedim(-3, -1).contiguous()
