"""The seam with ComfyUI, its own modules in this process.

I3 true, I4 harmless, I6 contained, I9 obedient, I10 polite.
"""

from __future__ import annotations

import gc
import logging
import random
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sidestream.preview.capture.runs import Run
from sidestream.tests.helpers import wait_until
from sidestream.tests.pictures import decoded, psnr
from sidestream.tests.stage import (
    SIZE,
    Stage,
    active_runs,
    all_told,
    demo_conditioning,
    empty_latent,
    no_frame_is_open,
    with_settings,
)

CPU = torch.device("cpu")


def sd15(stage: Stage) -> Any:
    return stage.comfy("comfy.latent_formats").SD15()


# Every sampler


def ksampler(stage: Stage, model: Any) -> None:
    stage.sample(model, steps=6)


def ksampler_advanced(stage: Stage, model: Any) -> None:
    conditioning = demo_conditioning()
    stage.comfy.nodes.KSamplerAdvanced().sample(
        model, "enable", 1, 9, 1.0, "euler", "normal", conditioning, conditioning,
        {"samples": empty_latent()}, start_at_step=3, end_at_step=9,
        return_with_leftover_noise="disable",
    )


def sampler_custom(stage: Stage, model: Any) -> None:
    extras, conditioning = stage.comfy("comfy_extras.nodes_custom_sampler"), demo_conditioning()
    sampler = stage.comfy("comfy.samplers").sampler_object("euler")
    extras.SamplerCustom.execute(
        model, True, 1, 1.0, conditioning, conditioning, sampler, sigmas(stage, model, 6),
        {"samples": empty_latent()},
    )


def sampler_custom_advanced(stage: Stage, model: Any) -> None:
    extras = stage.comfy("comfy_extras.nodes_custom_sampler")
    guider = extras.BasicGuider.execute(model, demo_conditioning()).args[0]
    sampler = stage.comfy("comfy.samplers").sampler_object("euler")
    extras.SamplerCustomAdvanced.execute(
        extras.Noise_RandomNoise(1), guider, sampler, sigmas(stage, model, 6),
        {"samples": empty_latent()},
    )


def sigmas(stage: Stage, model: Any, steps: int) -> torch.Tensor:
    sampling = model.get_model_object("model_sampling")
    return stage.comfy("comfy.samplers").calculate_sigmas(sampling, "normal", steps)


SAMPLERS = [ksampler, ksampler_advanced, sampler_custom, sampler_custom_advanced]


@pytest.mark.parametrize("run_sampler", SAMPLERS)
def test_every_sampler_node_has_previews(stage, pack, client, told, run_sampler):
    with stage.node("7") as prompt:
        run_sampler(stage, with_settings(stage.demo_model()))
        assert all_told(pack)
    assert client.steps == [1, 2, 3, 4, 5, 6]
    for frame in client.frames:
        assert frame.sidestream["total_steps"] == 6
        assert (frame.metadata["prompt_id"], frame.metadata["node_id"]) == (prompt, "7")
    assert wait_until(lambda: client.run_states == ["start", "end"])


def test_two_samplings_of_one_node_are_two_stages_of_one_run(stage, pack, client, told):
    model = with_settings(stage.demo_model())
    with stage.node():
        stage.sample(model, steps=3)
        stage.sample(model, steps=3, seed=2)
        assert all_told(pack)
    labels = [(f.sidestream["stage"], f.sidestream["step"]) for f in client.frames]
    assert labels == [(stage, step) for stage in (1, 2) for step in (1, 2, 3)]
    assert len({frame.sidestream["run"] for frame in client.frames}) == 1
    assert pack.status()["counters"]["runs"] == 1


def own_callback(stage: Stage, previewer: Any, latents: list[torch.Tensor]) -> list[Any]:
    """What packs with callbacks of their own do with a previewer."""
    bar = stage.comfy("comfy.utils").ProgressBar(len(latents))
    previews = []
    for step, x0 in enumerate(latents):
        previews.append(previewer.decode_latent_to_preview_image("JPEG", x0))
        bar.update_absolute(step + 1, len(latents), previews[-1])
        stage.wait_for_frames()
    return previews


def test_packs_that_call_get_previewer_themselves_have_previews(
    stage, pack, client, told, latent_preview
):
    with stage.node():
        previewer = latent_preview.get_previewer(CPU, sd15(stage))
        pack.change("c", {"throttle_ms": 0, "budget": 0})
        previews = own_callback(stage, previewer, [torch.randn(1, 4, SIZE, SIZE) for _ in range(4)])
        del previewer
        assert all_told(pack)
    assert [type(each).__name__ for each in previews] == ["Unmade"] * 4
    assert client.steps == [1, 2, 3, 4]
    # The number of steps is what the node's progress says, from its first report on.
    assert [frame.sidestream["total_steps"] for frame in client.frames[1:]] == [4] * 3


def test_i5_a_callback_for_many_samplings_keeps_the_newest_run_alone(
    stage, pack, client, told, latent_preview
):
    before = set(map(id, all_runs()))
    model = with_settings(stage.demo_model())
    with stage.node():
        callback = latent_preview.prepare_callback(model, 1)
        for _ in range(20):
            callback(0, torch.randn(1, 4, SIZE, SIZE), None, 1)
            [run] = pack._runs._active.values()
            run.end()
            del run
            assert all_told(pack)
    assert wait_until(lambda: len([run for run in all_runs() if id(run) not in before]) == 1)


def all_runs() -> list[Run]:
    gc.collect()
    return [thing for thing in gc.get_objects() if type(thing) is Run]


def test_packs_that_decode_by_themselves_get_comfyuis_picture(stage, pack, told, latent_preview):
    latent, format = torch.randn(1, 4, SIZE, SIZE), sd15(stage)
    own = latent_preview.Latent2RGBPreviewer(format.latent_rgb_factors)
    for method in ("none", "latent2rgb"):
        told(method=method)
        with stage.node():
            picture = latent_preview.get_previewer(CPU, format).decode_latent_to_preview(latent)
        assert np.array_equal(picture, own.decode_latent_to_preview(latent))


# I3: true


def test_i3_frames_are_of_their_step_though_the_sampler_overwrites_x0(
    stage, pack, client, told, latent_preview
):
    truths: list[torch.Tensor] = []

    def overwriting(model, x, sigmas, extra_args=None, callback=None, disable=None):
        for i in range(20):
            x0 = torch.randn(1, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(i))
            truths.append(x0.clone())
            callback({"x": x, "i": i, "sigma": 1.0, "sigma_hat": 1.0, "denoised": x0})
            x0.fill_(100.0 * (-1) ** i)
            if i % 2:
                assert wait_until(lambda: no_frame_is_open(pack))
        return x

    stage.waits_for = None
    model = with_settings(stage.demo_model(), format="png")
    sampler = stage.comfy("comfy.samplers").KSAMPLER(overwriting)
    conditioning = demo_conditioning()
    with stage.node():
        stage.comfy("comfy_extras.nodes_custom_sampler").SamplerCustom.execute(
            model, True, 1, 1.0, conditioning, conditioning, sampler, sigmas(stage, model, 20),
            {"samples": empty_latent()},
        )
        assert all_told(pack)
    assert len(client.frames) >= 10
    own = latent_preview.Latent2RGBPreviewer(sd15(stage).latent_rgb_factors)
    for frame in client.frames:
        truth = own.decode_latent_to_preview(truths[frame.sidestream["step"] - 1])
        expected = np.asarray(truth.resize((8 * SIZE, 8 * SIZE), 2))
        assert psnr(decoded(frame.image), expected) > 40


# I4: harmless


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2s_ancestral"])
def test_i4_latents_are_bit_identical_with_sidestream_on_off_and_absent(
    stage, make_pack, client, told, sampler
):
    def sampled(**settings: Any) -> tuple[bytes, bytes]:
        model = stage.demo_model()
        with stage.node():
            latent = stage.sample(
                with_settings(model, **settings) if settings else model, steps=8, sampler=sampler
            )
        return latent.numpy().tobytes(), torch.get_rng_state().numpy().tobytes()

    absent = sampled()
    pack = make_pack()
    assert sampled(method="off") == absent
    assert client.frames == []
    assert sampled() == absent
    assert sampled(method="latent2rgb", format="webp") == absent
    assert client.steps[-8:] == [1, 2, 3, 4, 5, 6, 7, 8]
    pack.close()
    assert sampled() == absent


def torch_state() -> dict[str, Any]:
    """What a preview could leak into the sampler's thread or into everybody's torch."""
    return {
        "rng": torch.get_rng_state().numpy().tobytes(),
        "random": random.getstate(),
        "numpy": tuple(map(str, np.random.get_state())),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "autocast": torch.is_autocast_enabled("cpu"),
        "stream": torch.cuda.current_stream() if torch.cuda.is_initialized() else None,
    }


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_i4_a_callback_leaves_no_trace_in_torch(stage, pack, client, told, latent_preview, mode):
    model = with_settings(stage.demo_model())
    with stage.node(), torch.inference_mode(False), mode():
        before = torch_state()
        callback = latent_preview.prepare_callback(model, 5)
        x0 = torch.randn(1, 4, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
        kept = x0.clone()
        for step in range(5):
            callback(step, x0, x0, 5)
            stage.wait_for_frames()
        assert torch_state() == before
        assert torch.equal(x0, kept)
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2, 3, 4, 5]


def test_i4_the_model_is_as_it_was_after_sampling(stage, pack, client, told):
    model = stage.demo_model()
    with stage.node():
        stage.sample(model)
        wrappers = model.model_options["transformer_options"].get("wrappers", {})
    assert not any(wrappers.get("outer_sample", {}).values())
    assert model.wrappers == stage.demo_model().wrappers


# I6: contained


def test_i6_a_plan_that_fails_leaves_comfyuis_own_previews(
    stage, pack, client, told, latent_preview, monkeypatch, caplog
):
    from sidestream.preview import host

    monkeypatch.setattr(host.prompts, "current_context", lambda: 1 / 0)
    with stage.node():
        assert latent_preview.get_previewer(CPU, sd15(stage)) is None
        told(method="latent2rgb")
        previewer = latent_preview.get_previewer(CPU, sd15(stage))
        stage.sample(stage.demo_model())
    assert type(previewer) is latent_preview.Latent2RGBPreviewer
    assert "Previews could not be set up" in caplog.text


def test_i6_a_capture_that_fails_costs_the_runs_previews_and_one_line(
    stage, pack, client, told, monkeypatch, caplog
):
    from sidestream.preview import host

    monkeypatch.setattr(host.sampling, "latent_frame", lambda x0: 1 / 0)
    with stage.node():
        stage.sample(with_settings(stage.demo_model()))
        assert all_told(pack)
    assert client.frames == []
    assert len([r for r in caplog.records if "SideStream" in r.getMessage()]) == 1


def test_i6_a_sampler_that_fails_ends_its_run(stage, pack, client, told):
    def failing(model, x, sigmas, extra_args=None, callback=None, disable=None):
        callback({"x": x, "i": 0, "sigma": 1.0, "sigma_hat": 1.0, "denoised": x})
        raise ValueError("out of luck")

    model, conditioning = with_settings(stage.demo_model()), demo_conditioning()
    extras = stage.comfy("comfy_extras.nodes_custom_sampler")
    sampler = stage.comfy("comfy.samplers").KSAMPLER(failing)
    with stage.node(), pytest.raises(ValueError, match="out of luck"):
        extras.SamplerCustom.execute(
            model, True, 1, 1.0, conditioning, conditioning, sampler, sigmas(stage, model, 3),
            {"samples": empty_latent()},
        )
    assert wait_until(lambda: active_runs(pack) == 0)


def test_i1_a_previewer_that_becomes_garbage_at_any_moment_hangs_nobody(
    stage, pack, client, told, latent_preview
):
    with stage.node():
        previewers = [latent_preview.get_previewer(CPU, sd15(stage)) for _ in range(3)]
    locks = [pack._runs._lock, pack._transport._lock, previewers[0].run._lock]

    def collect() -> None:
        # As when the garbage collector finds it while this thread is in the midst of something.
        for lock in locks:
            with lock:
                previewers.pop()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert wait_until(lambda: active_runs(pack) == 0)


# I9: obedient

# The command line, ComfyUI's method after it (and after the prompt's own), the prompt's extra
# data, and what somebody chose by that; None where nobody chose.
CHOICES = [
    ("", "none", {}, None),
    ("--cpu --preview-size 256", "none", {}, None),
    ("", "none", {"preview_method": "default"}, None),
    ("--preview-method none", "none", {}, "none"),
    ("--cpu --preview-method=none", "none", {}, "none"),
    ("--preview-method none", "none", {"preview_method": "default"}, "none"),
    ("", "none", {"preview_method": "none"}, "none"),
    ("--preview-method latent2rgb", "none", {"preview_method": "none"}, "none"),
    ("--preview-method latent2rgb", "latent2rgb", {}, "latent2rgb"),
    ("--preview-method auto", "auto", {}, "auto"),
    ("--preview-method taesd", "taesd", {}, "taesd"),
    ("--preview-method none", "latent2rgb", {"preview_method": "latent2rgb"}, "latent2rgb"),
    ("", "auto", {"preview_method": "auto"}, "auto"),
]
NODES = [None, "host", "auto", "latent2rgb", "off"]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(("command_line", "method", "extra_data", "chosen"), CHOICES)
def test_i9_what_somebody_chose_is_followed_unless_the_node_says_otherwise(
    stage, pack, client, told, latent_preview, command_line, method, extra_data, chosen, node
):
    told(command_line, method)
    model = stage.demo_model()
    if node is not None:
        model = with_settings(model, method=node)
    with stage.node(extra_data=extra_data):
        callback = latent_preview.prepare_callback(model, 1)
        callback(0, torch.randn(1, 4, SIZE, SIZE), None, 1)
        del callback
        assert all_told(pack)
    decides = chosen if node in (None, "host") else node
    assert client.steps == ([] if decides in ("none", "off") else [1])
    if decides == "none":
        # No frame and no work.
        assert pack.status()["counters"]["runs"] == 0
        assert wait_until(lambda: client.run_states == ["none"])


@pytest.mark.parametrize("argv", ["--fp16", "--port x", "--preview-method", "--preview-method x"])
def test_i4_a_command_line_that_a_pack_has_replaced_ends_nothing(
    stage, pack, client, told, latent_preview, argv
):
    told(argv)
    with stage.node():
        assert latent_preview.get_previewer(CPU, sd15(stage)) is not None


def test_i9_a_clients_wish_does_not_undo_that_somebody_chose_none(
    stage, pack, client, told, latent_preview
):
    told("--preview-method none")
    with stage.node(extra_data={"sidestream": {"method": "latent2rgb"}}):
        assert latent_preview.get_previewer(CPU, sd15(stage)) is None
    told()
    with stage.node(extra_data={"sidestream": {"method": "off"}}):
        stage.sample(stage.demo_model())
        assert all_told(pack)
    assert client.frames == []


def test_i9_comfyuis_preview_size_is_the_default_and_the_setting_wins(
    stage, pack, client, told, monkeypatch
):
    monkeypatch.setattr(stage.comfy("comfy.cli_args").args, "preview_size", 32)
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=2)
        stage.sample(with_settings(stage.demo_model(), max_size=0), steps=2)
        assert all_told(pack)
    assert {decoded(frame.image).shape for frame in client.frames} == {(32, 32, 3)}
    client.frames.clear()
    with stage.node():
        latent = torch.zeros(1, 4, 20, 40)
        stage.sample(with_settings(stage.demo_model(), max_size=64), steps=2, latent=latent)
        assert all_told(pack)
    assert {decoded(frame.image).shape for frame in client.frames} == {(32, 64, 3)}
    assert {(f.sidestream["width"], f.sidestream["height"]) for f in client.frames} == {(64, 32)}


def test_i9_every_throttle_is_kept(stage, pack, client, told):
    with stage.node():
        stage.sample(with_settings(stage.demo_model(), throttle_ms=60_000), steps=10)
        assert all_told(pack)
    assert client.steps == [1, 10]
    client.frames.clear()
    with stage.node():
        stage.sample(with_settings(stage.demo_model(), every_n_steps=4), steps=10)
        assert all_told(pack)
    assert client.steps == [1, 5, 9, 10]


def test_the_node_changes_its_own_copy_of_the_model_only(stage):
    from sidestream.preview import host

    model = stage.demo_model()
    before = dict(model.model_options)
    first = with_settings(model, quality=10)
    second = with_settings(first, quality=20)
    assert model.model_options == before
    assert [left.settings["quality"] for left in host.models.attached_settings(first)] == [10]
    assert [left.settings["quality"] for left in host.models.attached_settings(second)] == [10, 20]


# I10: polite


class Foreign:
    """Another pack's previewer, whatever it is."""


def test_i10_previewers_of_packs_loaded_before_pass_untouched(
    stage, make_pack, client, told, latent_preview, monkeypatch
):
    theirs = Foreign()
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *a, **k: theirs)
    make_pack()
    with stage.node():
        assert latent_preview.get_previewer(CPU, sd15(stage)) is theirs


def test_i10_previewers_of_packs_loaded_after_pass_untouched(
    stage, make_pack, client, told, latent_preview, monkeypatch
):
    theirs = Foreign()
    make_pack()
    monkeypatch.setattr(latent_preview, "get_previewer", lambda *a, **k: theirs)
    with stage.node():
        assert latent_preview.get_previewer(CPU, sd15(stage)) is theirs
        callback = latent_preview.prepare_callback(stage.demo_model(), 5)
    assert callback.__module__ == "latent_preview"


class Subclass:
    """What a pack makes of ComfyUI's previewer that it was given."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls = 0

    def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> Any:
        self.calls += 1
        return self.inner.decode_latent_to_preview_image(preview_format, x0)


def wrap(latent_preview: Any, seen: list[Any]) -> None:
    """What a pack does that wraps previewers, as many do."""
    original = latent_preview.get_previewer

    def get_previewer(*args: Any, **kwargs: Any) -> Any:
        previewer = original(*args, **kwargs)
        seen.append(previewer if previewer is None else Subclass(previewer))
        return seen[-1]

    latent_preview.get_previewer = get_previewer


@pytest.mark.parametrize("order", ["before", "after"])
def test_i10_wrappers_of_others_are_kept_whichever_pack_loads_first(
    stage, make_pack, client, told, latent_preview, order
):
    told(method="latent2rgb")
    seen: list[Any] = []
    if order == "before":
        wrap(latent_preview, seen)
    pack = make_pack()
    if order == "after":
        wrap(latent_preview, seen)
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=4)
        assert all_told(pack)
    assert len(seen) == 1
    assert seen[0].calls == 4
    assert client.steps == ([1, 2, 3, 4] if order == "after" else [])


def test_i10_a_wrapper_that_has_nothing_to_wrap_keeps_nobody_from_previews(
    stage, make_pack, client, told, latent_preview
):
    seen: list[Any] = []
    wrap(latent_preview, seen)
    pack = make_pack()
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=3)
        assert all_told(pack)
    assert seen == [None]
    assert client.steps == [1, 2, 3]


@pytest.mark.parametrize("order", ["before", "after"])
def test_i10_wrappers_of_prepare_callback_are_kept(
    stage, make_pack, client, told, latent_preview, order
):
    calls: list[int] = []

    def wrap_callback() -> None:
        original = latent_preview.prepare_callback

        def prepare_callback(*args: Any, **kwargs: Any) -> Any:
            callback = original(*args, **kwargs)

            def wrapped(step: int, x0: Any, x: Any, total_steps: int) -> Any:
                calls.append(step)
                return callback(step, x0, x, total_steps)

            return wrapped

        latent_preview.prepare_callback = prepare_callback

    if order == "before":
        wrap_callback()
    pack = make_pack()
    if order == "after":
        wrap_callback()
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=4)
        assert all_told(pack)
    assert calls == [0, 1, 2, 3]
    assert client.steps == [1, 2, 3, 4]


def test_i4_a_wrapper_that_gives_no_callback_breaks_no_generation(
    stage, make_pack, client, told, latent_preview, monkeypatch
):
    original = latent_preview.prepare_callback
    monkeypatch.setattr(latent_preview, "prepare_callback", lambda *args: original(*args) and None)
    pack = make_pack()
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=3)
        assert all_told(pack)
    assert client.frames == []


def test_i10_removing_the_pack_restores_comfyuis_own_functions(make_pack, latent_preview):
    own = (latent_preview.get_previewer, latent_preview.prepare_callback)
    pack = make_pack()
    assert latent_preview.get_previewer is not own[0]
    assert pack.status()["provider"]["in_charge"] == "SideStream"
    pack.close()
    assert (latent_preview.get_previewer, latent_preview.prepare_callback) == own
    assert pack.status()["provider"]["in_charge"] == "ComfyUI"


def test_i10_under_anothers_wrapper_a_removed_pack_only_passes_through(
    stage, make_pack, client, told, latent_preview
):
    pack = make_pack()
    seen: list[Any] = []
    wrap(latent_preview, seen)
    pack.close()
    with stage.node():
        stage.sample(stage.demo_model())
    assert seen == [None]
    assert client.frames == []
    assert pack.status()["counters"]["runs"] == 0


def test_loading_twice_leaves_one_pack_at_work(
    stage, client, told, latent_preview, monkeypatch
):
    from sidestream.preview import host, pack

    server = stage.comfy("server").PromptServer.instance
    own = latent_preview.get_previewer
    monkeypatch.setattr(server, "sidestream", None, raising=False)
    before = len(host.server.routes())
    first = pack.start()
    once = len(host.server.routes())
    second, third = pack.start(), pack.start()
    stage.waits_for = third
    try:
        assert len(host.server.routes()) == once > before
        assert host.server.registered().pack is third
        with stage.node():
            stage.sample(with_settings(stage.demo_model()), steps=3)
            assert all_told(third)
        assert client.steps == [1, 2, 3]
        counters = [each.status()["counters"]["runs"] for each in (first, second, third)]
        assert counters == [0, 0, 1]
    finally:
        third.close()
        stage.waits_for = None
    assert latent_preview.get_previewer is own


def test_loading_anew_under_anothers_wrapper_is_safe(
    stage, make_pack, client, told, latent_preview
):
    seen: list[Any] = []
    first = make_pack()
    wrap(latent_preview, seen)
    first.close()
    second = make_pack()
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=3)
        assert all_told(second)
    assert seen == [None]
    assert client.steps == [1, 2, 3]


def strange_get_previewer(latent_format: Any, somewhere: Any = None) -> None:
    """As it might be in a ComfyUI that nobody has seen."""


@pytest.mark.parametrize("kind", ["other parameters", "no function", "no server"])
def test_i10_an_unexpected_comfyui_keeps_its_previews_and_the_pack_says_why(
    stage, make_pack, told, latent_preview, monkeypatch, caplog, kind
):
    if kind == "other parameters":
        code = strange_get_previewer.__code__
        theirs = code.replace(co_filename=latent_preview.__file__, co_name="get_previewer")
        monkeypatch.setattr(strange_get_previewer, "__code__", theirs)
        monkeypatch.setattr(latent_preview, "get_previewer", strange_get_previewer)
        why = "latent_preview.get_previewer takes (latent_format, somewhere)"
    elif kind == "no function":
        monkeypatch.delattr(latent_preview, "prepare_callback")
        why = "latent_preview.prepare_callback is missing"
    else:
        monkeypatch.setattr(stage.comfy("server").PromptServer, "instance", None)
        why = "there is no server"
    found = dict(vars(latent_preview))
    with caplog.at_level(logging.INFO):
        pack = make_pack()
    assert vars(latent_preview) == found
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert why in record.getMessage()
    provider = pack.status()["provider"]
    said = {"installed": False, "problem": why, "in_charge": "ComfyUI", "around": ""}
    assert provider == said
    assert pack.settings()["defaults"]
    pack.change("c", {"quality": 5})
    assert pack.client("c") == {"paused": False, "prompts": 0, "live": {}, "runs": []}
    monkeypatch.undo()


# Attributes of ComfyUI's previewers


def animated_previews_wrapper(previewer: Any) -> types.SimpleNamespace:
    """How packs with animated previews of their own take a previewer apart."""
    if hasattr(previewer, "taesd"):
        return types.SimpleNamespace(taesd=previewer.taesd)
    if hasattr(previewer, "latent_rgb_factors"):
        return types.SimpleNamespace(
            factors=previewer.latent_rgb_factors,
            bias=previewer.latent_rgb_factors_bias,
            reshape=previewer.latent_rgb_factors_reshape,
        )
    raise TypeError("unsupported preview type")


def good_decoder(path: Any) -> None:
    from sidestream.preview.decoders.taesd import decoder_layers

    with torch.random.fork_rng():
        torch.save(decoder_layers(4, False).state_dict(), path)


@pytest.fixture
def decoder_path(stage: Stage) -> Iterator[Any]:
    """Where ComfyUI looks for the decoder of SD 1.5."""
    path = stage.comfy.base_dir / "models" / "vae_approx" / "taesd_decoder.pth"
    yield path
    path.unlink(missing_ok=True)
    stage.comfy.folder_paths.filename_list_cache.clear()


@pytest.mark.parametrize(
    ("command_line", "method", "file", "expected"),
    [
        ("", "none", None, "factors"),
        ("", "none", "good", "factors"),
        ("--preview-method latent2rgb", "latent2rgb", "good", "factors"),
        ("--preview-method auto", "auto", None, "factors"),
        ("--preview-method taesd", "taesd", None, "factors"),
        ("--preview-method taesd", "taesd", "good", "taesd"),
        ("--preview-method taesd", "taesd", "bad", "factors"),
    ],
)
def test_i10_packs_find_what_comfyuis_previewers_have(
    stage, pack, client, told, latent_preview, decoder_path, command_line, method, file, expected
):
    if file == "good":
        good_decoder(decoder_path)
    elif file == "bad":
        decoder_path.write_bytes(b"not a decoder")
    told(command_line, method)
    with stage.node():
        previewer = latent_preview.get_previewer(CPU, sd15(stage))
        assert isinstance(previewer, latent_preview.LatentPreviewer)
        assert hasattr(animated_previews_wrapper(previewer), expected)
        assert not hasattr(previewer, "no_such_attribute")
        previewer.decode_latent_to_preview = previewer.decode_latent_to_preview  # can be wrapped


def test_i6_a_damaged_decoder_under_anothers_wrapper_breaks_no_generation(
    stage, make_pack, client, told, latent_preview, decoder_path, caplog
):
    decoder_path.write_bytes(b"not a decoder")
    told("--preview-method taesd", "taesd")
    wrap(latent_preview, [])
    pack = make_pack()
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=3)
        assert all_told(pack)
    assert {frame.sidestream["decoder"] for frame in client.frames} == {"latent2rgb"}
    assert "Another pack's previewer failed (UnpicklingError" in caplog.text


def test_i10_a_pack_that_takes_previewers_apart_breaks_no_generation(
    stage, pack, client, told, latent_preview
):
    original = latent_preview.get_previewer

    def get_previewer(*args: Any, **kwargs: Any) -> Any:
        previewer = original(*args, **kwargs)
        animated_previews_wrapper(previewer)
        return previewer

    latent_preview.get_previewer = get_previewer
    with stage.node():
        stage.sample(with_settings(stage.demo_model()), steps=3)
        assert all_told(pack)
    assert client.steps == [1, 2, 3]


# Formats without a way to a picture, or without the best one


def test_taesd_without_its_file_is_said_once_and_shown_by_latent2rgb(
    stage, pack, client, told, caplog
):
    model = with_settings(stage.demo_model(), method="taesd")
    for seed in (1, 2):
        with stage.node():
            stage.sample(model, steps=2, seed=seed)
    assert [frame.sidestream["decoder"] for frame in client.frames] == ["latent2rgb"] * 4
    [record] = [r for r in caplog.records if "SideStream" in r.getMessage()]
    assert record.levelname == "WARNING"
    assert "models/vae_approx/taesd_decoder" in record.getMessage()


def test_a_format_with_neither_decoder_nor_factors_has_one_info_line_and_no_preview(
    stage, pack, client, told, latent_preview, caplog
):
    format = stage.comfy("comfy.latent_formats").HunyuanImage21Refiner()
    with stage.node(), caplog.at_level(logging.INFO):
        assert latent_preview.get_previewer(CPU, format) is None
        assert latent_preview.get_previewer(CPU, format) is None
    [record] = [r for r in caplog.records if "SideStream" in r.getMessage()]
    assert record.levelname == "INFO"
    assert "HunyuanImage21Refiner latents have no previews" in record.getMessage()
    assert wait_until(lambda: client.run_states == ["none", "none"])
    assert client.frames == []


def test_i5_a_pack_keeps_nothing_of_runs_that_are_over(stage, pack, client, told):
    from sidestream.preview.capture.runs import Run
    from sidestream.preview.records import Label

    def alive() -> int:
        gc.collect()
        return sum(type(thing) in (Run, Label) for thing in gc.get_objects())

    before = alive()  # of other tests
    stage.waits_for = None
    model = with_settings(stage.demo_model())
    for seed in range(30):
        with stage.node():
            stage.sample(model, steps=2, seed=seed)
    assert all_told(pack)
    counters = pack.status()["counters"]
    assert (counters["runs"], counters["active_runs"]) == (30, 0)
    assert sum(counters["frames"].values()) <= 60
    client.frames.clear()
    assert alive() < before + 4
