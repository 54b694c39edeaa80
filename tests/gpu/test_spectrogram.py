"""Spectrograms on a GPU: the same as on a CPU."""

from __future__ import annotations

import pytest
import torch
from sidestream.preview.decoders.spectrogram import SpectrogramSource
from sidestream.preview.render.job import RenderJob

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shape", [(1, 64, 1024), (1, 8, 16, 646), (1, 256, 9000), (2, 64, 1)])
def test_a_spectrogram_is_that_of_the_cpu(shape):
    source = SpectrogramSource()
    job = RenderJob(source.load(torch.device("cuda")), 512, images=2)
    reference = RenderJob(source.load(torch.device("cpu")), 512, images=2)
    with torch.inference_mode():
        for seed in range(5):
            latent = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            latent[0, 1, ..., 0] = torch.nan
            picture, non_finite = job(latent.cuda())
            expected, expected_non_finite = reference(latent)
            assert (picture.cpu().int() - expected.int()).abs().max() <= 1
            assert non_finite.cpu() == expected_non_finite
