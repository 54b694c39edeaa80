"""A pack of samplers that do more than sample: one stays at work, one shows a result of its own."""

from __future__ import annotations

import threading

import comfy.sample
import comfy.utils
import latent_preview
from aiohttp import web
from comfy_execution.graph_utils import GraphBuilder
from server import PromptServer

import nodes

left = threading.Event()


@PromptServer.instance.routes.post("/samplers/leave")
async def leave(request: web.Request) -> web.Response:
    left.set()
    return web.json_response(True)


class SampleAndStay(nodes.KSampler):
    """A KSampler whose node goes on for a while, or until `POST /samplers/leave`."""

    CATEGORY = "testing"
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        types = nodes.KSampler.INPUT_TYPES()
        types["required"]["stays"] = ("FLOAT", {"default": 1.0})
        return types

    def run(self, stays, **inputs):
        left.clear()
        result = self.sample(**inputs)
        left.wait(stays)
        return result


class SampleAsOutput(nodes.KSampler):
    """A KSampler that is an output node, with a result to show."""

    CATEGORY = "testing"
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, **inputs):
        return {"ui": {"text": ["done"]}, "result": self.sample(**inputs)}


class SampleAndShowNothing(SampleAsOutput):
    """One whose list of pictures to show is empty, as where a menu says so."""

    def run(self, **inputs):
        return {"ui": {"images": []}, "result": self.sample(**inputs)}


class SampleAndShow(nodes.KSampler):
    """A KSampler that shows a result, though it is no output node."""

    CATEGORY = "testing"
    FUNCTION = "run"

    def run(self, **inputs):
        shown = [{"filename": "none.png", "subfolder": "", "type": "temp"}]
        return {"ui": {"images": shown}, "result": self.sample(**inputs)}


class SampleTwice(nodes.KSampler):
    """A KSampler that samples again from what it sampled."""

    CATEGORY = "testing"
    FUNCTION = "run"

    def run(self, **inputs):
        (first,) = self.sample(**inputs)
        return self.sample(**{**inputs, "latent_image": first})


class SampleAndLook(nodes.KSampler):
    """A KSampler with a callback of its own, which looks at each preview and passes it on."""

    CATEGORY = "testing"
    FUNCTION = "run"

    def run(self, model, seed, latent_image, denoise, **inputs):
        start = latent_image["samples"]
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        bar = comfy.utils.ProgressBar(inputs["steps"])

        def callback(step, x0, x, total_steps):
            preview = None
            if previewer:
                preview = previewer.decode_latent_to_preview_image("JPEG", x0)
                kind, picture, size = preview
                assert (kind, min(picture.size) > 1, size > 1) == ("JPEG", True, True)
            bar.update_absolute(step + 1, total_steps, preview)

        noise = comfy.sample.prepare_noise(start, seed)
        more = {"latent_image": start, "denoise": denoise, "callback": callback, "seed": seed}
        samples = comfy.sample.sample(model, noise, **inputs, **more)
        return ({**latent_image, "samples": samples},)


class SampleByGraph:
    """A node that is a KSampler only at run time."""

    CATEGORY = "testing"
    RETURN_TYPES = ("LATENT",)
    FUNCTION = "run"
    INPUT_TYPES = nodes.KSampler.INPUT_TYPES

    def run(self, **inputs):
        graph = GraphBuilder()
        sampler = graph.node("KSampler", **inputs)
        return {"result": (sampler.out(0),), "expand": graph.finalize()}


class Seeds:
    """Some seeds as a list: the nodes behind it are called once for each."""

    CATEGORY = "testing"
    RETURN_TYPES = ("INT",)
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"first": ("INT", {"default": 0}), "count": ("INT", {"default": 2})}}

    def run(self, first, count):
        return ([first + i for i in range(count)],)


NODE_CLASS_MAPPINGS = {
    "SampleTwice": SampleTwice,
    "SampleAndLook": SampleAndLook,
    "SampleByGraph": SampleByGraph,
    "Seeds": Seeds,
    "SampleAndStay": SampleAndStay,
    "SampleAndShowNothing": SampleAndShowNothing,
    "SampleAsOutput": SampleAsOutput,
    "SampleAndShow": SampleAndShow,
}
