"""Callers that do what ComfyUI accepts and nobody expects: I4 harmless, I6 contained.

ComfyUI's own modules in this process. MODELs that are none, callbacks that are used twice, latents
of other shapes, prompts that send nonsense, folders that go away.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import inspect
import logging
import os
import pickle
import shutil
import threading
import time
import types
from typing import Any

import numpy as np
import pytest
import torch
from sidestream.preview.settings import FIELDS, INHERITED, INHERITED_NUMBER, Choice, salvaged
from sidestream.tests.helpers import wait_until
from sidestream.tests.pictures import decoded
from sidestream.tests.stage import SIZE, all_told, demo_conditioning, empty_latent, with_settings

CPU = torch.device("cpu")
AT_ONCE = {"sidestream": {"throttle_ms": 0, "budget": 0, "format": "png"}}


def a_format(stage, name="SD15"):
    return getattr(stage.comfy("comfy.latent_formats"), name)()


class LookAlike:
    """All that ComfyUI's `prepare_callback` asks of a MODEL, and what a test adds to it."""

    def __init__(self, latent_format, **more):
        self.load_device = CPU
        self.model = types.SimpleNamespace(latent_format=latent_format)
        vars(self).update(more)


def latents(count, *shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*(shape or (1, 4, SIZE, SIZE)), generator=generator) for _ in range(count)]


def called(stage, callback, x0s):
    """Do with a callback what a sampler does."""
    for step, x0 in enumerate(x0s):
        callback(step, x0, x0, len(x0s))
        stage.wait_for_frames()


def the_watch(model):
    """What the pack leaves on a MODEL, to be called in the place of a sampling."""
    [watch] = model.model_options["transformer_options"]["wrappers"]["outer_sample"]["sidestream"]
    return watch


def said(caplog):
    """The pack's own lines of the log."""
    lines = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    return [line for line in lines if "SideStream" in line]


# MODELs that are none


ODD = {
    "nothing more": {},
    "no options": {"model_options": None},
    "read-only options": {"model_options": types.MappingProxyType({})},
    "no transformer options": {"model_options": {"transformer_options": None}},
    "no wrappers": {"model_options": {"transformer_options": {"wrappers": None}}},
    "a list of wrappers": {"model_options": {"transformer_options": {"wrappers": []}}},
    "a list of outer ones": {
        "model_options": {"transformer_options": {"wrappers": {"outer_sample": []}}}
    },
    "settings that are none": {"model_options": {"sidestream": 5, "sidestream_vae": 5}},
    "settings out of range": {"model_options": {"sidestream": {"quality": "best", "x": 1}}},
    "options that are a list": {"model_options": []},
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_i4_a_model_that_is_none_of_comfyuis_is_previewed(
    stage, pack, client, told, latent_preview, caplog, odd
):
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(LookAlike(a_format(stage), **odd), 3)
        called(stage, callback, latents(3))
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2, 3]
    assert not [record for record in caplog.records if record.exc_info]
    assert len(said(caplog)) <= 2


def test_i4_a_model_with_the_packs_wrapper_can_be_copied_and_pickled(
    stage, pack, client, told, latent_preview
):
    model = stage.demo_model()
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(model, 2)
        clone = model.clone()
        again = pickle.loads(pickle.dumps(model.model_options["transformer_options"]["wrappers"]))
        deep = copy.deepcopy(model.model_options)
        called(stage, callback, latents(2))
        assert again["outer_sample"]["sidestream"][0](lambda x: x + 1, 1) == 2
        for options in (clone.model_options, deep):
            assert "sidestream" in options["transformer_options"]["wrappers"]["outer_sample"]
        # Whichever copy samples first tells of the end.
        stage.sample(clone, steps=2)
        del callback
        assert all_told(pack)


def test_i4_a_copy_of_the_options_in_mid_run_copies_no_model(stage, pack, client, told):
    """As packs make it that change how a model is guided, at each step."""
    model, weights = with_settings(stage.demo_model()).clone(), Weights()
    model.model.diffusion_model.weights = weights
    copies = []

    def guide(args):
        copies.append(copy.deepcopy(args["model_options"])["transformer_options"]["wrappers"])
        return args["conds_out"]

    model.set_model_sampler_pre_cfg_function(guide)
    with stage.node():
        stage.sample(model, steps=2)
        assert all_told(pack)
    assert weights.copies == 0
    [finisher] = copies[0]["sampler_sample"]["sidestream"]
    assert finisher.is_open is False  # the sampling's own, which is over
    elsewhere = pickle.loads(pickle.dumps(copies[0]["sampler_sample"]["sidestream"]))
    assert elsewhere[0](lambda *args: len(args), *range(6)) == 6


class Weights(torch.nn.Module):
    """Counts its copies."""

    copies = 0

    def __deepcopy__(self, memo):
        self.copies += 1
        return self


def test_i4_a_previewer_can_be_copied_and_pickled(stage, pack, client, told, latent_preview):
    latent = latents(1)[0]
    with stage.node(extra_data=AT_ONCE):
        previewer = latent_preview.get_previewer(CPU, a_format(stage))
        assert copy.copy(previewer).run is previewer.run
        assert copy.deepcopy({"a": [previewer]})["a"][0].run is previewer.run
        elsewhere = pickle.loads(pickle.dumps(previewer))
        assert type(elsewhere) is latent_preview.Latent2RGBPreviewer
        own = previewer.decode_latent_to_preview(latent)
        assert np.array_equal(elsewhere.decode_latent_to_preview(latent), own)
        del previewer
        assert all_told(pack)


# Callbacks


class Counted:
    """A number of a script's own."""

    def __init__(self, number):
        self.number = number

    def __int__(self):
        return self.number

    def __add__(self, other):
        return self.number + other


@pytest.mark.parametrize("number", [np.int64, np.float32, torch.tensor, Counted])
def test_steps_may_be_numbers_of_any_kind(
    stage, pack, client, told, latent_preview, caplog, number
):
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(stage.demo_model(), 3)
        for step, x0 in enumerate(latents(3)):
            callback(number(step), x0, x0, 3)
            stage.wait_for_frames()
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2, 3]
    assert all(type(step) is int for step in client.steps)
    assert said(caplog) == []


def test_i6_a_sampler_that_gives_nothing_costs_one_line(
    stage, pack, client, told, latent_preview, caplog
):
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(stage.demo_model(), 5)
        called(stage, callback, [None] * 5)
        del callback
        assert all_told(pack)
    [line] = said(caplog)
    assert "A preview failed" in line
    assert "\n" not in line
    assert not [record for record in caplog.records if record.exc_info]


def test_a_sampler_that_is_tried_again_with_its_callback_has_previews_again(
    stage, pack, client, told, latent_preview
):
    with stage.node(extra_data=AT_ONCE):
        model = stage.demo_model()
        callback = latent_preview.prepare_callback(model, 4)
        watch = the_watch(model)

        def out_of_memory(callback):
            called(stage, callback, latents(2))
            raise RuntimeError("out of memory")

        with pytest.raises(RuntimeError, match="out of memory"):
            watch(out_of_memory, callback)
        called(stage, callback, latents(4))
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2, 1, 2, 3, 4]


def test_i7_a_sampler_that_goes_on_after_an_interrupt_shows_nothing_more(
    stage, pack, client, told, latent_preview
):
    management = stage.comfy("comfy.model_management")
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(stage.demo_model(), 4)
        called(stage, callback, latents(2))
        management.interrupt_current_processing()
        with pytest.raises(management.InterruptProcessingException):
            callback(2, latents(1)[0], None, 4)
        callback(3, latents(1)[0], None, 4)
        stage.wait_for_frames()
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2]


# The disk


@pytest.fixture
def vae_approx(stage, tmp_path, monkeypatch):
    """A folder of decoders that may go away."""
    folder_paths = stage.comfy.folder_paths
    folder = tmp_path / "vae_approx"
    folder.mkdir()
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "vae_approx", ([str(folder)], {".pth", ".safetensors"})
    )
    folder_paths.filename_list_cache.clear()
    yield folder
    folder_paths.filename_list_cache.clear()


def test_i6_a_folder_that_goes_away_between_two_samplings_of_a_callback_costs_its_decoder(
    stage, pack, client, told, latent_preview, caplog, vae_approx
):
    told("--preview-method taesd", "taesd")
    with stage.node(extra_data=AT_ONCE):
        model = stage.demo_model()
        callback = latent_preview.prepare_callback(model, 2)
        called(stage, callback, latents(2))
        watch = the_watch(model)
        watch(lambda: None)  # the first sampling is over
        shutil.rmtree(vae_approx)
        called(stage, callback, latents(2))
        del callback
        assert all_told(pack)
    assert client.steps == [1, 2, 1, 2]
    assert len([line for line in said(caplog) if "cannot be read" in line]) == 1


def test_i6_a_method_whose_decoders_cannot_be_found_leaves_the_old_ones(
    stage, pack, client, told, latent_preview, monkeypatch, caplog
):
    from sidestream.preview.capture import sources

    find = sources.find

    def failing(method, *rest):
        if method == "taesd":
            raise OSError(5, "Input/output error")
        return find(method, *rest)

    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(stage.demo_model(), 6)
        [run] = pack._runs._active.values()
        x0s = latents(6)
        callback(0, x0s[0], None, 6)
        stage.wait_for_frames()
        monkeypatch.setattr(sources, "find", failing)
        pack.change("c", {"method": "taesd", "quality": 7})  # no disk is touched here
        for step in range(1, 4):
            callback(step, x0s[step], None, 6)
            stage.wait_for_frames()
        assert (run.settings.method, run.settings.quality) == ("host", 7)
        del callback, run
        assert all_told(pack)
    assert client.steps == [1, 2, 3, 4]
    assert len(said(caplog)) == 1


# What clients send


def test_settings_from_outside_cost_what_the_settings_there_are_cost():
    sent = {f"unknown {number}": number for number in range(1_000_000)}
    sent |= {"quality": 7, "throttle_ms": "x" * 50_000_000, "method": ["auto"] * 1_000_000}
    start = time.thread_time()  # the processor's, which others may keep from it
    good, complaints = salvaged(sent)
    assert time.thread_time() - start < 0.1
    assert good == {"quality": 7}
    assert len(complaints) == 3
    assert all(len(complaint) < 400 for complaint in complaints)
    assert "999999 more are not settings" in complaints[-1]


def test_every_odd_value_is_complained_of_once():
    for name in FIELDS:
        for odd in (None, [], {}, "x" * 1000, 10**5000, float("nan")):
            good, complaints = salvaged({name: odd})
            assert (good, len(complaints)) == ({}, 1)
            assert name in complaints[0]


def test_i6_one_clients_nonsense_silences_nobody_elses_warnings(
    stage, pack, client, told, latent_preview, caplog
):
    for number in range(150):
        with stage.node(extra_data={"sidestream": {f"odd {number}": 1}}):
            latent_preview.get_previewer(CPU, a_format(stage))
    complaints = len(said(caplog))
    assert 0 < complaints <= 100
    told("--preview-method taesd", "taesd")
    with stage.node(extra_data=AT_ONCE):
        latent_preview.get_previewer(CPU, a_format(stage))
        assert all_told(pack)
    assert "models/vae_approx/taesd_decoder" in said(caplog)[complaints]


@pytest.mark.parametrize("sent", [None, "", "unknown", 5, ["none"], {}, "NONE"])
def test_i9_a_preview_method_that_comfyui_does_not_know_chooses_nothing(
    stage, pack, client, told, latent_preview, sent
):
    with stage.node(extra_data={**AT_ONCE, "preview_method": sent}):
        callback = latent_preview.prepare_callback(stage.demo_model(), 1)
        called(stage, callback, latents(1))
        del callback
        assert all_told(pack)
    assert client.steps == [1]


# Packs that look at a picture that is made beside the sampler

LOOKS = {
    "takes one part": lambda preview: preview[1],
    "takes it apart": lambda preview: next(picture for _, picture, _ in [preview]),
    "as a tuple": lambda preview: tuple(preview)[1],
}


@pytest.mark.parametrize("method", ["none", "latent2rgb"])
@pytest.mark.parametrize("look", LOOKS)
def test_i4_i10_a_callback_that_looks_at_the_picture_gets_comfyuis(
    stage, pack, client, told, latent_preview, look, method
):
    """And none is lost or comes twice, if it passes them on to ComfyUI's progress bar."""
    told("" if method == "none" else f"--preview-method {method}", method)
    own = latent_preview.Latent2RGBPreviewer(a_format(stage).latent_rgb_factors)
    seen = []
    with a_node(stage, extra_data=AT_ONCE):
        previewer = latent_preview.get_previewer(CPU, a_format(stage))
        bar = stage.comfy("comfy.utils").ProgressBar(4)
        for step, x0 in enumerate(latents(4)):
            preview = previewer.decode_latent_to_preview_image("JPEG", x0)
            assert preview
            assert len(preview) == 3
            seen.append(LOOKS[look](preview))
            assert np.array_equal(seen[-1], own.decode_latent_to_preview(x0))
            bar.update_absolute(step + 1, 4, preview=preview)
            stage.wait_for_frames()
        del previewer, preview
        assert all_told(pack)
    assert wait_until(lambda: len(client.frames) == 4)
    # Ours, until the pack is known to look; then those that it passes on.
    assert client.steps == [1, 0, 0, 0]


@pytest.mark.parametrize("settings", [{"method": "off"}, {"every_n_steps": 3}])
def test_i9_a_callback_that_looks_shows_no_more_than_is_wanted(
    stage, pack, client, told, latent_preview, settings
):
    told("--preview-method latent2rgb", "latent2rgb")
    with a_node(stage, extra_data={"sidestream": AT_ONCE["sidestream"] | settings}):
        previewer = latent_preview.get_previewer(CPU, a_format(stage))
        bar = stage.comfy("comfy.utils").ProgressBar(7)
        for step, x0 in enumerate(latents(7)):
            preview = previewer.decode_latent_to_preview_image("JPEG", x0)
            assert preview[1].size == (SIZE, SIZE)
            bar.update_absolute(step + 1, 7, preview)
            stage.wait_for_frames()
        del previewer
        assert all_told(pack)
    assert len(client.frames) == (0 if "method" in settings else 3)  # 1, 4, 7


@pytest.mark.parametrize("order", ["before", "after"])
def test_i4_i10_a_pack_that_draws_into_pictures_of_others_draws_into_them_all(
    stage, client, told, make_pack, latent_preview, monkeypatch, order
):
    """Its wrapper is asked in the place of a previewer."""
    told("--preview-method latent2rgb", "latent2rgb")
    drawn = []

    class Draws:
        def __init__(self, inner):
            self.inner = inner

        def decode_latent_to_preview_image(self, preview_format, x0):
            kind, picture, size = self.inner.decode_latent_to_preview_image(preview_format, x0)
            drawn.append(picture)
            return kind, picture, size

    def load():
        original = latent_preview.get_previewer
        wrapped = lambda *args: Draws(original(*args))  # noqa: E731
        monkeypatch.setattr(latent_preview, "get_previewer", wrapped)

    if order == "before":
        load()
    pack = make_pack()
    if order == "after":
        load()
    with a_node(stage, extra_data=AT_ONCE):
        stage.sample(stage.demo_model(), steps=4)
        assert all_told(pack)
    assert wait_until(lambda: len(client.frames) == 4)
    assert client.steps == [0, 0, 0, 0]
    assert len(drawn) == 4
    assert pack.status()["provider"]["in_charge"] != "SideStream"


@contextlib.contextmanager
def a_node(stage, **about):
    """A node at work, whose pictures the server sends, as ComfyUI's does."""
    progress = stage.comfy("comfy_execution.progress")
    sends = asyncio.run_coroutine_threadsafe(stage.server.publish_loop(), stage.loop)
    try:
        with stage.node(**about):
            progress.add_progress_handler(progress.WebUIProgressHandler(stage.server))
            yield
            assert wait_until(stage.server.messages.empty)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), stage.loop).result(30)
    finally:
        sends.cancel()


def test_i4_a_picture_that_comfyui_cannot_make_is_black(
    stage, pack, client, told, latent_preview, caplog
):
    """Without the pack there would have been no previewer."""
    with stage.node(extra_data=AT_ONCE), caplog.at_level(logging.INFO):
        sound = latent_preview.get_previewer(CPU, a_format(stage, "StableAudio1"))
        for latent in latents(2, 1, 64, 40):
            _, picture, size = sound.decode_latent_to_preview_image("JPEG", latent)
            assert size == 512
            assert picture.getextrema() == ((0, 0),) * 3
        del sound
        assert all_told(pack)
    assert len([line for line in caplog.messages if "black previews" in line]) == 1


def test_a_picture_that_is_looked_at_late_keeps_no_run(
    stage, pack, client, told, latent_preview
):
    [latent] = latents(1)
    with stage.node(extra_data=AT_ONCE):
        previewer = latent_preview.get_previewer(CPU, a_format(stage))
        preview = previewer.decode_latent_to_preview_image("JPEG", latent)
        own = previewer.decode_latent_to_preview(latent)
        del previewer
        assert all_told(pack)
        assert np.array_equal(preview[1], own)
    assert client.steps == [1]


def test_i10_a_progress_bar_that_looks_at_nothing_sends_nothing_twice(
    stage, pack, client, told, latent_preview, monkeypatch
):
    """Also one that a pack puts into the place of ComfyUI's."""

    class Bar:
        def __init__(self, total):
            self.hook, self.total = stage.comfy("comfy.utils").PROGRESS_BAR_HOOK, total

        def update_absolute(self, value, total=None, preview=None):
            self.hook(value, self.total, preview)
            server = stage.server
            server.send_sync(1, preview, server.client_id)  # as to older clients

    with a_node(stage, extra_data=AT_ONCE):
        previewer, bar = latent_preview.get_previewer(CPU, a_format(stage)), Bar(4)
        for step, x0 in enumerate(latents(4)):
            bar.update_absolute(step + 1, 4, previewer.decode_latent_to_preview_image("JPEG", x0))
            stage.wait_for_frames()
        del previewer
        assert all_told(pack)
    assert client.steps == [1, 2, 3, 4]


@pytest.mark.parametrize("method", ["auto", "none"])
def test_i8_a_previewer_that_a_pack_keeps_serves_the_prompt_that_runs(
    stage, pack, told, latent_preview, method
):
    first, second = stage.connect("a"), stage.connect("b")
    kept = []
    then = AT_ONCE | {"preview_method": method}
    for client, node, extra in (("a", "3", AT_ONCE), ("b", "7", then)):
        with stage.node(node=node, client=client, extra_data=extra) as prompt:
            kept = kept or [latent_preview.get_previewer(CPU, a_format(stage))]
            for x0 in latents(3):
                kept[0].decode_latent_to_preview_image("JPEG", x0)
                stage.wait_for_frames()
    kept.clear()
    assert all_told(pack)
    assert first.steps == [1, 2, 3]
    assert second.steps == ([1, 2, 3] if method == "auto" else [])
    assert {frame.metadata["prompt_id"] for frame in second.frames} <= {prompt}


# Latents


def test_latents_on_another_device_than_the_models_are_previewed(
    stage, pack, client, told, latent_preview
):
    with stage.node(extra_data=AT_ONCE):
        previewer = latent_preview.get_previewer(torch.device("cuda:0"), a_format(stage))
        for latent in latents(2):
            previewer.decode_latent_to_preview_image("JPEG", latent)
            stage.wait_for_frames()
        del previewer
        assert all_told(pack)
    assert client.steps == [1, 2]


def shown(stage, pack, client, latent_preview, latent_format, x0s, **sampling):
    """The frames of a sampling with these latents."""

    def sampled(callback, **_):
        called(stage, callback, x0s)

    client.frames.clear()
    model = LookAlike(latent_format, model_options={})
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(model, len(x0s))
        watch = the_watch(model)
        watch(functools.partial(sampled, callback), **sampling)
        del callback
        assert all_told(pack)
    return [decoded(frame.image) for frame in client.frames]


def test_nested_latents_show_their_picture_packed_and_not(
    stage, pack, client, told, latent_preview
):
    nested = stage.comfy("comfy.nested_tensor").NestedTensor
    pack_latents = stage.comfy("comfy.utils").pack_latents
    latent_format = a_format(stage, "LTXV")
    [video] = latents(1, 1, 128, 1, 4, 6)
    [sound] = latents(1, 1, 8, 12, 16, seed=2)
    packed, shapes = pack_latents([video, sound])

    def of(x0, **sampling):
        return shown(stage, pack, client, latent_preview, latent_format, [x0], **sampling)

    [plain] = of(video)
    [from_nested] = of(nested([video, sound]))
    [from_packed] = of(packed, latent_shapes=shapes)
    assert plain.shape == (128, 192, 3)
    assert np.array_equal(plain, from_nested)
    assert np.array_equal(plain, from_packed)


@pytest.mark.parametrize("name", ["Wan21", "HunyuanVideo", "LTXV", "Mochi"])
def test_latents_of_videos_may_have_one_frame_or_no_frames_at_all(
    stage, pack, client, told, latent_preview, name, caplog
):
    latent_format = a_format(stage, name)
    [image] = latents(1, 1, latent_format.latent_channels, 4, 6)
    [still] = shown(stage, pack, client, latent_preview, latent_format, [image])
    [single] = shown(stage, pack, client, latent_preview, latent_format, [image[:, :, None]])
    assert np.array_equal(still, single)
    assert still.std() > 1
    assert said(caplog) == []


@pytest.mark.parametrize(("name", "channels"), [("Wan21", 16), ("LTXV", 128)])
def test_video_decoders_take_them_too(
    stage, pack, client, told, latent_preview, vae_approx, name, channels
):
    from sidestream.benchmarks.weights import video_decoder
    from sidestream.preview.decoders.taehv import Layout

    latent_format = a_format(stage, name)
    latent_format.taesd_decoder_name = "taehv"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layout = Layout(channels, (8, 8, 8, 8), (1, 2, 2), 1)
        torch.save(video_decoder(layout), vae_approx / "taehv.pth")
    [image] = latents(1, 1, channels, 4, 6)
    [still] = shown(stage, pack, client, latent_preview, latent_format, [image])
    [single] = shown(stage, pack, client, latent_preview, latent_format, [image[:, :, None]])
    assert client.frames[0].sidestream["decoder"] == "taehv"
    assert np.array_equal(still, single)


def test_views_of_one_thing_are_shown_side_by_side_and_not_as_an_animation(
    stage, pack, client, told, latent_preview
):
    formats = stage.comfy("comfy.latent_formats")
    paint = type("Hunyuan3Dv2_1Paint", (formats.SD15,), {})()
    [views] = latents(1, 1, 4, 6, 4, 4)
    [picture] = shown(stage, pack, client, latent_preview, paint, [views])
    [frame] = client.frames
    assert frame.sidestream["grid"] == {"columns": 3, "rows": 2, "images": [0, 1, 2, 3, 4, 5]}
    assert "animation" not in frame.sidestream
    alone = list(views.unbind(2))
    each = shown(stage, pack, client, latent_preview, formats.SD15(), alone)
    height, width = picture.shape[0] // 2, picture.shape[1] // 3
    for number in range(6):
        y, x = height * (number // 3), width * (number % 3)
        cell = picture[y : y + height, x : x + width].astype(int)
        off = [np.abs(cell - other.astype(int)).mean() for other in each]
        assert off.index(min(off)) == number


def test_two_samplers_of_high_and_low_noise_show_every_step_of_each(stage, pack, client, told):
    conditioning = demo_conditioning()

    def sampled(model, latent, noise, start, end):
        [result] = stage.comfy.nodes.KSamplerAdvanced().sample(
            model, noise, 1, 8, 1.0, "euler", "normal", conditioning, conditioning,
            latent, start_at_step=start, end_at_step=end,
            return_with_leftover_noise="enable" if start == 0 else "disable",
        )  # fmt: skip
        stage.wait_for_frames()
        return result

    high, low = (with_settings(stage.demo_model()) for _ in range(2))
    with stage.node("3"):
        latent = sampled(high, {"samples": empty_latent()}, "enable", 0, 5)
        assert all_told(pack)
    with stage.node("4"):
        sampled(low, latent, "disable", 5, 10_000)
        assert all_told(pack)
    labels = [
        (f.metadata["node_id"], f.sidestream["step"], f.sidestream["total_steps"])
        for f in client.frames
    ]
    assert labels == [("3", n, 5) for n in range(1, 6)] + [("4", n, 3) for n in range(1, 4)]


def test_qwen_image_21_is_decoded_by_its_file(
    stage, pack, client, told, latent_preview, vae_approx
):
    from sidestream.preview.decoders.taesd import Layout, layers_of

    def init(self):
        self.taesd_decoder_name = "taeqi2_1_decoder"  # as ComfyUI has it since 0.38

    base = stage.comfy("comfy.latent_formats").LatentFormat
    newest = type("QwenImage21", (base,), {"latent_channels": 64, "__init__": init})()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        weights = layers_of(Layout(64, (16, 8, 4, 4), colours=4, patch=2)).state_dict()
    torch.save(weights, vae_approx / "taeqi2_1_decoder.pth")
    [latent] = latents(1, 1, 64, 4, 6)
    [picture] = shown(stage, pack, client, latent_preview, newest, [latent])
    [frame] = client.frames
    assert frame.sidestream["decoder"] == "taesd"
    assert picture.shape == (64, 96, 3)


# Decoders that are there and not used


def test_a_decoder_in_the_wrong_folder_is_said_in_log_and_report(
    stage, pack, client, told, latent_preview, caplog
):
    folder_paths = stage.comfy.folder_paths
    path = stage.comfy.base_dir / "models" / "vae" / "taesd_decoder.safetensors"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"12345")
    folder_paths.filename_list_cache.clear()
    try:
        with stage.node(extra_data=AT_ONCE):
            latent_preview.get_previewer(CPU, a_format(stage))
            assert all_told(pack)
        report = pack.report()
    finally:
        path.unlink()
        folder_paths.filename_list_cache.clear()
    place = "models/vae/taesd_decoder.safetensors"
    [line] = said(caplog)
    assert f"{place} is ignored" in line
    assert f"taesd_decoder: missing; wrong folder: {place} (for SD15)" in report


def test_a_decoder_of_a_kind_that_is_not_known_is_said_in_log_and_report(
    stage, pack, client, told, latent_preview, caplog, vae_approx, monkeypatch
):
    formats = stage.comfy("comfy.latent_formats")

    class Newest(formats.SD15):
        def __init__(self):
            super().__init__()
            self.taesd_decoder_name = "taenew_decoder"

    monkeypatch.setattr(formats, "Newest", Newest, raising=False)
    for name in ("taenew_decoder.pth", "taem1.pth", "taesd_encoder.pth", "bytes \udcff.pth"):
        (vae_approx / os.fsdecode(os.fsencode(name))).write_bytes(b"12345")
    with stage.node(extra_data=AT_ONCE):
        latent_preview.get_previewer(CPU, Newest())
        assert all_told(pack)
    [line] = said(caplog)
    assert "models/vae_approx/taenew_decoder.pth is ignored: taenew_decoder.pth is not a" in line
    report = pack.report()
    report.encode("utf-8")
    assert "taenew_decoder: taenew_decoder.pth, 5 bytes (for Newest)" in report
    assert "taem1.pth: not used" in report
    assert "bytes \\udcff.pth: not used" in report
    assert "taesd_encoder" not in report


def test_a_decoder_that_was_refused_is_in_the_report(
    stage, pack, client, told, latent_preview, vae_approx
):
    (vae_approx / "taesd_decoder.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with stage.node(extra_data=AT_ONCE):
        callback = latent_preview.prepare_callback(stage.demo_model(), 2)
        called(stage, callback, latents(2))
        del callback
        assert all_told(pack)
    assert {frame.sidestream["decoder"] for frame in client.frames} == {"latent2rgb"}
    [refused] = pack.status()["refused"]
    assert "a Git LFS pointer" in refused
    assert f"  {refused}\n" in pack.report()


# The pack itself


def test_status_names_a_pack_and_not_where_it_lies(stage, make_pack, told, latent_preview):
    pack = make_pack()

    def get_previewer(*args: Any, **kwargs: Any) -> None:
        """Another pack's."""

    latent_preview.get_previewer = get_previewer
    for place, name in (
        ("/home/marie/Comfy_x_UI/custom_nodes/ComfyUI-Other.1/nodes/preview.py", "ComfyUI-Other.1"),
        ("C:\\ComfyUI\\custom_nodes\\other.py", "other"),
    ):
        get_previewer.__code__ = get_previewer.__code__.replace(co_filename=place)
        assert pack.status()["provider"]["around"] == name


@pytest.mark.parametrize("server", ["none", "not made yet"])
def test_without_a_server_the_pack_says_why_and_raises_nothing(
    stage, told, latent_preview, monkeypatch, caplog, server
):
    from sidestream.preview import pack

    if server == "none":
        monkeypatch.setattr(stage.comfy("server").PromptServer, "instance", None)
    else:
        monkeypatch.delattr(stage.comfy("server").PromptServer, "instance")
    started = pack.start()
    try:
        assert started.problem == "there is no server"
        assert "there is no server" in said(caplog)[0]
    finally:
        started.close()


def test_i6_extra_data_of_one_prompt_that_are_none_change_nothing_for_others(stage, pack, client):
    # Older versions of ComfyUI queue it.
    with stage.node() as prompt:
        running = stage.server.prompt_queue.currently_running
        running["odd"] = (0, "odd", {}, [], [], {})
        try:
            [item] = [each for each in running.values() if each[1] == prompt]
            item[3]["client_id"] = "c"
            assert pack.client("c")["prompts"] == 1
        finally:
            del running["odd"]


def test_a_vae_is_copied_where_it_is_wanted_and_on_the_samplers_thread(
    stage, pack, client, told, latent_preview, monkeypatch
):
    from sidestream.preview import host

    copied = []
    monkeypatch.setattr(
        host.models, "vae_copy", lambda vae: copied.append(threading.current_thread())
    )
    model = with_settings(stage.demo_model(), method="latent2rgb")
    host.models.attach_vae(model, object())
    with stage.node():
        callback = latent_preview.prepare_callback(model, 4)
        called(stage, callback, latents(2))
        assert copied == []
        route = threading.Thread(target=pack.change, args=("c", {"method": "auto"}))
        route.start()
        route.join()
        assert copied == []
        called(stage, callback, latents(2))
        del callback
        assert all_told(pack)
    assert copied == [threading.current_thread()]


def test_what_never_arrives_at_the_servers_loop_is_not_complained_of(stage, recwarn):
    from sidestream.preview.host.server import Unbegun

    begun = []

    async def note() -> None:
        begun.append(True)

    coroutine = note()
    unbegun = Unbegun(coroutine, begun.append)
    del unbegun, coroutine
    gc.collect()
    assert begun == []
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]
    coroutine = note()
    Unbegun(coroutine, begun.append)()
    assert begun == [coroutine]
    coroutine.close()


def test_the_node_checks_what_comfyui_cannot(comfy):
    """It knows no range such as "-1, or from 1", and in some versions no choices."""
    from sidestream.nodes.preview_settings import SideStreamPreview

    names = {*inspect.signature(SideStreamPreview.validate_inputs).parameters}
    beyond = {n for n, f in FIELDS.items() if isinstance(f, Choice) or f.low > INHERITED_NUMBER + 1}
    assert names == beyond
    assert SideStreamPreview.validate_inputs(method=INHERITED, quality=INHERITED_NUMBER) is True
    assert "from 1 to 100" in SideStreamPreview.validate_inputs(quality=0)
