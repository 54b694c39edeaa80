"""The label in a picture's comment: read back by others, and the picture is still the same."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageSequence
from sidestream.preview.deliver.encode import TYPES, encoded
from sidestream.preview.deliver.label import LONGEST, labelled
from sidestream.preview.deliver.webp import animated_webp
from sidestream.preview.records import Encoded, Info, Label
from sidestream.tests.helpers import FakeSource, a_book, start_run
from sidestream.tests.pictures import label_of

SIZE = (37, 21)  # odd, as what follows a WebP picture begins at an even place
LABEL = {"step": 7, "node_id": "1:3", "odd": '<a & "b"> ]]> --> \x00 \u2028 é 😀', "cells": [0, 2]}


def encoded_frame(kind: str) -> Encoded:
    levels = np.random.default_rng(0).integers(0, 256, (2, *SIZE[::-1], 3), np.uint8)
    files = [encoded(one, SIZE, "webp" if kind == "animation" else kind, 90) for one in levels]
    file = animated_webp(files, [40, 60], SIZE) if kind == "animation" else files[0]
    label = Label(start_run(a_book(), FakeSource()), 1, 7, 20, 0.0)
    return Encoded(label, Info(SIZE, "taesd", 0.0), file, TYPES.get(kind, "image/webp"))


def pictures(file: bytes) -> list[tuple[int | None, bytes]]:
    """Duration and pixels of each picture of a file."""
    found = ImageSequence.Iterator(Image.open(io.BytesIO(file)))
    return [(one.info.get("duration"), one.tobytes()) for one in found]


@pytest.mark.parametrize("kind", [*TYPES, "animation"])
def test_every_format_has_its_label_and_the_same_pictures(kind):
    frame = encoded_frame(kind)
    file = labelled(frame, LABEL)
    assert label_of(file) == LABEL
    assert pictures(file) == pictures(frame.data)
    assert Image.open(io.BytesIO(file)).size == SIZE
    assert len(file) - len(frame.data) < 700
    # What verifies a file down to its last byte finds nothing wrong.
    Image.open(io.BytesIO(file)).verify()
    if kind in ("webp", "animation"):
        assert int.from_bytes(file[4:8], "little") == len(file) - 8


def test_a_label_too_long_for_a_comment_is_left_out():
    frame = encoded_frame("jpeg")
    overhead = len('{"sidestream":{"long":""}}')
    assert label_of(labelled(frame, {"long": "x" * (LONGEST - overhead)}))
    assert labelled(frame, {"long": "x" * (LONGEST - overhead + 1)}) == frame.data
