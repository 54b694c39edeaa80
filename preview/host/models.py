"""MODELs: what SideStream's nodes attach to them, their latent formats, copies of their VAEs."""

from __future__ import annotations

import copy
import functools
import logging
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import comfy.latent_formats
import comfy.model_management
import torch
from torch.nn.utils import parametrize

from .. import decoder_files
from ..decoder_files import Kind
from ..plain import in_a_line
from ..records import Video
from ..settings import KEY
from ..vae_copy import SMALLEST, SoundCopy, VaeCopy, copied, weights

log = logging.getLogger(__name__)

# --- what nodes attach to a MODEL ---------------------------------------------------------------

VAE_KEY = "sidestream_vae"
SOUND_VAE_KEY = "sidestream_sound_vae"
"""The keys in a MODEL's options for the VAEs that decode its previews."""


class AttachedSettings(NamedTuple):
    """What one of SideStream's nodes attached to a MODEL."""

    node_id: str
    """The prompt's extra data may hold more settings under this id."""
    settings: Mapping[str, Any]


def attach_settings(model: Any, node_id: str, settings: dict[str, Any]) -> None:
    """Add a node's settings to a MODEL, after those of the nodes before it."""
    model.model_options[KEY] = [*attached_settings(model), AttachedSettings(node_id, settings)]


def attached_settings(model: Any) -> list[AttachedSettings]:
    """What SideStream's nodes attached to a MODEL; if they differ, the last one wins.

    A script may have put plain settings there. Anything else is ignored.
    """
    found = _options_of(model).get(KEY)
    if isinstance(found, Mapping):
        return [AttachedSettings("", found)]
    attached = found if isinstance(found, list) else []
    # By their shape: a MODEL from ComfyUI's cache may hold those of a pack loaded before this one.
    return [AttachedSettings(*each) for each in attached if _is_attached(each)]


def _is_attached(each: object) -> bool:
    return isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], Mapping)


def _options_of(model: Any) -> Mapping[str, Any]:
    options = getattr(model, "model_options", None)
    return options if isinstance(options, Mapping) else {}


class Shared:
    """Something that all copies of a MODEL share: ComfyUI makes deep copies of its options."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def attach_vae(model: Any, vae: Any) -> None:
    """Put a VAE on a MODEL to decode its previews, of pictures or of sound."""
    model.model_options[SOUND_VAE_KEY if is_for_sound(vae) else VAE_KEY] = Shared(vae)


def attached_vae(model: Any, key: str = VAE_KEY) -> Any:
    """The VAE that `attach_vae` put on a MODEL under that key; None if there is none."""
    found = _options_of(model).get(key)
    return found.content if isinstance(found, Shared) else None


# --- latent formats -----------------------------------------------------------------------------


def decoder_kind(latent_format: Any) -> Kind | None:
    """What is known of the format's files in models/vae_approx."""
    own = getattr(latent_format, "taesd_decoder_name", None)
    return decoder_files.kind_of(type(latent_format).__name__, own)


def decoder_names(latent_format: Any) -> tuple[str, ...]:
    """How the names of the format's files in models/vae_approx may begin, best first."""
    own = getattr(latent_format, "taesd_decoder_name", None)
    kind = decoder_kind(latent_format)
    known = () if kind is None else kind.names
    return known if own is None else tuple(dict.fromkeys([own, *known]))


def is_exact(latent_format: Any) -> bool:
    """Whether the format's factors give the exact picture, as those of the demo model do."""
    return bool(getattr(latent_format, decoder_files.EXACT, False))


def formats_by_decoder() -> dict[str, list[str]]:
    """All names of decoders of ComfyUI's latent formats, each with its formats."""
    names: dict[str, list[str]] = {}
    for kind in vars(comfy.latent_formats).values():
        if isinstance(kind, type) and issubclass(kind, comfy.latent_formats.LatentFormat):
            for name in decoder_names(kind()):
                names.setdefault(name, []).append(kind.__name__)
    return names


def latent_channels(latent_format: Any) -> int:
    """The channels of the format's pictures.

    For video with sound ComfyUI states the larger number of the two. The factors are those of the
    pictures, unless they apply to reshaped latents.
    """
    factors = latent_format.latent_rgb_factors
    if factors is None or getattr(latent_format, "latent_rgb_factors_reshape", None) is not None:
        return int(latent_format.latent_channels)
    return len(factors)


SCALES = {
    "SC_Prior": 42, "SC_B": 4, "SD_X4": 4, "Flux2": 16, "QwenImage21": 16, "LTXV": 32,
    "Wan22": 16, "HunyuanImage21": 32, "HunyuanImage21Refiner": 16, "HunyuanVideo15": 16,
    "ChromaRadiance": 1, "SanaLatent": 32,
}  # fmt: skip
"""Pixels per latent pixel of the formats that do not have `SCALE`. Only newer versions of ComfyUI
state it, and only for some."""

SCALE = 8


def picture_scale(latent_format: Any) -> int:
    """Pixels of the final picture per latent pixel, by the nearest known class."""
    for kind in type(latent_format).__mro__:
        stated = vars(kind).get("spacial_downscale_ratio", SCALES.get(kind.__name__))
        if stated is not None:
            return int(stated)
    return SCALE


VIDEOS = {
    "Wan21": Video(16, 4), "Wan22": Video(24, 4), "HunyuanVideo": Video(24, 4),
    "HunyuanVideo15": Video(24, 4), "LTXV": Video(25, 8), "Mochi": Video(24, 6),
    "Cosmos1CV8x8x8": Video(24, 8), "CogVideoX": Video(8, 4), "CogVideoX1_5": Video(16, 4),
    "MiniMaxH3Video": Video(24, 4),
}  # fmt: skip
"""By latent format, the frame rate of its models, which ComfyUI does not state."""


def video(latent_format: Any) -> Video:
    """How the format's videos play, by the nearest known class."""
    known = (VIDEOS.get(kind.__name__) for kind in type(latent_format).__mro__)
    found = next((each for each in known if each), Video())
    ratio = getattr(latent_format, "temporal_downscale_ratio", None)
    return found if not ratio else Video(found.fps, ratio)


SOUNDS = {"ACEAudio"}
"""Latent formats of sound that have two dimensions, like pictures."""

WITH_SOUND = ("LTXAV", "MiniMaxH3AV")
"""Latent formats of video with sound."""


def is_sound(latent_format: Any) -> bool:
    """Whether its latents are not pictures but sound, or anything else with one dimension."""
    if getattr(latent_format, "latent_dimensions", 2) == 1:
        return True
    return any(kind.__name__ in SOUNDS for kind in type(latent_format).__mro__)


def has_sound(latent_format: Any) -> bool:
    """Whether its latents are sound, or pictures with sound."""
    return is_sound(latent_format) or type(latent_format).__name__ in WITH_SOUND


VIEWS = {"Hunyuan3Dv2_1Paint"}
"""Latent formats whose frames are views of one object."""


def shows_views(latent_format: Any) -> bool:
    """Whether the frames of its latents are views, to be shown side by side."""
    return any(kind.__name__ in VIEWS for kind in type(latent_format).__mro__)


# --- VAEs of pictures ---------------------------------------------------------------------------

_vae_copies: weakref.WeakKeyDictionary[Any, VaeCopy | None] = weakref.WeakKeyDictionary()


def vae_copy(vae: Any) -> VaeCopy | None:
    """The decoder of ComfyUI's `vae`, copied at the first call; None if it cannot be copied.

    Must be called on the prompt's thread, where nobody else moves the VAE's weights.
    """
    try:
        if vae not in _vae_copies:
            _vae_copies[vae] = None
            _vae_copies[vae] = _copy_of_vae(vae)
        return _vae_copies[vae]
    except Exception as error:  # the VAE may be another pack's
        log.warning(
            "[SideStream] This VAE cannot decode previews (%s); they continue without it.",
            in_a_line(error),
        )
        return None


def _copy_of_vae(vae: Any) -> VaeCopy:
    """Raises ValueError if it does not make pictures, other errors if it is incompatible."""
    model = getattr(vae, "first_stage_model", None)
    if model is None:
        raise ValueError("it has no weights")
    dimensions = vae.latent_dim
    is_audio = getattr(vae, "extra_1d_channel", None) is not None
    if is_audio or dimensions not in (2, 3) or getattr(vae, "output_channels", 3) < 3:
        raise ValueError("it does not decode to pictures")
    if any(weight.is_meta for weight in weights(model)):
        raise ValueError("its weights are not loaded")
    types = getattr(vae, "working_dtypes", [torch.bfloat16])
    half = next((dtype for dtype in types if dtype.itemsize == 2), torch.float32)
    decoder = copied(model, torch.device("cpu"), half, lambda name: name.endswith("encoder"))
    _make_independent(decoder)
    one_tile = (1, vae.latent_channels, *(1, SMALLEST, SMALLEST)[-dimensions:])
    return VaeCopy(
        model=decoder,
        channels=vae.latent_channels,
        precision=functools.partial(comfy.model_management.vae_dtype, allowed_dtypes=types),
        name=type(model).__name__,
        process_output=vae.process_output,
        scale=int(vae.spacial_compression_decode()),
        latent_dimensions=dimensions,
        numbers_held=_numbers_held(vae.memory_used_decode, one_tile) / SMALLEST**2,
    )


def _numbers_held(memory_used: Any, shape: Sequence[int]) -> float:
    """How many numbers decoding a latent of `shape` holds at a time, as ComfyUI estimates it."""
    return float(memory_used(shape, torch.float32)) / torch.float32.itemsize


def _make_independent(decoder: Any) -> None:
    """Make ComfyUI's layers in a copy work on any thread, without ComfyUI's memory management."""
    for layer in decoder.modules():
        kind: Any = type(layer)
        layer.__class__ = _independent(kind)
        attention = getattr(layer, "optimized_attention", None)
        if getattr(attention, "__module__", None) == "comfy.ldm.modules.diffusionmodules.model":
            # ComfyUI's empties the allocator's cache if memory is short, which stalls samplers.
            layer.optimized_attention = _attention
        if getattr(layer, "inject_noise", False):
            layer.inject_noise = False
    if getattr(decoder, "timestep_conditioning", False):
        # LTX-Video's VAE adds noise to latents, with random numbers that belong to the sampler.
        decoder.timestep_conditioning = False


@functools.cache
def _independent(kind: Any) -> Any:
    """`kind` with torch's layers in place of ComfyUI's.

    ComfyUI's check at every call whether the prompt was interrupted, which takes the interrupt from
    the sampler, and they move the weights of partly loaded models.
    """
    layers = [base for base in kind.__mro__ if issubclass(base, torch.nn.Module)]
    of_host = [layer for layer in layers if layer.__module__ == "comfy.ops"]
    if not of_host:
        return kind
    hosts = of_host[-1]  # next to torch's

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return super(hosts, self).forward(*args, **kwargs)

    def convolve(self: Any, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self._conv_forward(x, self.weight, self.bias, **kwargs)

    is_convolution = issubclass(hosts, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d))
    between = type(hosts.__name__, (hosts,), {"forward": convolve if is_convolution else forward})
    # Between `kind` and ComfyUI's class in the method resolution order.
    return between if kind is hosts else type(kind.__name__, (kind, between), {})


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of every pixel to every other; all are [B, C, ...]."""
    batch, channels = q.shape[:2]
    q_, k_, v_ = (x.reshape(batch, 1, channels, -1).transpose(2, 3) for x in (q, k, v))
    result = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_)
    return result.transpose(2, 3).reshape(q.shape)


# --- VAEs of sound ------------------------------------------------------------------------------


class Family(NamedTuple):
    """What ComfyUI does not say of a decoder of sound; see `vae_copy.SoundCopy`."""

    reach: tuple[int, int]
    axis: int = -1
    grain: int = 1
    levelled: bool = True


FAMILIES = {
    "AudioOobleckVAE": Family((11, 11)),  # Stable Audio, ACE-Step 1.5
    "SA3AudioVAE": Family((16, 16), grain=8),  # Stable Audio 3: attends within 8 positions
    "MusicDCAE": Family((24, 24)),  # ACE-Step
    "AudioVAE": Family((40, 8), axis=-2, levelled=False),  # LTX-2: causal
    "MiniMaxH3AudioVAE": Family((28, 28)),
    "MiniMaxMusic3DAV": Family((14, 14)),
}
"""By the class of the VAE's model."""


class CannotDecode(Exception):
    """This VAE cannot decode sound beside the sampler.

    `why` is `unknown` (SideStream does not know its family), `thread` (its decoder needs ComfyUI's
    memory management, which only the sampler's thread may use) or `failed`. The message is for the
    log.
    """

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def is_for_sound(vae: Any) -> bool:
    """Whether a VAE decodes to sound, whether or not its family is known."""
    model = getattr(vae, "first_stage_model", None)
    if model is None:  # some versions of ComfyUI have a separate class for LTX-2's
        return hasattr(vae, "vocoder")
    if type(model).__name__ in FAMILIES or getattr(vae, "extra_1d_channel", None) is not None:
        return True
    dimensions, channels = getattr(vae, "latent_dim", 2), getattr(vae, "output_channels", 3)
    return bool(dimensions == 1 and channels <= 2)


def sound_scale(model: Any) -> float:
    """The factor between the latents of sound that are sampled and those of the VAE.

    MiniMax H3 samples them scaled to the schedule of its video.
    """
    try:
        return float(getattr(model.get_model_object("model_sampling"), "audio_scale", 1.0))
    except Exception:  # a MODEL look-alike
        return 1.0


_sound_copies: weakref.WeakKeyDictionary[Any, SoundCopy] = weakref.WeakKeyDictionary()


def sound_copy(vae: Any) -> SoundCopy:
    """The decoder of ComfyUI's `vae`, copied at the first call. Raises CannotDecode.

    Must be called on the prompt's thread, where nobody else moves the VAE's weights.
    """
    model = getattr(vae, "first_stage_model", None)
    if model is None:
        raise CannotDecode("thread", "its weights are moved by ComfyUI's memory management")
    try:
        if vae not in _sound_copies:
            _sound_copies[vae] = _copy_of_sound_vae(vae, model)
        return _sound_copies[vae]
    except CannotDecode:
        raise
    except Exception as error:  # the VAE may be another pack's
        raise CannotDecode("failed", in_a_line(error)) from error


def _copy_of_sound_vae(vae: Any, model: Any) -> SoundCopy:
    name = type(model).__name__
    family = FAMILIES.get(name)
    if family is None:
        raise CannotDecode("unknown", f"{name} is not a decoder of sound that SideStream knows")
    if not _uses_torchs_attention(model):
        raise CannotDecode("thread", "its attention uses ComfyUI's memory management")
    if any(weight.is_meta for weight in weights(model)):
        raise CannotDecode("failed", "its weights are not loaded")
    rate, hop, lead = _timing(vae, model)
    decoder = copied(
        model,
        torch.device("cpu"),
        vae.vae_dtype,
        lambda name: name == "encoder" or name.endswith("_encoder"),
    )
    _fold_parametrizations(decoder)
    _detach(decoder)
    _make_independent(decoder)
    types = vae.working_dtypes
    return SoundCopy(
        model=decoder,
        channels=vae.latent_channels,
        precision=functools.partial(comfy.model_management.vae_dtype, allowed_dtypes=types),
        name=name,
        rate=rate,
        hop=hop,
        lead=lead,
        reach=family.reach,
        grain=family.grain,
        axis=family.axis,
        levelled=family.levelled,
        memory=functools.partial(_numbers_held_by, weakref.ref(vae)),
    )


def _numbers_held_by(vae: Callable[[], Any], shape: Sequence[int]) -> float:
    """As `_numbers_held`, for a weakly referenced VAE; 0 if it no longer exists.

    MiniMax H3's function refers to its VAE, which with its copy would stay in memory for good.
    """
    alive = vae()
    return 0.0 if alive is None else _numbers_held(alive.memory_used_decode, shape)


def _timing(vae: Any, model: Any) -> tuple[int, int, int]:
    """`rate`, `hop` and `lead` of `SoundCopy`."""
    if hasattr(model, "latents_per_second") and hasattr(model, "autoencoder"):
        rate = int(model.output_sample_rate)
        hop = round(rate / model.latents_per_second)
        causal = model.autoencoder.causality_axis.value is not None
        return rate, hop, hop * 3 // 4 if causal else 0
    rate = getattr(vae, "audio_sample_rate_output", getattr(vae, "audio_sample_rate", 44100))
    return int(rate), int(vae.upscale_ratio), 0


def _uses_torchs_attention(model: Any) -> bool:
    """Whether a decoder does without ComfyUI's own kinds of attention."""
    attention = getattr(sys.modules.get(type(model).__module__), "optimized_attention", None)
    return attention is None or attention.__name__ == "attention_pytorch"


def _fold_parametrizations(decoder: torch.nn.Module) -> None:
    """Compute weights once that layers otherwise compute at every call (weight norm)."""
    for layer in decoder.modules():
        if not parametrize.is_parametrized(layer):
            continue
        names = list(layer.parametrizations)  # type: ignore[arg-type]
        computed = {name: getattr(layer, name).detach() for name in names}
        # The VAE's layer has this class, too, so it is not changed: the copy gets its base class.
        layer.__class__ = type(layer).__bases__[0]
        del layer._modules["parametrizations"]
        for name, weight in computed.items():
            layer.register_parameter(name, torch.nn.Parameter(weight, requires_grad=False))


def _detach(decoder: Any) -> None:
    """Give the copy its own objects that are not layers, such as LTX-2's normaliser."""
    normalizer = getattr(decoder, "normalizer", None)
    if normalizer is not None:
        decoder.normalizer = copy.copy(normalizer)
        decoder.normalizer.statistics = decoder.autoencoder.per_channel_statistics
    bottleneck = getattr(decoder, "bottleneck", None)
    if getattr(bottleneck, "noise_regularize", False):
        # Stable Audio 3's adds some noise, with random numbers that belong to the sampler.
        bottleneck.noise_regularize = False  # type: ignore[union-attr]
