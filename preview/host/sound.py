"""VAEs for sound: which they are, what is known of each family, and their copies."""

from __future__ import annotations

import copy
import functools
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch.nn.utils import parametrize

from ..plain import in_a_line
from ..sound_copy import SoundCopy
from ..vae_copy import copied, weights
from .models import Shared, is_sound, make_independent, options_of

SOUND_VAE_KEY = "sidestream_sound_vae"
"""Where a VAE to decode sound by lies on a MODEL's options."""


@dataclass(frozen=True)
class Family:
    """What ComfyUI does not say of a decoder: see `sound_copy.SoundCopy`."""

    reach: tuple[int, int]
    axis: int = -1
    grain: int = 1


FAMILIES = {
    "AudioOobleckVAE": Family((11, 11)),  # Stable Audio, ACE-Step 1.5
    "SA3AudioVAE": Family((16, 16), grain=8),  # Stable Audio 3: attends within 8 positions
    "MusicDCAE": Family((24, 24)),  # ACE-Step
    "AudioVAE": Family((40, 8), axis=-2),  # LTX-2: causal
    "MiniMaxH3AudioVAE": Family((28, 28)),
    "MiniMaxMusic3DAV": Family((14, 14)),
}
"""By the class of the VAE's model."""


WITH_SOUND = ("LTXAV", "MiniMaxH3AV")
"""Latent formats of video with sound."""


class CannotDecode(Exception):
    """This VAE cannot decode sound beside the sampler.

    `why` is `unknown` (no family that SideStream knows), `thread` (its decoder needs ComfyUI's
    memory management, which is the sampler's alone), `latents` (the model's are of another kind) or
    `failed`; the message is for the log.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def is_for_sound(vae: Any) -> bool:
    """Whether a VAE decodes to sound, of whichever family."""
    model = getattr(vae, "first_stage_model", None)
    if model is None:  # some versions of ComfyUI load LTX-2's by a class of its own
        return hasattr(vae, "vocoder")
    if type(model).__name__ in FAMILIES or getattr(vae, "extra_1d_channel", None) is not None:
        return True
    return vae.latent_dim == 1 and vae.output_channels <= 2


def has_sound(latent_format: Any) -> bool:
    """Whether its latents are sound, or have sound beside their pictures."""
    return is_sound(latent_format) or type(latent_format).__name__ in WITH_SOUND


def leave(model: Any, vae: Any) -> None:
    """Put a VAE to decode sound by on a MODEL."""
    model.model_options[SOUND_VAE_KEY] = Shared(vae)


def left(model: Any) -> Any:
    """The VAE that `leave` put on a MODEL; None where it did not."""
    found = options_of(model).get(SOUND_VAE_KEY)
    return found.content if isinstance(found, Shared) else None


def scale(model: Any) -> float:
    """By how much a sampler's latents of sound are larger than the model's.

    MiniMax H3 samples them scaled onto the schedule of its video.
    """
    try:
        return float(getattr(model.get_model_object("model_sampling"), "audio_scale", 1.0))
    except Exception:  # a MODEL look-alike
        return 1.0


_copies: weakref.WeakKeyDictionary[Any, SoundCopy] = weakref.WeakKeyDictionary()


def copy_of(vae: Any) -> SoundCopy:
    """The decoder of ComfyUI's `vae`, copied at the first call. Raises CannotDecode.

    To be called on the prompt's thread: nobody moves the VAE's weights meanwhile.
    """
    model = getattr(vae, "first_stage_model", None)
    if model is None:
        raise CannotDecode("thread", "its weights are moved by ComfyUI's memory management")
    try:
        if vae not in _copies:
            _copies[vae] = _made(vae, model)
        return _copies[vae]
    except CannotDecode:
        raise
    except Exception as error:  # it may be any pack's
        raise CannotDecode("failed", in_a_line(error)) from error


def _made(vae: Any, model: Any) -> SoundCopy:
    name = type(model).__name__
    family = FAMILIES.get(name)
    if family is None:
        raise CannotDecode("unknown", f"{name} is not a decoder of sound that SideStream knows")
    if not _attention_is_torchs(model):
        raise CannotDecode("thread", "its attention uses ComfyUI's memory management")
    if any(weight.is_meta for weight in weights(model)):
        raise CannotDecode("failed", "its weights are not loaded")
    rate, hop, lead = _timing(vae, model)
    decoder = copied(model, torch.device("cpu"), vae.vae_dtype, _is_encoder)
    _fold_parametrizations(decoder)
    _detach(decoder)
    make_independent(decoder)
    types = vae.working_dtypes
    return SoundCopy(
        decoder,
        rate,
        hop,
        lead,
        family.reach,
        family.grain,
        family.axis,
        vae.latent_channels,
        functools.partial(comfy.model_management.vae_dtype, allowed_dtypes=types),
        functools.partial(_numbers_held, vae.memory_used_decode),
        name,
    )


def _numbers_held(memory_used: Any, shape: Sequence[int]) -> float:
    return float(memory_used(shape, torch.float32)) / torch.float32.itemsize


def _timing(vae: Any, model: Any) -> tuple[int, int, int]:
    """`rate`, `hop` and `lead` of `SoundCopy`."""
    if hasattr(model, "latents_per_second") and hasattr(model, "autoencoder"):
        rate = int(model.output_sample_rate)
        hop = round(rate / model.latents_per_second)
        causal = model.autoencoder.causality_axis.value is not None
        return rate, hop, hop * 3 // 4 if causal else 0
    rate = getattr(vae, "audio_sample_rate_output", getattr(vae, "audio_sample_rate", 44100))
    return int(rate), int(vae.upscale_ratio), 0


def _is_encoder(name: str) -> bool:
    return name == "encoder" or name.endswith("_encoder")


def _attention_is_torchs(model: Any) -> bool:
    """Whether a decoder with ComfyUI's attention has the one that is torch's own."""
    attention = getattr(_module_of(model), "optimized_attention", None)
    return attention is None or attention.__name__ == "attention_pytorch"


def _module_of(model: Any) -> Any:
    """The Python module that defines the class of `model`."""
    return sys.modules.get(type(model).__module__)


def _fold_parametrizations(decoder: torch.nn.Module) -> None:
    """Compute weights that layers compute with every call (weight norm) once and for all."""
    for layer in decoder.modules():
        if not parametrize.is_parametrized(layer):
            continue
        names = list(layer.parametrizations)  # type: ignore[arg-type]
        computed = {name: getattr(layer, name).detach() for name in names}
        # A class of its own, which the VAE's layer shares: the copy goes back to the one below.
        layer.__class__ = type(layer).__bases__[0]
        del layer._modules["parametrizations"]
        for name, weight in computed.items():
            layer.register_parameter(name, torch.nn.Parameter(weight, requires_grad=False))


def _detach(decoder: Any) -> None:
    """Let what is no layer and holds one (LTX-2's normaliser) hold that of the copy."""
    normalizer = getattr(decoder, "normalizer", None)
    if normalizer is not None:
        decoder.normalizer = copy.copy(normalizer)
        decoder.normalizer.statistics = decoder.autoencoder.per_channel_statistics
    bottleneck = getattr(decoder, "bottleneck", None)
    if getattr(bottleneck, "noise_regularize", False):
        # Stable Audio 3's adds a thousandth of noise: random numbers that are the sampler's.
        bottleneck.noise_regularize = False  # type: ignore[union-attr]
