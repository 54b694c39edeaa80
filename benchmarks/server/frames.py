"""Checks whether the delivered pictures are correct."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RIGHT_FROM = 27.0
"""dB; a JPEG of the correct picture, decoded in half precision, is above, other steps' are below.

With these random weights the correct one has at least 27.9 dB (that of SDXL's noisy step 3).
"""


def references(folder: Path, decoder: str) -> dict[int, np.ndarray]:
    """By step, the correct pictures, as written by the node SideStreamBenchReferences."""
    files = folder.glob(f"{decoder}-*.png")
    return {int(file.stem.rpartition("-")[2]): np.asarray(Image.open(file)) for file in files}


def facts(frame: Any, found: Comparison | None) -> dict[str, Any]:
    """What is kept of a frame as received by the client."""
    return {
        "step": frame.sidestream.get("step"),
        "bytes": len(frame.image),
        "size": Image.open(io.BytesIO(frame.image)).size,
        "sha256": hashlib.sha256(frame.image).hexdigest()[:16],
        "received_at": frame.received_at,
        "decode_ms": frame.sidestream.get("decode_ms"),
        "decoder": frame.sidestream.get("decoder"),
        "psnr": found and round(found.own, 1),
        "psnr_of_neighbours": found and [round(psnr, 1) for psnr in found.neighbours],
    }


@dataclass(frozen=True)
class Comparison:
    """How close a frame is to the correct picture of its step, and to its neighbours, in dB."""

    own: float
    neighbours: tuple[float, ...]

    @property
    def right(self) -> bool:
        """Whether it is the picture of its own step."""
        return self.own >= RIGHT_FROM and self.own + 1 >= max(self.neighbours, default=0.0)


def judged(frames: Sequence[Any], steps: int, right: dict[str, dict[int, np.ndarray]]) -> Any:
    """SideStream's frames, compared with the run's steps and their correct pictures."""
    labels = [frame.sidestream.get("step") for frame in frames]
    found = [compared(frame, right.get(frame.sidestream.get("decoder"), {})) for frame in frames]
    known = [each for each in found if each is not None]
    wrong = [
        label
        for label, each in zip(labels, found, strict=True)
        if label not in range(1, steps + 1) or (each is not None and not each.right)
    ]
    sizes = [len(frame.image) for frame in frames]
    return {
        "steps": steps,
        "frames": len(frames),
        "in_order": labels == sorted(set(labels), key=labels.index) == sorted(labels),
        "missing": sorted(set(range(1, steps + 1)) - set(labels)),
        "judged": len(known),
        "wrong": wrong,
        "least_psnr": round(min((each.own for each in known), default=float("nan")), 1),
        "median_kb": round(float(np.median(sizes)) / 1024, 1) if sizes else None,
        "decoders": sorted({frame.sidestream.get("decoder", "?") for frame in frames}),
        "each": [facts(frame, each) for frame, each in zip(frames, found, strict=True)],
    }


def compared(frame: Any, right: dict[int, np.ndarray]) -> Comparison | None:
    """A frame compared with the correct pictures; None if there is none for its step."""
    step = frame.sidestream.get("step")
    if step not in right:
        return None
    beside = [right[each] for each in (step - 1, step + 1) if each in right]
    own, *others = (psnr(frame.image, picture) for picture in (right[step], *beside))
    return Comparison(own, tuple(others))


def psnr(encoded: bytes, expected: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB, at the size of the expected picture."""
    image = Image.open(io.BytesIO(encoded)).convert("RGB")
    size = (expected.shape[1], expected.shape[0])
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    error = np.square(np.asarray(image, np.float32) - expected.astype(np.float32)).mean()
    return float(99.0 if error == 0 else 10 * np.log10(255**2 / error))
