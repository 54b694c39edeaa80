"""ComfyUI's latent formats, and the decoder files in models/vae_approx that belong to them."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import folder_paths

from ..runs import Video

DECODERS = {
    "Flux2": "taef2_decoder",
    "HunyuanVideo": "taehv",
    "Wan21": "lighttaew2_1",
    "Wan22": "lighttaew2_2",
    "LTXAV": "taeltx_2",
}
"""By latent format, decoders that there are and that some versions of ComfyUI do not name."""


def decoder_name(latent_format: Any) -> str | None:
    """How the name of the format's file in models/vae_approx begins; None where there is none."""
    name = getattr(latent_format, "taesd_decoder_name", None)
    return DECODERS.get(type(latent_format).__name__) if name is None else name


def decoder_names() -> dict[str, list[str]]:
    """All that ComfyUI's latent formats call their decoders, each with the formats."""
    names: dict[str, list[str]] = {}
    for kind in vars(comfy.latent_formats).values():
        if isinstance(kind, type) and issubclass(kind, comfy.latent_formats.LatentFormat):
            name = decoder_name(kind())
            if name is not None:
                names.setdefault(name, []).append(kind.__name__)
    return names


def decoder_file(name: str) -> str | None:
    """The path of the file that ComfyUI takes for the decoder `name`; None where none is there."""
    files = folder_paths.get_filename_list("vae_approx")
    file = next((file for file in files if file.startswith(name)), None)
    return None if file is None else folder_paths.get_full_path("vae_approx", file)


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
    "SC_Prior": 42,
    "SC_B": 4,
    "SD_X4": 4,
    "Flux2": 16,
    "LTXV": 32,
    "Wan22": 16,
    "HunyuanImage21": 32,
    "HunyuanImage21Refiner": 16,
    "HunyuanVideo15": 16,
    "ChromaRadiance": 1,
}
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
    "Wan21": Video(16, 4),
    "Wan22": Video(24, 4),
    "HunyuanVideo": Video(24, 4),
    "HunyuanVideo15": Video(24, 4),
    "LTXV": Video(25, 8),
    "Mochi": Video(24, 6),
    "Cosmos1CV8x8x8": Video(24, 8),
    "CogVideoX": Video(8, 4),
    "CogVideoX1_5": Video(16, 4),
    "MiniMaxH3Video": Video(24, 4),
}
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
