"""The known decoder files: their models, their names, and where to get them.

A file's name tells which latents it is for, as most files look alike inside. Its layers, and
whether they fit, are determined when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

FOLDER = "vae_approx"
"""The name of their folder in ComfyUI's models folder."""

EXACT = "sidestream_exact"
"""An attribute of latent formats for which Latent2RGB shows the exact picture."""

IMAGE, VIDEO = "taesd", "taehv"
"""The families."""

TAESD = "https://github.com/madebyollin/taesd/raw/main/"
TAEHV = "https://github.com/madebyollin/taehv/raw/main/safetensors/"
LIGHTX2V = "https://huggingface.co/lightx2v/Autoencoders/resolve/main/"
HUGGING_FACE = "https://huggingface.co/madebyollin/"


class Kind(NamedTuple):
    """The files for one kind of latents."""

    models: str
    family: str
    names: tuple[str, ...]
    """How a file's name may begin, best first: ComfyUI's own name, then others."""

    formats: tuple[str, ...]
    """The latent formats, including those of other packs."""

    url: str
    """Where to download one."""

    megabytes: float = 0.0
    """Its size, in millions of bytes; 0 if unknown."""

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    def wire(self) -> dict[str, str | float]:
        """For telling clients that none of them is installed."""
        return {
            "file": self.file,
            "url": self.url,
            "megabytes": self.megabytes,
            "folder": f"models/{FOLDER}",
            "models": self.models,
        }


# Sizes: taef2 was measured; those of taeqi2_1, taef1 and taeh3 come from programs that check their
# downloads, those of taesd, taesdxl and taesd3 from ComfyUI-Manager, those of taeltx2_3 and
# LightX2V's for Wan from download scripts. The others by TAEHV's author follow: 2 bytes per weight.
KINDS = (
    Kind(
        "Stable Diffusion 1 and 2", IMAGE, ("taesd_decoder",), ("SD15",),
        f"{HUGGING_FACE}taesd/resolve/main/taesd_decoder.safetensors", 4.9,
    ),
    Kind(
        "SDXL", IMAGE, ("taesdxl_decoder",), ("SDXL", "SDXL_Playground_2_5"),
        f"{HUGGING_FACE}taesdxl/resolve/main/taesdxl_decoder.safetensors", 4.9,
    ),
    Kind(
        "Stable Diffusion 3", IMAGE, ("taesd3_decoder",), ("SD3",),
        f"{TAESD}taesd3_decoder.pth", 4.9,
    ),
    Kind(
        "FLUX.1, Z-Image, HiDream", IMAGE, ("taef1_decoder",), ("Flux",),
        f"{TAESD}taef1_decoder.pth", 4.9,
    ),
    Kind("FLUX.2", IMAGE, ("taef2_decoder",), ("Flux2",), f"{TAESD}taef2_decoder.pth", 2.7),
    Kind(
        "Qwen-Image 2.1", IMAGE, ("taeqi2_1_decoder",), ("QwenImage21",),
        f"{TAESD}taeqi2_1_decoder.pth", 15.3,
    ),
    Kind("Sana", IMAGE, ("taesana_decoder",), ("SanaLatent",), f"{TAESD}taesana_decoder.pth"),
    Kind(
        "Wan 2.1, Wan 2.2 (14B), Qwen-Image", VIDEO, ("lighttaew2_1", "taew2_1"), ("Wan21",),
        f"{LIGHTX2V}lighttaew2_1.safetensors", 45,
    ),
    Kind(
        "Wan 2.2 (5B)", VIDEO, ("lighttaew2_2", "taew2_2"), ("Wan22",),
        f"{LIGHTX2V}lighttaew2_2.safetensors", 46,
    ),
    Kind(
        "HunyuanVideo 1.5", VIDEO, ("lighttaehy1_5", "taehv1_5"), ("HunyuanVideo15",),
        f"{LIGHTX2V}lighttaehy1_5.safetensors",
    ),
    Kind(
        "HunyuanVideo", VIDEO, ("taehv",), ("HunyuanVideo",), f"{TAEHV}taehv.safetensors", 22.6,
    ),
    Kind(
        "LTX-2, LTX-2.3", VIDEO, ("taeltx_2", "taeltx2_3"), ("LTXAV",),
        f"{TAEHV}taeltx_2.safetensors", 23.5,
    ),
    Kind(
        "MiniMax H3", VIDEO, ("taeh3",), ("MiniMaxH3Video", "MiniMaxH3AV"),
        f"{TAEHV}taeh3.safetensors", 22.7,
    ),
    Kind(
        "CogVideoX", VIDEO, ("taecvx",), ("CogVideoX", "CogVideoX1_5"),
        f"{TAEHV}taecvx.safetensors", 22.6,
    ),
    Kind("Open-Sora 1.3", VIDEO, ("taeos1_3",), (), f"{TAEHV}taeos1_3.safetensors", 22.6),
)  # fmt: skip


def names(family: str | None = None) -> tuple[str, ...]:
    """How the names of all known files, or those of a family, begin."""
    return tuple(name for kind in KINDS if family in (None, kind.family) for name in kind.names)


def kind_of(latent_format: str, name: str | None) -> Kind | None:
    """The files for a latent format, by the `name` that it states for them, if any."""
    if name is not None:
        return next((kind for kind in KINDS if name in kind.names), None)
    return next((kind for kind in KINDS if latent_format in kind.formats), None)


def named(files: list[str], name: str) -> Iterator[str]:
    """The `files` whose names begin with `name`.

    Except those that begin with a longer known name: `taehv1_5` is not a `taehv`.
    """
    longer = tuple(other for other in names() if other.startswith(name) and other != name)
    for file in files:
        if file.startswith(name) and not (longer and file.startswith(longer)):
            yield file
