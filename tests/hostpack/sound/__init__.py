"""A pack that samples sound, alone or beside a video, and has small VAEs for it.

`ProbeSound` needs no model: it calls the sampler's callback itself. `ProbeAudioModel` is a MODEL
of ComfyUI's own class for a family, with its own transformer, small and with random weights.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import tempfile
import time
import types
from pathlib import Path

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import comfy.utils
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy.ldm.audio.embedders import NumberConditioner


def module_of_tests(name):
    """A module in tests/, which is no package for ComfyUI's process."""
    path = Path(__file__).resolve().parents[2] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"sidestream_tests_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


vaes = module_of_tests("small_audio_vaes")

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
        family, works = (list(vaes.FAMILIES),), ("BOOLEAN", {"default": True})
        return {"required": {}, "optional": {"family": family, "works": works}}

    def make(self, family="stable_audio", works=True):
        if not works:  # as ComfyUI loads LTX-2's in some versions, by a class of its own
            return (types.SimpleNamespace(vocoder=None),)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            made = vaes.make_vae(importlib.import_module, vaes.FAMILIES[family], Path(folder))
        return (made,)


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
            [audio] = ProbeDecodeAudio().decode({"samples": sound}, vae)
            save(audio["waveform"][0].clone(), f"sound-{seed}")
        return {}


def save(what, name):
    torch.save(what, os.path.join(folder_paths.get_output_directory(), f"{name}.pt"))


class ProbeDecodeAudio:
    """As ComfyUI's node VAE Decode Audio, which some versions cannot import without torchaudio."""

    CATEGORY = "testing"
    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    def decode(self, samples, vae):
        audio = vae.decode(samples["samples"]).movedim(-1, 1)
        audio /= (audio.std(dim=[1, 2], keepdim=True) * 5).clamp(min=1)
        return ({"waveform": audio, "sample_rate": 44100},)


# Sampling by ComfyUI itself

MODELS = {
    "ltx_2": (
        "LTXAV",
        {
            "in_channels": 128, "audio_in_channels": 128, "num_layers": 1, "caption_channels": 32,
            "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32,
            "audio_num_attention_heads": 2, "audio_attention_head_dim": 16,
            "audio_cross_attention_dim": 32, "connector_num_layers": 1,
            "connector_num_attention_heads": 2, "connector_attention_head_dim": 16,
        },
        64,
    ),
    "minimax_h3": (
        "MiniMaxH3",
        {
            "hidden_size": 64, "num_layers": 1, "token_refiner_num_layers": 1, "text_dim": 32,
            "num_attention_heads": 2, "attention_head_dim": 96, "ffn_hidden_size": 64,
            "timestep_input_dim": 32, "time_embed_hidden_size": 32, "time_embed_dim": 32,
        },
        32,
    ),
    "stable_audio": ("StableAudio", {"embed_dim": 768, "depth": 1, "num_heads": 12}, 768),
    "ace_step": (
        "ACEStep",
        {
            "num_layers": 1, "inner_dim": 64, "num_attention_heads": 2, "attention_head_dim": 32,
            "ssl_encoder_depths": [1, 1], "text_embedding_dim": 32,
        },
        32,
    ),
}  # fmt: skip
"""By family: ComfyUI's class, how small its transformer is, and the width of its conditioning."""


def random_like(weights, generator):
    """Such that a layer keeps about the size of what it is given."""
    size = weights[0].numel() ** 0.5 if weights.ndim > 1 else 10
    return torch.randn(weights.shape, generator=generator) / size


class ProbeAudioModel:
    """ComfyUI's MODEL of a family, small."""

    CATEGORY = "testing"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": (list(MODELS),)}}

    def make(self, family):
        name, small, _ = MODELS[family]
        kind = getattr(comfy.supported_models, name)
        generator = torch.Generator().manual_seed(3)
        beside = {}
        if family == "stable_audio":
            embedder = NumberConditioner(768, min_val=0, max_val=512)
            for key, weights in embedder.state_dict().items():
                for place in ("start", "total"):
                    full = f"conditioner.conditioners.seconds_{place}.{key}"
                    beside[full] = random_like(weights, generator)
        device = comfy.model_management.get_torch_device()
        model = kind({**kind.unet_config, **small}).get_model(beside, "", device)
        for weights in model.diffusion_model.state_dict().values():
            if weights.is_floating_point():
                weights.copy_(random_like(weights, generator))
        offload = comfy.model_management.unet_offload_device()
        return (comfy.model_patcher.ModelPatcher(model, device, offload),)


class ProbeConditioning:
    """What `ProbeAudioModel` is conditioned on. With another `again`, it is sampled again."""

    CATEGORY = "testing"
    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"family": (list(MODELS),), "again": ("INT", {"default": 0})}}

    def make(self, family, again):
        _, _, width = MODELS[family]
        lyrics = {"conditioning_lyrics": torch.zeros(1, 4, dtype=torch.long)}
        return ([[torch.zeros(1, 4, width), lyrics if family == "ace_step" else {}]],)


class PackedGuider(comfy.samplers.CFGGuider):
    """As in versions of ComfyUI whose callbacks get several latents packed as one, [B, 1, n]."""

    def sample(self, *args, callback=None, **kwargs):
        def packed(step, x0, x, total_steps):
            x0, x = (comfy.utils.pack_latents(each.unbind())[0] for each in (x0, x))
            callback(step, x0, x, total_steps)

        return super().sample(*args, callback=packed, **kwargs)


class ProbePackedGuider:
    """A guider with `PackedGuider`."""

    CATEGORY = "testing"
    RETURN_TYPES = ("GUIDER",)
    FUNCTION = "make"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "positive": ("CONDITIONING",)}}

    def make(self, model, positive):
        guider = PackedGuider(model)
        guider.set_conds(positive, positive)
        return (guider,)


class ProbeSaveSampled:
    """Saves latents, what they sound like and, as ComfyUI's Latent2RGB shows it, their video.

    `pictures` are uint8 [T, h, w, 3], in latent pixels.
    """

    CATEGORY = "testing"
    RETURN_TYPES = ()
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        sound = {"sound": ("LATENT",), "audio": ("AUDIO",), "name": ("STRING", {})}
        return {"required": {"model": ("MODEL",), **sound}, "optional": {"video": ("LATENT",)}}

    def save(self, model, sound, audio, name, video=None):
        kept = {"sound": sound["samples"], "audio": audio["waveform"][0].clone()}
        kept["rate"] = audio["sample_rate"]
        if video is not None:
            latent_format = model.model.latent_format
            previewer = latent_preview.Latent2RGBPreviewer(
                latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
            )
            kept["video"] = video["samples"].clone()
            frames = latent_format.process_in(kept["video"]).split(1, dim=2)
            pictures = [previewer.decode_latent_to_preview(frame) for frame in frames]
            kept["pictures"] = torch.stack([torch.from_numpy(np.array(each)) for each in pictures])
        save(kept, name)
        return {}


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind
    for kind in (
        *(ProbeSoundModel, ProbeSoundVAE, ProbeSound, ProbeDecodeAudio),
        *(ProbeAudioModel, ProbeConditioning, ProbePackedGuider, ProbeSaveSampled),
    )
}
