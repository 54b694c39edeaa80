"""Finish here: ComfyUI's own samplers are left at a step and return its x0."""

from __future__ import annotations

import contextlib
import inspect
import logging
import types
from functools import partial
from typing import Any

import pytest
import torch
from sidestream.preview.settings import SettingError
from sidestream.tests.helpers import wait_until
from sidestream.tests.stage import SIZE, all_told, demo_conditioning, empty_latent, with_settings

STEPS = 8


class Asker:
    """Asks at a step that it be the last, as its client, and keeps the x0 of each step."""

    def __init__(self, pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        from sidestream.preview.capture.previewer import Previewer

        self.pack = pack
        self.step: int | None = None
        self.seen: list[torch.Tensor] = []
        told, shows = Previewer.may_finish, Previewer._picture_of

        def may_finish(previewer: Any, finisher: Any) -> None:
            told(previewer, finisher)
            if finisher.is_open:
                self._ask(previewer)

        def picture_of(previewer: Any, x0: Any) -> torch.Tensor:
            whole = previewer._whole  # 0.33 hands the first of several latents over
            self.seen.append(packed(whole if whole.is_nested else x0).clone())
            self._ask(previewer)
            return shows(previewer, x0)

        monkeypatch.setattr(Previewer, "may_finish", may_finish)
        monkeypatch.setattr(Previewer, "_picture_of", picture_of)

    def _ask(self, previewer: Any) -> None:
        """A request is seen at the next step."""
        if self.step is not None and len(self.seen) == self.step - 1:
            self.pack.finish("c", previewer.run.id)

    def at(self, step: int | None) -> None:
        self.step = step
        self.seen.clear()


@pytest.fixture
def asker(pack: Any, monkeypatch: pytest.MonkeyPatch) -> Asker:
    return Asker(pack, monkeypatch)


def packed(latent: Any) -> torch.Tensor:
    """Nested latents as samplers have them."""
    if not latent.is_nested:
        return latent
    return torch.cat([each.flatten(1)[:, None] for each in latent.unbind()], dim=2)


def of_any_shape(stage: Any, latent_format: str) -> Any:
    """A MODEL for latents of any shape, whose guesses are the soft signs of what it is given."""
    model = stage.demo_model()
    model.model.diffusion_model.forward = lambda x, *_, **__: torch.tanh(x)
    model.model.latent_format = getattr(stage.comfy("comfy.latent_formats"), latent_format)()
    return with_settings(model)


def ksampler(stage: Any, model: Any, sampler: str = "euler", **latent: Any) -> Any:
    conditioning = demo_conditioning()
    start = {"samples": empty_latent(), **latent}
    [result] = stage.comfy.nodes.KSampler().sample(
        model, 1, STEPS, 1.0, sampler, "normal", conditioning, conditioning, start
    )
    return result["samples"]


def sampler_custom_advanced(stage: Any, model: Any) -> Any:
    extras = stage.comfy("comfy_extras.nodes_custom_sampler")
    samplers = stage.comfy("comfy.samplers")
    result, denoised = extras.SamplerCustomAdvanced.execute(
        extras.Noise_RandomNoise(1),
        extras.BasicGuider.execute(model, demo_conditioning()).args[0],
        samplers.sampler_object("euler"),
        samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS),
        {"samples": empty_latent()},
    ).args
    assert torch.allclose(result["samples"], denoised["samples"], atol=0.01)
    return result["samples"]


def nested(stage: Any, model: Any, *, seen_nested: bool) -> Any:
    """A video with sound; from 0.33 on callbacks see the parts of what is sampled as one."""
    kind = stage.comfy("comfy.nested_tensor").NestedTensor
    parts = kind([torch.zeros(1, 4, 3, SIZE, SIZE), torch.zeros(1, 8, 5, 2)])
    utils = stage.comfy("comfy.utils")

    def as_later_hosts(executor: Any, *args: Any, latent_shapes: Any, **more: Any) -> Any:
        *before, callback, silent, seed = args

        def see(step: int, x0: Any, x: Any, total: int) -> None:
            both = [kind(utils.unpack_latents(each, latent_shapes)) for each in (x0, x)]
            callback(step, *both, total)

        args = (*before, see if seen_nested else callback, silent, seed)
        return executor(*args, latent_shapes=latent_shapes, **more)

    if "packed_callback" in inspect.getsource(stage.comfy("comfy.samplers").CFGGuider):
        return ksampler(stage, model, samples=parts)  # this one does so itself
    model = model.clone()
    outer = stage.comfy("comfy.patcher_extension").WrappersMP.OUTER_SAMPLE
    model.add_wrapper_with_key(outer, "another pack", as_later_hosts)
    return ksampler(stage, model, samples=parts)


def half_a_mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, SIZE * 8, SIZE * 8)
    mask[..., : SIZE * 4] = 1
    return mask


DEMO = None
WAYS = {
    "euler": (ksampler, DEMO),
    **{name: (partial(ksampler, sampler=name), DEMO) for name in ("dpmpp_2m", "lcm", "uni_pc")},
    "SamplerCustomAdvanced": (sampler_custom_advanced, DEMO),
    "a batch": (partial(ksampler, samples=torch.zeros(3, 4, SIZE, SIZE)), DEMO),
    "a mask": (
        partial(ksampler, samples=torch.ones(1, 4, SIZE, SIZE), noise_mask=half_a_mask()),
        DEMO,
    ),
    "a video": (partial(ksampler, samples=torch.zeros(1, 16, 3, SIZE, SIZE)), "Wan21"),
    "nested": (partial(nested, seen_nested=False), "SD15"),
    "nested, from 0.33 on": (partial(nested, seen_nested=True), "SD15"),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_step_can_be_the_last_and_its_x0_is_the_result(
    stage, pack, client, told, asker, way
):
    sample, latent_format = WAYS[way]
    model = (
        with_settings(stage.demo_model())
        if latent_format is DEMO
        else of_any_shape(stage, latent_format)
    )
    asker.at(None)
    with stage.node():
        before = packed(sample(stage, model))
        assert all_told(pack)
    assert wait_until(lambda: ends(client) == [None])
    assert len(asker.seen) == STEPS
    for step in range(1, STEPS + 1):
        client.frames.clear()
        client.events.clear()
        asker.at(step)
        with stage.node():
            result = packed(sample(stage, model))
            assert all_told(pack)
        assert len(asker.seen) == step
        assert torch.equal(result, model.model.process_latent_out(asker.seen[-1].float()).cpu())
        assert (result.dtype, result.shape) == (before.dtype, before.shape)
        last = client.frames[-1].sidestream
        assert (last["step"], last["total_steps"]) == (step, STEPS)
        assert wait_until(lambda step=step: ends(client) == [step])
    assert_untouched(stage, model)
    client.events.clear()
    asker.at(None)
    with stage.node():
        assert torch.equal(packed(sample(stage, model)), before)
        assert all_told(pack)
    assert wait_until(lambda: ends(client) == [None])


def ends(client: Any) -> list[int | None]:
    """Where the runs whose end was told were finished early."""
    return [told.get("finished_early") for told in client.told_of_runs if told["state"] == "end"]


def assert_untouched(stage: Any, model: Any) -> None:
    """No wrapper of ours is left on the MODEL."""
    placed = model.model_options["transformer_options"].get("wrappers", {})
    assert not [key for place in placed.values() for key in place if "sidestream" in key]


def test_where_noise_is_to_be_left_it_is_left(stage, pack, client, told, asker):
    """For a second sampler, which goes on from there: one step of Euler's to the last sigma."""
    extras = stage.comfy("comfy_extras.nodes_custom_sampler")
    samplers = stage.comfy("comfy.samplers")
    model = with_settings(stage.demo_model())
    sampling = model.get_model_object("model_sampling")
    sigmas = samplers.calculate_sigmas(sampling, "normal", STEPS)[:6]
    conditioning = demo_conditioning()

    def sample(sigmas: torch.Tensor) -> torch.Tensor:
        with stage.node():
            return extras.SamplerCustom.execute(
                model, True, 1, 1.0, conditioning, conditioning,
                samplers.sampler_object("euler"), sigmas, {"samples": empty_latent()},
            ).args[0]["samples"]  # fmt: skip

    for step in range(1, 6):
        asker.at(None)
        expected = sample(torch.cat([sigmas[:step], sigmas[-1:]]))
        asker.at(step)
        torch.testing.assert_close(sample(sigmas), expected, atol=1e-4, rtol=1e-4)


def test_i7_the_step_is_shown_whatever_the_throttle_says(stage, pack, client, told):
    """And of several samplings of a node only the current one ends."""
    model = with_settings(stage.demo_model(), throttle_ms=60_000)
    calls = []

    def ask(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 5:
            [run] = pack.client("c")["runs"]
            assert run["can_finish"]
            pack.finish("c", run["run"])

    model.model.diffusion_model.register_forward_pre_hook(ask)
    with stage.node():
        stage.sample(model, steps=STEPS)
        assert len(calls) == 5
        stage.sample(model, steps=STEPS)
    assert all_told(pack)
    labels = [(f.sidestream["stage"], f.sidestream["step"]) for f in client.frames]
    assert labels == [(1, 1), (1, 5), (2, STEPS)]
    assert wait_until(lambda: ends(client) == [5, None])


def test_i8_nobody_else_can_finish_it(stage, pack, client, told, asker):
    def refused(client_id: str, run: str) -> str:
        with pytest.raises(SettingError) as error:
            pack.finish(client_id, run)
        return str(error.value)

    def ask(*_: Any) -> None:
        [run] = pack.client("c")["runs"]
        unknown = "run must be the id of a run of this client that is sampling"
        assert refused("another", run["run"]) == unknown
        assert refused("c", "another") == unknown

    model = with_settings(stage.demo_model())
    model.model.diffusion_model.register_forward_pre_hook(ask)
    with stage.node():
        stage.sample(model, steps=STEPS)
        assert all_told(pack)
    assert client.steps == list(range(1, STEPS + 1))


def test_what_cannot_be_finished_says_so_and_goes_on(stage, pack, client, told, latent_preview):
    """A sampler that no MODEL of ComfyUI's is behind."""
    model = types.SimpleNamespace(
        load_device=torch.device("cpu"),
        model=types.SimpleNamespace(latent_format=stage.comfy("comfy.latent_formats").SD15()),
        model_options={"sidestream": {"throttle_ms": 0, "budget": 0}},
    )
    with stage.node():
        callback = latent_preview.prepare_callback(model, 2)
        callback(0, empty_latent(), empty_latent(), 2)
        [run] = pack.client("c")["runs"]
        assert not run["can_finish"]
        with pytest.raises(SettingError, match="run cannot be finished early"):
            pack.finish("c", run["run"])
        stage.wait_for_frames()
        callback(1, empty_latent(), empty_latent(), 2)
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2]


def test_i6_a_sampler_that_lets_nothing_pass_goes_on(stage, pack, client, told, asker, caplog):
    samplers = stage.comfy("comfy.samplers")
    extras = stage.comfy("comfy_extras.nodes_custom_sampler")
    model = with_settings(stage.demo_model())
    sigmas = samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", STEPS)
    euler = samplers.sampler_object("euler").sampler_function

    def stubborn(*args: Any, callback: Any, **more: Any) -> torch.Tensor:
        def call(told: Any) -> None:
            with contextlib.suppress(BaseException):
                callback(told)

        return euler(*args, callback=call, **more)

    def sample() -> torch.Tensor:
        conditioning = demo_conditioning()
        with stage.node():
            result = extras.SamplerCustom.execute(
                model, True, 1, 1.0, conditioning, conditioning, samplers.KSAMPLER(stubborn),
                sigmas, {"samples": empty_latent()},
            ).args[0]["samples"]  # fmt: skip
            assert all_told(pack)
            return result

    before = sample()
    client.frames.clear()
    asker.at(3)
    with caplog.at_level(logging.INFO):
        assert torch.equal(sample(), before)
    assert client.steps == list(range(1, STEPS + 1))
    assert wait_until(lambda: ends(client) == [None, None])
    [line] = [r.getMessage() for r in caplog.records if "[SideStream]" in r.getMessage()]
    assert line == "[SideStream] This sampler cannot be finished early."


def test_i7_an_interrupt_at_the_same_step_wins(stage, pack, client, told, asker):
    management = stage.comfy("comfy.model_management")
    model = with_settings(stage.demo_model())
    asker.at(3)

    def interrupt(*_: Any) -> None:
        if len(asker.seen) == 2:
            management.interrupt_current_processing()

    model.model.diffusion_model.register_forward_pre_hook(interrupt)
    with stage.node(), pytest.raises(management.InterruptProcessingException):
        stage.sample(model, steps=STEPS)
    management.interrupt_current_processing(False)
    assert all_told(pack)
    assert wait_until(lambda: ends(client) == [None])
    assert_untouched(stage, model)
