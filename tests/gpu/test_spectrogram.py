"""Spectrograms on a GPU: recordable, and the same as on a CPU."""

from __future__ import annotations

import pytest
import torch
from sidestream.preview.decoders.painting import Painting
from sidestream.preview.decoders.spectrogram import SpectrogramSource

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shape", [(1, 64, 1024), (1, 8, 16, 646), (1, 256, 9000), (2, 64, 1)])
def test_a_recorded_spectrogram_is_that_of_the_cpu(shape):
    source = SpectrogramSource()
    painting = Painting(source.load(torch.device("cuda")), 512, images=2)
    reference = Painting(source.load(torch.device("cpu")), 512, images=2)
    latent = torch.zeros(shape, device="cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream), torch.inference_mode():
        for _ in range(3):
            painting(latent)
        graph.capture_begin(capture_error_mode="thread_local")
        picture, holes = painting(latent)
        graph.capture_end()
        for seed in range(5):
            fresh = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            fresh[0, 1, ..., 0] = torch.nan
            latent.copy_(fresh)
            graph.replay()
            stream.synchronize()
            expected, expected_holes = reference(fresh)
            assert (picture.cpu().int() - expected.int()).abs().max() <= 1
            assert holes.cpu() == expected_holes
