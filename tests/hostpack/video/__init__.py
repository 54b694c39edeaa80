"""A pack with a node that samples a video without a model: a bright bar that moves to the right."""

from __future__ import annotations

import time
import types

import comfy.latent_formats
import latent_preview
import torch


class ProbeVideo:
    """Calls the sampler's callback with a video of Wan 2.1's latents that becomes clearer."""

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "sample"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "steps": ("INT", {"default": 8}),
                "frames": ("INT", {"default": 8}),
                "seconds": ("FLOAT", {"default": 0.2}),
                "seed": ("INT", {"default": 0}),
            }
        }

    def sample(self, steps, frames, seconds, seed):
        latent_format = comfy.latent_formats.Wan21()
        video = moving_bar(latent_format, frames)
        model = types.SimpleNamespace(
            load_device=torch.device("cpu"),
            model=types.SimpleNamespace(latent_format=latent_format),
            model_options={},
        )
        callback = latent_preview.prepare_callback(model, steps)
        for step in range(steps):
            clearness = (step + 1) / steps
            callback(step, video * clearness, video, steps)
            time.sleep(seconds)
        return {}


def moving_bar(latent_format, frames):
    """[1, 16, frames, 20, 4 * frames]: in frame i the bar is the i-th of as many columns."""
    factors = torch.tensor(latent_format.latent_rgb_factors)
    bright = torch.linalg.pinv(factors.T) @ torch.ones(3)
    video = torch.zeros(1, 16, frames, 20, 4 * frames)
    for i in range(frames):
        video[0, :, i, :, 4 * i : 4 * i + 4] = bright[:, None, None]
    return video


class ProbeVideoLatent(ProbeVideo):
    """One that is no output node, and gives the last of its latents."""

    RETURN_TYPES = ("LATENT",)
    OUTPUT_NODE = False

    def sample(self, steps, frames, seconds, seed):
        super().sample(steps, frames, seconds, seed)
        return ({"samples": torch.zeros(1, 16, frames, 20, 4 * frames)},)


NODE_CLASS_MAPPINGS = {"ProbeVideo": ProbeVideo, "ProbeVideoLatent": ProbeVideoLatent}
