"""How far x0 goes, on a GPU: true behind a busy sampler, and on every backend."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.render.backends import backends_for
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import FakeSink, FakeSource, a_book, stage, start_run, wait_until
from sidestream.tests.test_convergence import latents, reference

pytestmark = pytest.mark.gpu

SHAPE = (1, 16, 128, 128)
STEPS = 20


@pytest.mark.parametrize("decoded_on", ["the sampler's GPU", "the CPU"])
@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
def test_i3_changes_and_sigmas_are_those_of_their_steps(cuda, decoded_on, precision):
    device = torch.device("cpu") if decoded_on == "the CPU" else cuda
    sink = FakeSink()
    engine = Engine(backends_for(device, cuda), DecoderCache(), sink)
    run = start_run(a_book(), FakeSource(precision=precision))
    of = latents(STEPS, SHAPE)
    on_device = [each.to(cuda) for each in of]
    x0 = torch.empty(SHAPE, device=cuda)
    with torch.cuda.stream(torch.cuda.Stream(cuda)), torch.inference_mode():
        run.sigmas = torch.linspace(14.6, 0, STEPS + 1, device=cuda)
        for step in range(1, STEPS + 1):
            x0.fill_(255)
            torch.cuda._sleep(400_000)  # who does not wait for the step compares another latent
            x0.copy_(on_device[step - 1])
            run.at(step, STEPS)
            stage(engine, run, x0)
            x0.fill_(0)  # and so does who comes late
            assert wait_until(lambda: run.open_frames == 0)
    engine.close(5)
    assert [frame.label.step for frame in sink.frames] == list(range(1, STEPS + 1))
    changes = [frame.info.change for frame in sink.frames]
    assert changes[0] is None
    assert [change.since for change in changes[1:]] == list(range(1, STEPS))
    wanted = [reference(a, b) for a, b in pairwise(of)]
    tolerance = torch.finfo(precision).eps
    assert [c.rms for c in changes[1:]] == pytest.approx(wanted, rel=1e-3, abs=tolerance)
    sigmas = [frame.info.sigma for frame in sink.frames]
    assert sigmas == pytest.approx([14.6 * (1 - i / STEPS) for i in range(STEPS)], rel=1e-3)


def test_i11_nothing_is_allocated_from_the_second_frame_on(cuda):
    engine = Engine(backends_for(cuda, cuda), DecoderCache(), FakeSink())
    run = start_run(a_book(), FakeSource())
    run.sigmas = torch.linspace(1, 0, 101, device=cuda)
    x0 = torch.randn(SHAPE, device=cuda)
    reserved = 0
    with torch.inference_mode():
        for step in range(1, 101):
            run.at(step, 100)
            stage(engine, run, x0)
            assert wait_until(lambda: run.open_frames == 0)
            if step == 5:
                reserved = torch.cuda.memory_reserved(cuda)
    assert torch.cuda.memory_reserved(cuda) == reserved
    engine.close(5)
