"""ComfyUI's latent formats, and the decoder files in models/vae_approx that belong to them."""

from __future__ import annotations

import contextlib
import os
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
    "QwenImage21": "taeqi2_1_decoder",
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
    """The path of the file that ComfyUI takes for the decoder `name`; None where none is there.

    Raises OSError where the folder cannot be read.
    """
    file = next((file for file in _files(FOLDER) if file.startswith(name)), None)
    return None if file is None else folder_paths.get_full_path(FOLDER, file)


FOLDER = "vae_approx"
WRONG_FOLDER = "vae"


def _files(folder: str) -> list[str]:
    """The files in one of ComfyUI's folders of models, and below it."""
    return list(folder_paths.get_filename_list(folder))


def misplaced_decoder(name: str) -> str | None:
    """Where a file of the decoder `name` lies that ComfyUI does not take; None where none does.

    In models/vae, for one, or deeper in models/vae_approx.
    """
    for folder in (FOLDER, WRONG_FOLDER):
        with contextlib.suppress(OSError, KeyError):
            for file in _files(folder):
                place, own_name = os.path.split(file)
                if own_name.startswith(name) and (place or folder != FOLDER):
                    return f"models/{folder}/{file}".replace(os.sep, "/")
    return None


def other_decoder_files() -> list[str]:
    """The files in models/vae_approx that no preview uses, but for encoders.

    Raises OSError where the folder cannot be read.
    """
    files = _files(FOLDER)
    used = {next((file for file in files if file.startswith(name)), "") for name in decoder_names()}
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
    "SC_Prior": 42,
    "SC_B": 4,
    "SD_X4": 4,
    "Flux2": 16,
    "QwenImage21": 16,
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


VIEWS = {"Hunyuan3Dv2_1Paint"}
"""Latent formats whose frames are views of one thing, not moments."""


def shows_views(latent_format: Any) -> bool:
    """Whether what its latents have in the place of frames is to be shown side by side."""
    return any(kind.__name__ in VIEWS for kind in type(latent_format).__mro__)
