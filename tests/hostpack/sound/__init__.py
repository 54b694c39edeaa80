"""A pack that samples sound, alone or beside a video, without a model, and has a small VAE for it.

The VAE is Stable Audio's, with an eighth of its channels and random weights.
"""

from __future__ import annotations

import os
import time
import types

import comfy.latent_formats
import comfy.sd
import folder_paths
import latent_preview
import torch
from comfy.ldm.audio.autoencoder import AudioOobleckVAE

POSITIONS = 43  # two seconds of sound
FRAMES = 4


class LTXAV(comfy.latent_formats.LTXV):
    """As newer versions of ComfyUI call the latents of a video with sound."""


class Nested:
    """As newer versions of ComfyUI hand out several latents."""

    is_nested = True

    def __init__(self, *tensors):
        self.tensors = list(tensors)


class Model:
    """What nodes and callbacks ask of a MODEL."""

    load_device = torch.device("cpu")

    def __init__(self, latent_format, model_options=None):
        self.model = types.SimpleNamespace(latent_format=latent_format)
        self.model_options = dict(model_options or {})

    def clone(self):
        return Model(self.model.latent_format, self.model_options)


class ProbeSoundModel:
    """A MODEL of sound, or of video with sound."""

    CATEGORY = "testing"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"video": ("BOOLEAN", {"default": False})}}

    def make(self, video):
        return (Model(LTXAV() if video else comfy.latent_formats.StableAudio1()),)


class ProbeSoundVAE:
    """ComfyUI's VAE of a small model."""

    CATEGORY = "testing"
    RETURN_TYPES = ("VAE",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"works": ("BOOLEAN", {"default": True})}}

    def make(self, works):
        if not works:  # as ComfyUI loads LTX-2's in some versions, by a class of its own
            return (types.SimpleNamespace(vocoder=None),)
        full_size = AudioOobleckVAE.__init__
        generator = torch.Generator().manual_seed(7)
        AudioOobleckVAE.__init__ = lambda self, **more: full_size(self, **{**more, "channels": 16})
        try:
            weights = AudioOobleckVAE().state_dict()
            for name, weight in weights.items():
                random = torch.randn(weight.shape, generator=generator)
                if name.endswith("original0"):
                    random = random.abs() * 0.1 + 0.7
                elif weight.ndim < 2:
                    random *= 0.1
                weight.copy_(random)
            return (comfy.sd.VAE(sd=weights),)
        finally:
            AudioOobleckVAE.__init__ = full_size


class ProbeSound:
    """Calls the sampler's callback with noise as sound; what `vae` makes of it is saved."""

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "sample"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL",),
                "steps": ("INT", {"default": 8}),
                "seconds": ("FLOAT", {"default": 0.2}),
                "seed": ("INT", {"default": 0}),
            },
            "optional": {"vae": ("VAE",)},
        }

    def sample(self, model, steps, seconds, seed, vae=None):
        generator = torch.Generator().manual_seed(seed)
        sound = torch.randn(1, 64, POSITIONS, generator=generator)
        x0 = sound
        if isinstance(model.model.latent_format, LTXAV):
            video = torch.randn(1, 128, FRAMES, 8, 8, generator=generator)
            x0 = Nested(video, sound)
        callback = latent_preview.prepare_callback(model, steps)
        for step in range(steps):
            callback(step, x0, x0, steps)
            time.sleep(seconds)
        if vae is not None:
            audio = vae.decode(sound).movedim(-1, 1)
            audio /= (audio.std(dim=[1, 2], keepdim=True) * 5).clamp(min=1)
            file = os.path.join(folder_paths.get_output_directory(), f"sound-{seed}.pt")
            torch.save(audio[0].clone(), file)
        return {}


NODE_CLASS_MAPPINGS = {
    "ProbeSoundModel": ProbeSoundModel,
    "ProbeSoundVAE": ProbeSoundVAE,
    "ProbeSound": ProbeSound,
}
