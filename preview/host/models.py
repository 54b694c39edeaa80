"""What a MODEL carries: its latent format, what SideStream's node left on it, and a copied VAE."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import comfy.latent_formats
import comfy.model_management
import folder_paths
import torch

from .. import decoder_files
from ..decoder_files import Kind
from ..plain import in_a_line
from ..records import Video
from ..settings import KEY, VAE_KEY
from ..vae_copy import SMALLEST, VaeCopy, copied, weights

log = logging.getLogger(__name__)


class LeftSettings(NamedTuple):
    """What one of SideStream's nodes left on a MODEL."""

    node_id: str
    """Under which the prompt's extra data may hold more."""
    settings: Mapping[str, Any]


def leave_settings(model: Any, node_id: str, settings: dict[str, Any]) -> None:
    """Put a node's settings on a MODEL, behind those of the nodes before it."""
    model.model_options[KEY] = [*left_settings(model), LeftSettings(node_id, settings)]


def left_settings(model: Any) -> list[LeftSettings]:
    """What SideStream's nodes left on a MODEL: where they differ, the last one wins.

    A script may have put settings there by itself; anything else is nothing.
    """
    found = _options(model).get(KEY)
    if isinstance(found, Mapping):
        return [LeftSettings("", found)]
    left = found if isinstance(found, list) else []
    # By their shape: a MODEL from ComfyUI's cache may hold those of a pack loaded before this one.
    return [LeftSettings(*each) for each in left if _is_left(each)]


def _is_left(each: object) -> bool:
    return isinstance(each, tuple) and len(each) == 2 and isinstance(each[1], Mapping)


def _options(model: Any) -> Mapping[str, Any]:
    options = getattr(model, "model_options", None)
    return options if isinstance(options, Mapping) else {}


class Shared:
    """What all copies of a MODEL share: ComfyUI copies a MODEL's options to their depths."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def leave_vae(model: Any, vae: Any) -> None:
    """Put a VAE to preview by on a MODEL."""
    model.model_options[VAE_KEY] = Shared(vae)


def left_vae(model: Any) -> Any:
    """The VAE that `leave_vae` put on a MODEL; None where it did not."""
    left = _options(model).get(VAE_KEY)
    return left.content if isinstance(left, Shared) else None


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
    """Whether the format's factors give the very picture, as those of the demo model's do."""
    return bool(getattr(latent_format, decoder_files.EXACT, False))


def formats_by_decoder() -> dict[str, list[str]]:
    """All that decoders of ComfyUI's latent formats are called, each with the formats."""
    names: dict[str, list[str]] = {}
    for kind in vars(comfy.latent_formats).values():
        if isinstance(kind, type) and issubclass(kind, comfy.latent_formats.LatentFormat):
            for name in decoder_names(kind()):
                names.setdefault(name, []).append(kind.__name__)
    return names


def decoder_file(*names: str) -> str | None:
    """The path of the first file that is called as one of `names`; None where none is there.

    Raises OSError where the folder cannot be read.
    """
    files = _files(FOLDER)
    file = next((file for name in names for file in decoder_files.named(files, name)), None)
    return None if file is None else folder_paths.get_full_path(FOLDER, file)


FOLDER = decoder_files.FOLDER
WRONG_FOLDER = "vae"


def _files(folder: str) -> list[str]:
    """The files in one of ComfyUI's folders of models, and below it."""
    return list(folder_paths.get_filename_list(folder))


def misplaced_decoder(*names: str) -> str | None:
    """Where a file called as one of `names` lies that ComfyUI does not take; None where none does.

    In models/vae, for one, or deeper in models/vae_approx.
    """
    for folder in (FOLDER, WRONG_FOLDER):
        with contextlib.suppress(OSError, KeyError):
            for file in _files(folder):
                place, own_name = os.path.split(file)
                is_one = any(True for name in names for _ in decoder_files.named([own_name], name))
                if is_one and (place or folder != FOLDER):
                    return f"models/{folder}/{file}".replace(os.sep, "/")
    return None


def other_decoder_files() -> list[str]:
    """The files in models/vae_approx that no preview uses, but for encoders.

    Raises OSError where the folder cannot be read.
    """
    files = _files(FOLDER)
    used = {next(decoder_files.named(files, name), "") for name in formats_by_decoder()}
    return [file for file in files if file not in used and "encoder" not in file.lower()]


def latent_channels(latent_format: Any) -> int:
    """The channels of the format's pictures.

    Of formats for video with sound ComfyUI gives the larger number of the two; the factors are
    those of the pictures, unless they are for latents that have another shape then.
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
"""By latent format, pixels for each latent pixel where that is not `SCALE`: ComfyUI says it of
some, in its newer versions."""

SCALE = 8


def picture_scale(latent_format: Any) -> int:
    """Pixels of the final picture for each latent pixel: those of the nearest class known."""
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
"""By latent format, the frame rate that its models are made for: ComfyUI does not say."""


def video(latent_format: Any) -> Video:
    """How the format's videos play; that of the nearest class that is known."""
    known = (VIDEOS.get(kind.__name__) for kind in type(latent_format).__mro__)
    found = next((each for each in known if each), Video())
    ratio = getattr(latent_format, "temporal_downscale_ratio", None)
    return found if not ratio else Video(found.fps, ratio)


SOUNDS = {"ACEAudio"}
"""Latent formats of sound that have rows, and so two dimensions as pictures have them."""


def is_sound(latent_format: Any) -> bool:
    """Whether its latents are no pictures: sound, or others with one dimension and channels."""
    if getattr(latent_format, "latent_dimensions", 2) == 1:
        return True
    return any(kind.__name__ in SOUNDS for kind in type(latent_format).__mro__)


VIEWS = {"Hunyuan3Dv2_1Paint"}
"""Latent formats whose frames are views of one thing, not moments."""


def shows_views(latent_format: Any) -> bool:
    """Whether what its latents have in the place of frames is to be shown side by side."""
    return any(kind.__name__ in VIEWS for kind in type(latent_format).__mro__)


_vae_copies: weakref.WeakKeyDictionary[Any, VaeCopy | None] = weakref.WeakKeyDictionary()


def vae_copy(vae: Any) -> VaeCopy | None:
    """The decoder of ComfyUI's `vae`, copied at the first call; None where that cannot be done.

    To be called on the prompt's thread: nobody moves the VAE's weights meanwhile.
    """
    try:
        if vae not in _vae_copies:
            _vae_copies[vae] = None
            _vae_copies[vae] = _copy_of_vae(vae)
        return _vae_copies[vae]
    except Exception as error:  # it may be any pack's
        log.warning(
            "[SideStream] This VAE cannot decode previews (%s); they continue without it.",
            in_a_line(error),
        )
        return None


def _copy_of_vae(vae: Any) -> VaeCopy:
    """Raises ValueError where it makes no pictures; something else where it is built otherwise."""
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
    held = vae.memory_used_decode(one_tile, torch.float32) / torch.float32.itemsize
    return VaeCopy(
        decoder,
        vae.process_output,
        vae.latent_channels,
        int(vae.spacial_compression_decode()),
        dimensions,
        functools.partial(comfy.model_management.vae_dtype, allowed_dtypes=types),
        held / SMALLEST**2,
        type(model).__name__,
    )


def _make_independent(decoder: Any) -> None:
    """Make ComfyUI's layers of a copy work on any thread, without ComfyUI's memory management."""
    for layer in decoder.modules():
        kind: Any = type(layer)
        layer.__class__ = _independent(kind)
        attention = getattr(layer, "optimized_attention", None)
        if getattr(attention, "__module__", None) == "comfy.ldm.modules.diffusionmodules.model":
            # ComfyUI's empties the allocator's caches when memory is short: that stalls samplers.
            layer.optimized_attention = _attention
        if getattr(layer, "inject_noise", False):
            layer.inject_noise = False
    if getattr(decoder, "timestep_conditioning", False):
        # LTX-Video's VAE adds noise to latents: random numbers that are the sampler's.
        decoder.timestep_conditioning = False


@functools.cache
def _independent(kind: Any) -> Any:
    """`kind` with torch's layers in the place of ComfyUI's.

    Those ask with every call whether the prompt was interrupted, and who asks takes the interrupt
    from the sampler; and they move weights to where a model is only partly loaded.
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

    is_convolution = hasattr(hosts, "_conv_forward")
    between = type(hosts.__name__, (hosts,), {"forward": convolve if is_convolution else forward})
    # After `kind` and before ComfyUI's in the order in which methods are looked up.
    return between if kind is hosts else type(kind.__name__, (kind, between), {})


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of every pixel to every other: [B, C, ...] each."""
    batch, channels = q.shape[:2]
    q_, k_, v_ = (x.reshape(batch, 1, channels, -1).transpose(2, 3) for x in (q, k, v))
    result = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_)
    return result.transpose(2, 3).reshape(q.shape)
