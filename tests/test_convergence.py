"""How far x0 goes from frame to frame, and the sigma of each step: true, bounded, and free."""

from __future__ import annotations

import math
import time
from itertools import pairwise

import pytest
import torch
from sidestream.preview.deliver.messages import told_of
from sidestream.preview.records import FIRST_IMAGE, Encoded
from sidestream.preview.render import convergence, worker
from sidestream.tests.helpers import (
    FakeSink,
    FakeSource,
    FlatDecoder,
    a_book,
    an_engine,
    stage,
    start_run,
    wait_until,
)
from sidestream.tests.stage import all_told, with_settings

SHAPE = (1, 4, 8, 8)


def latents(count: int, shape: tuple[int, ...] = SHAPE) -> list[torch.Tensor]:
    """Of a sampling that comes nearer and nearer to its last one."""
    generator = torch.Generator().manual_seed(3)
    goal, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    return [goal + noise * 0.7**step for step in range(count)]


def reference(earlier: torch.Tensor, later: torch.Tensor) -> float:
    """The change in double precision."""
    earlier, later = earlier.double(), later.double()
    return ((later - earlier).square().mean().sqrt() / later.square().mean().sqrt()).item()


Steps = dict[int, torch.Tensor] | list[tuple[int, torch.Tensor]]


def shown(steps: Steps, *runs, images: range = FIRST_IMAGE) -> list[Encoded]:
    """The frames of `steps`, each shown before the next one, of `runs` by turns."""
    sink = FakeSink()
    engine = an_engine(sink)
    for step, latent in steps.items() if isinstance(steps, dict) else steps:
        run = runs[step % len(runs)]
        run.at(step, 20)
        stage(engine, run, latent, images)
        assert wait_until(lambda: run.open_frames == 0)  # noqa: B023
    engine.close()
    return sink.frames


def changes(frames: list[Encoded]) -> list[tuple[float, int] | None]:
    return [None if f.info.change is None else tuple(f.info.change) for f in frames]


@pytest.mark.parametrize("precision", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [SHAPE, (1, 4, 3, 8, 8)])
def test_the_change_is_that_from_the_frame_before(precision, shape):
    run = start_run(a_book(), FakeSource(precision=precision))
    of = latents(7, shape)
    frames = shown({1: of[0], 2: of[1], 3: of[2], 6: of[5], 7: of[6]}, run)
    [first, *others] = changes(frames)
    assert first is None
    assert [since for _, since in others] == [1, 2, 3, 6]
    wanted = [reference(of[i], of[j]) for i, j in ((0, 1), (1, 2), (2, 5), (5, 6))]
    tolerance = torch.finfo(precision).eps
    assert [rms for rms, _ in others] == pytest.approx(wanted, rel=1e-3, abs=tolerance)
    assert told_of(frames[3], 0)["change"] == {"rms": others[2][0], "since": 3}
    assert "change" not in told_of(frames[0], 0)


def test_samplings_by_turns_and_other_images_are_not_compared():
    book, of = a_book(), latents(5)
    one, other = start_run(book, FakeSource()), start_run(book, FakeSource())
    assert changes(shown(dict(enumerate(of, 1)), one, other)) == [None] * 5
    batch = torch.cat(of[:2])
    frames = shown({1: batch}, one, images=range(2)) + shown({2: batch}, one)
    assert changes(frames) == [None, None]


def test_a_step_that_is_shown_again_is_not_compared_with_itself():
    of = latents(3)
    frames = shown([(1, of[0]), (1, of[1]), (2, of[2])], start_run(a_book(), FakeSource()))
    assert [change and change[1] for change in changes(frames)] == [None, None, 1]


def test_what_is_no_number_is_not_told_and_the_next_step_is():
    of = latents(4)
    of[1][0, 0, 0, 0] = math.nan
    frames = shown(dict(enumerate([*of, torch.zeros(SHAPE)], 1)), start_run(a_book(), FakeSource()))
    assert [change is None for change in changes(frames)] == [True, True, True, False, True]


def test_a_decoder_that_fails_leaves_the_change_to_the_next_one():
    of, shots = latents(3), []

    def fail_once() -> None:
        shots.append(1)
        if len(shots) == 2:
            raise RuntimeError("out of order")

    run = start_run(a_book(), FakeSource(FlatDecoder(before=fail_once)), FakeSource())
    frames = shown(dict(enumerate(of, 1)), run)
    assert [change and change[1] for change in changes(frames)] == [None, 1, 2]


def test_a_comparison_that_fails_costs_no_picture(monkeypatch):
    def fail(values: torch.Tensor) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(convergence, "norm", fail)
    frames = shown(dict(enumerate(latents(3), 1)), start_run(a_book(), FakeSource()))
    assert changes(frames) == [None] * 3
    assert {frame.info.decoder for frame in frames} == {"flat"}


def test_i5_of_a_large_latent_a_part_is_compared_and_kept(monkeypatch):
    monkeypatch.setattr(convergence, "VALUES", 1000)
    of = latents(2, (1, 4, 32, 33))
    frames = shown({1: of[0], 2: of[1]}, start_run(a_book(), FakeSource()))
    [_, change] = changes(frames)
    assert change
    assert change[0] == pytest.approx(reference(of[0][..., ::5], of[1][..., ::5]), rel=1e-3)
    assert change[0] == pytest.approx(reference(*of), rel=0.1)


def test_i11_an_idle_worker_keeps_no_latent(monkeypatch):
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.01)
    engine = an_engine(FakeSink())
    run = start_run(a_book(), FakeSource())
    run.at(1, 20)
    stage(engine, run, latents(1)[0])
    assert wait_until(lambda: run.open_frames == 0)
    assert wait_until(lambda: engine._convergence._earlier is None)
    engine.close()


# ComfyUI's own samplers


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "lcm", "uni_pc"])
def test_each_step_is_told_with_its_sigma_its_time_and_the_change(
    stage, pack, client, sampler, monkeypatch
):
    from sidestream.preview.capture.previewer import Previewer

    seen, between, shows, captures = [], [], Previewer._picture_of, Previewer._capture

    def picture_of(previewer, x0):
        seen.append(x0.clone())
        return shows(previewer, x0)

    def capture(previewer, latent):
        before = time.monotonic()
        captures(previewer, latent)
        between.append((before * 1000, time.monotonic() * 1000))

    monkeypatch.setattr(Previewer, "_picture_of", picture_of)
    monkeypatch.setattr(Previewer, "_capture", capture)
    stage.waits_for = pack
    model = with_settings(stage.demo_model())
    began = time.monotonic() * 1000
    with stage.node():
        stage.sample(model, steps=6, sampler=sampler)
    assert all_told(pack)
    told = [frame.sidestream for frame in client.frames]
    assert [one["step"] for one in told] == [1, 2, 3, 4, 5, 6]
    samplers = stage.comfy("comfy.samplers")
    sampling = model.get_model_object("model_sampling")
    wanted = samplers.calculate_sigmas(sampling, "normal", 6).tolist()[:6]
    if sampler in samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS:
        wanted = samplers.calculate_sigmas(sampling, "normal", 7).tolist()[:6]
    assert [one["sigma"] for one in told] == pytest.approx(wanted, rel=1e-3)
    elapsed = [one["elapsed_ms"] for one in told]
    assert 0 <= elapsed[0] <= between[0][1] - began + 1
    for (a, b), (one, other) in zip(pairwise(elapsed), pairwise(between), strict=True):
        assert other[0] - one[1] - 1 <= b - a <= other[1] - one[0] + 1  # in whole ms
    went = [one["change"]["rms"] for one in told[1:]]
    assert went == pytest.approx([reference(a, b) for a, b in pairwise(seen)], rel=0.01, abs=1e-4)
    assert [one["change"]["since"] for one in told[1:]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("sampler", ["dpm_fast", "dpm_adaptive"])
def test_a_sampler_that_goes_by_sigmas_of_its_own_has_none_told(stage, pack, client, sampler):
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=6, sampler=sampler)
    assert all_told(pack)
    assert client.frames
    assert not [frame for frame in client.frames if "sigma" in frame.sidestream]


@pytest.mark.parametrize(
    "sigmas", [None, "nonsense", torch.tensor([1.0, 0.0]), torch.full((21,), math.nan)]
)
def test_sigmas_that_are_not_those_of_the_steps_are_not_told(sigmas):
    run = start_run(a_book(), FakeSource())
    run.sigmas = sigmas
    frames = shown(dict(enumerate(latents(2), 1)), run)
    assert [frame.info.sigma for frame in frames] == [None, None]
    assert "sigma" not in told_of(frames[0], 0)
