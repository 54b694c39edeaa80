"""Spectrograms: latents that are no picture, made readable."""

from __future__ import annotations

import pytest
import torch
from sidestream.preview.decoders.spectrogram import (
    COLOURS,
    WIDEST,
    Spectrogram,
    SpectrogramSource,
    levels,
)
from sidestream.preview.render.job import RenderJob, shown_size
from sidestream.tests.helpers import CPU
from torch._subclasses.fake_tensor import FakeTensorMode

GREY = [128, 128, 128]
LUMINANCE = torch.tensor([0.2126, 0.7152, 0.0722])


@pytest.fixture
def decoder():
    return SpectrogramSource().load(CPU)


def brightness(rgb):
    """[...] of [3, ...]."""
    return torch.tensordot(LUMINANCE, rgb, dims=1)


def painted(decoder, latent, max_size=4096):
    return RenderJob(decoder, max_size)(latent)


def test_time_runs_to_the_right_and_channels_upwards(decoder):
    latent = torch.randn(1, 16, 40)
    latent[:, 0, -1] = 30  # the first channel at the last moment
    latent[:, -1, 0] = -30
    bright = brightness(decoder(latent, 512))
    assert bright.shape == (16, 40)
    assert bright.argmax() == bright[15, 39].eq(bright).flatten().int().argmax()
    assert bright[15, 39] == bright.max()
    assert bright[0, 0] == bright.min()


def test_rows_of_a_channel_stay_together(decoder):
    latent = torch.randn(1, 3, 4, 50) * 0.1
    latent[:, 1] += 0.2
    latent[:, 1, 0] += 0.1  # the lowest of its rows
    bright = brightness(decoder(latent, 512)).mean(dim=1)
    assert bright.shape == (12,)
    assert bright[4:8].min() > bright[:4].max()
    assert bright[4:8].min() > bright[8:].max()
    assert bright.argmax() == 7


def test_larger_values_are_brighter_from_nearly_black_to_nearly_white(decoder):
    values = torch.randn(4000).sort().values
    bright = brightness(decoder(values[None, None], 4000)[:, 0])
    assert (bright.diff() > -1e-6).all()
    assert bright[0] < 0.02
    assert bright[-1] > 0.9
    light = (torch.tensor(COLOURS) / 255) ** 2.2 @ LUMINANCE
    assert (light.diff() > 0).all()


def test_three_deviations_are_half_of_the_range():
    normal = torch.randn(100_001)
    seen = levels(normal * 7 + 40)
    assert torch.allclose(seen, (normal / 6 + 0.5).clamp(0, 1), atol=0.01)


def test_outliers_change_nothing_else(decoder):
    latent = torch.randn(1, 64, 200)
    before = decoder(latent, 512)
    latent[0, 5, 7], latent[0, 6, 9] = 1e30, -1e6
    after = decoder(latent, 512)
    assert ((after - before).abs().amax(dim=0) > 0.01).sum() == 2
    assert brightness(after).std() > 0.1


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30])
def test_a_latent_without_differences_is_of_one_middle_colour(decoder, value):
    rgb = decoder(torch.full((1, 8, 30), value), 512)
    assert (rgb == rgb[:, :1, :1]).all()
    assert 0.1 < brightness(rgb)[0, 0] < 0.9


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((1, 64, 1), (256, 256)),
        ((1, 64, 100), (256, 256)),
        ((1, 64, 300), (300, 256)),
        ((1, 64, 1024), (1024, 512)),
        ((1, 64, 3000), (3000, 1500)),
        ((1, 8, 16, 600), (600, 512)),
        ((1, 128, 1_000_000), (4096, 2048)),
    ],
)
def test_its_picture_is_no_strip(decoder, shape, size):
    latent = torch.zeros(1).expand(shape)
    assert shown_size(decoder, latent.shape, 1 << 20) == size
    assert max(shown_size(decoder, latent.shape, 200)) == 200


@pytest.mark.parametrize(("length", "min_side", "columns"), [(900, 300, 300), (200, 300, 200)])
def test_long_times_are_averaged_before_they_are_coloured(decoder, length, min_side, columns):
    latent = torch.randn(1, 8, length) + torch.arange(8.0)[None, :, None]
    rgb = decoder(latent, min_side)
    assert rgb.shape == (3, 8, columns)
    if columns < length:
        means = torch.nn.functional.avg_pool1d(latent, length // columns)
        assert torch.allclose(rgb, decoder(means, min_side), atol=1e-5)


def test_the_longest_is_bounded_even_where_all_of_it_is_wanted(decoder):
    assert decoder(torch.randn(1, 2, 3 * WIDEST), 1 << 30).shape == (3, 2, WIDEST)


@pytest.mark.parametrize("shape", [(1, 16, 200), (1, 4, 4, 200)])
def test_moments_that_are_not_finite_are_grey_columns(decoder, shape):
    latent = torch.randn(shape)
    latent[0, 1, ..., 50] = torch.nan
    latent[0, 2, ..., 51] = -torch.inf
    picture, non_finite = painted(decoder, latent)
    assert non_finite == (2 if latent.ndim == 3 else 8)
    grey = (picture == torch.tensor(GREY, dtype=torch.uint8)).all(dim=2)
    assert grey.all(dim=0).nonzero().flatten().tolist() == [50, 51]
    assert not grey[:, :50].any()
    assert not grey[:, 52:].any()


def test_no_moment_that_is_not_finite_is_lost_among_many(decoder):
    latent = torch.randn(1, 64, 4000)
    latent[0, 3, [1, 2222]] = torch.nan
    picture, non_finite = painted(decoder, latent, max_size=400)
    assert non_finite == 2
    grey = (picture == torch.tensor(GREY, dtype=torch.uint8)).all(dim=2).all(dim=0)
    assert grey.nonzero().flatten().tolist() == [0, 222]


@pytest.mark.parametrize("shape", [(1, 64, 1024), (2, 8, 16, 300), (1, 64, 1)])
def test_it_does_the_same_work_for_all_latents_of_one_shape(shape):
    with FakeTensorMode():  # its tensors have no values: whoever asks for one fails
        picture, _ = RenderJob(Spectrogram(CPU), 512, images=2)(torch.randn(shape))
        assert picture.dtype == torch.uint8
