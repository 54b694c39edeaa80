"""A pack beside SideStream that makes its decoder slow and measures the sampler, on demand.

Nothing is changed until a node of this pack runs, so the order of loading does not matter.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
import time
from typing import Any

import comfy.latent_formats
import comfy.sample
import latent_preview
from aiohttp import web
from server import PromptServer

KEY = "probe"
measured: dict[str, dict[str, Any]] = {}
decoder_seconds = 0.0
released = threading.Event()
"""Decoders take no longer."""
SETTLES_WITHIN = 30.0


class ProbeSampling:
    """Measures the samplers of a MODEL; each of their previews takes the decoder that long.

    Or until `POST /probe/release`. Where it `settles`, a step ends only when the frames so far
    have found their end, so that none replaces another, however busy the machine is.
    """

    CATEGORY = "testing"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "mark"

    @classmethod
    def INPUT_TYPES(cls):
        seconds = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 60.0})
        return {
            "required": {"model": ("MODEL",), "name": ("STRING", {}), "decoder_seconds": seconds},
            "optional": {"settles": ("BOOLEAN", {"default": False})},
        }

    def mark(self, model, name, decoder_seconds, settles=False):
        install()
        marked = model.clone()
        marked.model_options[KEY] = {
            "name": name, "decoder_seconds": decoder_seconds, "settles": settles
        }  # fmt: skip
        return (marked,)


class ProbeBareFormat:
    """A MODEL whose latents ComfyUI knows no way to show."""

    CATEGORY = "testing"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "strip"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def strip(self, model):
        bare = model.clone()
        bare.model = copy.copy(model.model)
        bare.model.latent_format = BareFormat()
        return (bare,)


class BareFormat(comfy.latent_formats.LatentFormat):
    """Neither a decoder nor colour factors."""


NODE_CLASS_MAPPINGS = {"ProbeSampling": ProbeSampling, "ProbeBareFormat": ProbeBareFormat}


@PromptServer.instance.routes.get("/probe/{name}")
async def probe(request: web.Request) -> web.Response:
    return web.json_response(measured[request.match_info["name"]])


@PromptServer.instance.routes.post("/probe/release")
async def release(request: web.Request) -> web.Response:
    released.set()
    return web.json_response(True)


def settle() -> None:
    """Wait until no frame of the prompt's is open."""
    server, end = PromptServer.instance, time.monotonic() + SETTLES_WITHIN

    def frames() -> int:
        active = list(server.sidestream.pack._runs._active.values())
        return sum(r.open_frames for r in active if r.context.prompt_id == server.last_prompt_id)

    while frames() and time.monotonic() < end:
        time.sleep(0.002)


@functools.cache
def install() -> None:
    """Wrap the sampler, the callback and SideStream's decoder."""
    ending = ".preview.decoders.latent2rgb"
    found = [name for name in sys.modules if name.endswith(ending)]
    decoder = sys.modules[found[0]].Latent2RGB
    decode, sample = decoder.__call__, comfy.sample.sample
    prepare_callback = latent_preview.prepare_callback

    def slow_decode(*args, **kwargs):
        if decoder_seconds:
            released.wait(decoder_seconds)
        return decode(*args, **kwargs)

    def measured_sample(model, *args, **kwargs):
        start = time.perf_counter()
        try:
            return sample(model, *args, **kwargs)
        finally:
            probe = model.model_options.get(KEY)
            if probe:
                measured[probe["name"]]["seconds"] = time.perf_counter() - start

    def measured_prepare_callback(model, *args, **kwargs):
        global decoder_seconds
        callback = prepare_callback(model, *args, **kwargs)
        probe = model.model_options.get(KEY, {})
        decoder_seconds = probe.get("decoder_seconds", 0.0)
        released.clear()
        if not probe:
            return callback
        times = []
        measured[probe["name"]] = {"callbacks": times}

        def measured_callback(*args):
            start = time.perf_counter()
            callback(*args)
            times.append(time.perf_counter() - start)
            if probe["settles"]:
                settle()

        return measured_callback

    decoder.__call__ = slow_decode
    comfy.sample.sample = measured_sample
    latent_preview.prepare_callback = measured_prepare_callback
