"""A pack of samplers that do more than sample: one stays at work, one shows a result of its own."""

from __future__ import annotations

import time

import nodes


class SampleAndStay(nodes.KSampler):
    """A KSampler whose node goes on for a while."""

    CATEGORY = "testing"
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        types = nodes.KSampler.INPUT_TYPES()
        types["required"]["stays"] = ("FLOAT", {"default": 1.0})
        return types

    def run(self, stays, **inputs):
        result = self.sample(**inputs)
        time.sleep(stays)
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


NODE_CLASS_MAPPINGS = {
    "SampleAndStay": SampleAndStay,
    "SampleAndShowNothing": SampleAndShowNothing,
    "SampleAsOutput": SampleAsOutput,
    "SampleAndShow": SampleAndShow,
}
