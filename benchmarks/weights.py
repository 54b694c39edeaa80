"""Decoder files with random weights: the cost of a decoder does not depend on its training."""

from __future__ import annotations

from pathlib import Path

import torch
from sidestream.preview.decoders import taehv, taesd

WAN = taehv.Layout(channels=16, widths=(256, 128, 64, 64), strides=(1, 2, 2), patch=1)


def write_decoders(folder: Path) -> None:
    """Write TAESD for SD1.5 and SDXL and TAEHV for Wan 2.1 into `folder`, as `.pth` files."""
    torch.manual_seed(3)
    for name in ("taesd_decoder", "taesdxl_decoder"):
        layers = taesd.decoder_layers(4, pooled=False)
        torch.save(layers.state_dict(), folder / f"{name}.pth")
    torch.save(video_decoder(WAN), folder / "lighttaew2_1.pth")


def video_decoder(layout: taehv.Layout) -> dict[str, torch.Tensor]:
    """A state dict as in files, with one convolution for a frame and the previous one."""
    weights = taehv.Network(layout).numbered().state_dict()
    of_file = {}
    for name, weight in weights.items():
        if ".past." in name:
            continue
        past = weights.get(name.replace(".conv.0.", ".past."))
        joined = weight if past is None or past is weight else torch.cat([weight, past], dim=1)
        of_file[f"decoder.{name}"] = joined
    return of_file
