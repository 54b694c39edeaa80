"""The encoder: pictures come back as they went in, in the size and the quality asked for."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from sidestream.preview.deliver import encode
from sidestream.preview.deliver.encode import TYPES, encoded
from sidestream.preview.records import Info, Picture
from sidestream.tests.helpers import FakeSource, a_book, start_run
from sidestream.tests.pictures import decoded, psnr


def scene(width: int = 96, height: int = 64) -> np.ndarray:
    """A picture with smooth parts, an edge, and different red, green and blue."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    disc = (x - 0.5) ** 2 + (y - 0.3) ** 2 < 0.04
    levels = np.stack([200 * x + 40, 180 * y + 30, np.where(disc, 240, 60)], axis=-1)
    return levels.round().astype(np.uint8)


@pytest.mark.parametrize("kind", TYPES)
def test_every_format_decodes_back_to_the_picture(kind):
    picture = scene()
    image = encoded(picture, (96, 64), kind, 90)
    opened = Image.open(io.BytesIO(image))
    assert Image.MIME[opened.format] == TYPES[kind]
    assert opened.size == (96, 64)
    assert psnr(decoded(image), picture) > 30


def torchvisions(picture: torch.Tensor, quality: int) -> torch.Tensor:
    """Stands for torchvision's operator: takes uint8 [3, H, W], gives the file's bytes."""
    assert (picture.dtype, len(picture)) == (torch.uint8, 3)
    file = encode.pillow_jpeg(picture.movedim(0, -1).contiguous().numpy(), quality)
    return torch.frombuffer(bytearray(file), dtype=torch.uint8)


@pytest.fixture(params=["the best", "torchvision's", "Pillow's"])
def jpeg_encoder(request, monkeypatch):
    """Every JPEG encoder that may be at work: the best of this machine, and the last resort.

    The best is torchvision's, but not every machine has one that works.
    """
    if request.param == "Pillow's":
        monkeypatch.setattr(encode, "jpeg_encoder", lambda: encode.pillow_jpeg)
    elif request.param == "torchvision's":
        for name in ("torchvision", "torchvision.io"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        monkeypatch.setattr(torch.ops.image, "encode_jpeg", torchvisions, raising=False)
        monkeypatch.setattr(encode, "jpeg_encoder", encode.jpeg_encoder.__wrapped__)
        assert encode.jpeg_encoder() is not encode.pillow_jpeg


@pytest.mark.filterwarnings("error")
def test_jpeg_comes_in_the_right_colours_and_size_whoever_encodes_it(jpeg_encoder):
    for size in ((96, 64), (192, 128)):
        image = encoded(scene(), size, "jpeg", 90)
        smooth = Image.fromarray(scene()).resize(size, Image.Resampling.BILINEAR)
        assert psnr(decoded(image), np.asarray(smooth)) > 30
    assert len(encoded(scene(), (96, 64), "jpeg", 20)) < len(encoded(scene(), (96, 64), "jpeg", 90))


def test_png_loses_nothing():
    picture = np.arange(37 * 53 * 3, dtype=np.uint32).astype(np.uint8).reshape(37, 53, 3)
    assert np.array_equal(decoded(encoded(picture, (53, 37), "png", 1)), picture)


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_quality_matters(kind):
    picture = scene()
    sizes, ratios = [], []
    for quality in (1, 50, 100):
        image = encoded(picture, (96, 64), kind, quality)
        sizes.append(len(image))
        ratios.append(psnr(decoded(image), picture))
    assert sizes == sorted(set(sizes))
    assert ratios == sorted(set(ratios))


def test_png_ignores_quality():
    assert encoded(scene(), (96, 64), "png", 1) == encoded(scene(), (96, 64), "png", 100)


@pytest.mark.parametrize("kind", TYPES)
def test_a_picture_of_few_pixels_is_enlarged_to_its_size(kind):
    small = scene(24, 16)
    image = encoded(small, (192, 128), kind, 95)
    assert Image.open(io.BytesIO(image)).size == (192, 128)
    smooth = Image.fromarray(small).resize((192, 128), Image.Resampling.BILINEAR)
    assert psnr(decoded(image), np.asarray(smooth)) > 30


def test_i12_enlarging_keeps_flat_colours_to_the_level():
    for level in ((0, 0, 0), (1, 128, 254), (255, 255, 255)):
        flat = np.broadcast_to(np.array(level, np.uint8), (8, 8, 3)).copy()
        assert (decoded(encoded(flat, (64, 64), "png", 1)) == level).all()


def test_an_encoded_frame_has_its_runs_quality_and_keeps_no_pixels():
    label = start_run(a_book(), FakeSource(), quality=40).capture(0.0)
    picture = Picture(label, Info((96, 64), "flat", 0.0), scene())
    frame = encode.encode(picture, "jpeg")
    assert (frame.label, frame.info, frame.mime) == (label, picture.info, "image/jpeg")
    assert frame.data == encoded(scene(), (96, 64), "jpeg", 40)
    assert not hasattr(frame, "rgb")
