"""Animations on a GPU: I2 ordered, I3 true, I11 light."""

from __future__ import annotations

import gc
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from sidestream.benchmarks.weights import WAN, video_decoder
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.taehv import TaehvSource
from sidestream.preview.render import animation as animation_module
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.backends import backends_for
from sidestream.preview.render.job import StreamingRenderJob
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import FakeSink, a_book, stage, start_run, wait_until

pytestmark = pytest.mark.gpu

FRAMES = 6


def half(device):
    return torch.float16


@pytest.fixture
def sink():
    return FakeSink()


@pytest.fixture
def engine(cuda, sink):
    made = Engine(backends_for(cuda, cuda), DecoderCache(), sink)
    yield made
    made.close(5)


@pytest.fixture
def source(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        torch.save(video_decoder(WAN), tmp_path / "lighttaew2_1.pth")
    return TaehvSource.of(str(tmp_path / "lighttaew2_1.pth"), 16, half)


def random_video(seed, device):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 16, FRAMES, 20, 30, generator=generator).to(device)


def animations(sink):
    return [frame for frame in sink.frames if frame.info.animation is not None]


def pictures_of(frame):
    animation = Image.open(io.BytesIO(frame.data))
    return [np.asarray(each.convert("RGB")) for each in ImageSequence.Iterator(animation)]


def reference(source, video):
    """Every picture of the video, decoded in float32 on the CPU without haste."""
    cpu = torch.device("cpu")
    decoder = TaehvSource.of(source.path, 16).load(cpu)
    streaming = StreamingRenderJob(decoder, 512, full=True)
    streaming.rewind()
    made = []
    for i in range(FRAMES):
        pictures, _ = streaming(video[:, :, i : i + 1].cpu())
        made += [pictures[kept].numpy() for kept in decoder.visible_frames(i)]
    return made


def psnr(one, other):
    error = np.square(one.astype(np.float32) - other.astype(np.float32)).mean()
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)


def test_i2_i3_animations_are_of_their_step_on_any_stream(cuda, sink, engine, source, monkeypatch):
    monkeypatch.setattr(animation_module, "ENCODING_SHARE", 1e9)
    run = start_run(a_book(), source, video_frames=0, quality=100, detail="full")
    steps = range(1, 5)
    with torch.cuda.stream(torch.cuda.Stream(cuda)):
        for step in steps:
            latent = random_video(step, cuda)
            run.at(step, 4)
            stage(engine, run, latent)
            latent.fill_(-9)
            assert wait_until(lambda n=step: len(animations(sink)) == n, 30)
    assert [animation.label.step for animation in animations(sink)] == list(steps)
    for step, animation in zip(steps, animations(sink), strict=True):
        expected = reference(source, random_video(step, cuda))
        shown = pictures_of(animation)
        assert len(shown) == len(expected) == 4 * FRAMES - 3
        # Random weights give noise, of which WebP keeps little: other frames are near 10 dB.
        assert min(map(psnr, shown, expected)) > 20


def test_i11_an_animation_leaves_no_memory_behind(cuda, sink, engine, source, monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.3)
    engine._decoders.get(source, cuda)
    gc.collect()
    weights = torch.cuda.memory_allocated(cuda)
    reserved = torch.cuda.memory_reserved(cuda)
    run = start_run(a_book(), source)
    latent = random_video(1, cuda)
    run.at(1, 4)  # step 0 is noise, which is not animated
    stage(engine, run, latent)
    assert wait_until(lambda: len(animations(sink)) == 1, 30)
    del latent
    assert wait_until(lambda: torch.cuda.memory_allocated(cuda) <= weights)
    torch.cuda.empty_cache()  # what is idle is the sampler's to take
    assert torch.cuda.memory_reserved(cuda) <= reserved + (4 << 20)
