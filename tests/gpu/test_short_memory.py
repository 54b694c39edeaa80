"""I6 on a GPU that the sampler has nearly filled: a large decoder leaves it to a small one."""

from __future__ import annotations

import logging

import pytest
import torch
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.taesd import TaesdSource, decoder_layers
from sidestream.preview.decoders.vae import RESERVE, VaeSource
from sidestream.preview.render.backends import backends_for
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import FakeSink, a_book, stage, start_run, wait_until
from sidestream.tests.test_vae import unchanged, vae_copy

pytestmark = pytest.mark.gpu


def half(device):
    return torch.bfloat16


@pytest.fixture
def sources(tmp_path):
    """A VAE whose tiles take hundreds of megabytes, and TAESD."""
    torch.save(decoder_layers(4, pooled=False).state_dict(), tmp_path / "taesd_decoder.pth")
    vae = VaeSource(vae_copy(precision=half, numbers_held=140_000), unchanged)
    return vae, TaesdSource.of(str(tmp_path / "taesd_decoder.pth"), 4, half)


def previewed(cuda, sources, steps):
    """The decoders of so many frames of a run."""
    sink = FakeSink()
    engine = Engine(backends_for(cuda, cuda), DecoderCache(), sink)
    run = start_run(a_book(), *sources)
    latent = torch.randn(1, 4, 128, 128, device=cuda)
    for step in range(1, steps + 1):
        run.at(step, steps)
        stage(engine, run, latent)
        assert wait_until(lambda: run.open_frames == 0, 30)
    engine.close(5)
    return [frame.info.decoder for frame in sink.frames]


def test_i6_with_1_gb_free_a_smaller_decoder_takes_over_with_one_line(cuda, sources, caplog):
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(cuda)
    block = torch.empty(free - RESERVE, dtype=torch.uint8, device=cuda)
    try:
        with caplog.at_level(logging.WARNING):
            assert previewed(cuda, sources, 4) == ["taesd"] * 4
    finally:
        del block
        torch.cuda.empty_cache()
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith("[SideStream] vae previews failed (")
    assert lines[0].endswith("this run continues with taesd previews and retries them later.")


def test_with_room_the_vae_is_shown(cuda, sources):
    torch.cuda.empty_cache()
    assert previewed(cuda, sources, 3) == ["vae"] * 3
