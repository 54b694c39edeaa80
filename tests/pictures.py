"""Pictures in tests: from bytes to levels, and how far two of them are apart."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
from PIL import Image


def decoded(image: bytes) -> np.ndarray:
    """The levels of an encoded picture: uint8 [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def label_of(image: bytes) -> dict[str, Any]:
    """The label in a picture's comment, as Pillow reads that."""
    info = Image.open(io.BytesIO(image)).info
    comment = info.get("comment") or info.get("Comment")
    if "xmp" in info:
        [comment] = ET.fromstring(info["xmp"]).itertext()
    label: dict[str, Any] = json.loads(comment)["sidestream"]
    return label


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal to noise ratio of two pictures of levels, in dB."""
    error = np.square(one.astype(float) - other.astype(float)).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
