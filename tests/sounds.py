"""Sounds in tests: the prompts that make them, reading them, and what ComfyUI itself decodes."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sidestream.preview.deliver.wav import FULL

if TYPE_CHECKING:
    from sidestream.tests.conftest import HostModules


STEPS = 4
"""Of what `sampled_graph` samples."""

WITH_VIDEO = ("ltx_2", "minimax_h3")

LATENTS: dict[str, dict[str, Any]] = {
    "ltx_2": {
        "pictures": (
            "EmptyLTXVLatentVideo",
            {"width": 128, "height": 64, "length": 9, "batch_size": 1},
        ),
        "sound": (
            "LTXVEmptyLatentAudio",
            {"frames_number": 9, "frame_rate": 25, "batch_size": 1, "audio_vae": ["vae", 0]},
        ),
        "latent": (
            "LTXVConcatAVLatent",
            {"video_latent": ["pictures", 0], "audio_latent": ["sound", 0]},
        ),
    },
    "minimax_h3": {
        "latent": ("EmptyMiniMaxH3LatentAV", {"width": 64, "height": 32, "length": 5}),
    },
    "stable_audio": {"latent": ("EmptyLatentAudio", {"seconds": 1.0, "batch_size": 1})},
    "ace_step": {"latent": ("EmptyAceStepLatentAudio", {"seconds": 1.0, "batch_size": 1})},
}
"""The nodes that make each family's empty latents."""


def read(file: bytes) -> tuple[np.ndarray, int]:
    """The samples of a WAV file, [channels, n] from -1 to 1, and their rate."""
    with wave.open(io.BytesIO(file)) as opened:
        assert opened.getsampwidth() == 2
        data = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
        return data.reshape(-1, opened.getnchannels()).T / FULL, opened.getframerate()


def sound_graph(
    *,
    seed: int,
    video: bool = False,
    vae: bool = True,
    works: bool = True,
    steps: int = 8,
    seconds: float = 0.15,
) -> dict[str, Any]:
    """A prompt that samples sound by tests/hostpack/sound, with the VAE at SideStream's node."""
    node = {"model": ["1", 0], **({"audio_vae": ["2", 0]} if vae else {})}
    sampler = {"model": ["3", 0], "steps": steps, "seconds": seconds, "seed": seed}
    return {
        "1": {"class_type": "ProbeSoundModel", "inputs": {"video": video}},
        "2": {"class_type": "ProbeSoundVAE", "inputs": {"works": works}},
        "3": {"class_type": "SideStreamPreview", "inputs": node},
        "4": {
            "class_type": "ProbeSound",
            "inputs": sampler | ({"vae": ["2", 0]} if vae and works else {}),
        },
    }


def as_comfyui_decodes(comfy: HostModules, vae: Any, latent: torch.Tensor) -> torch.Tensor:
    """The waveform [channels, n] by ComfyUI's node; by what it does where it cannot be imported."""
    if type(vae.first_stage_model).__name__ == "AudioVAE":
        decode = comfy("comfy_extras.nodes_lt_audio").LTXVAudioVAEDecode.execute
        return decode({"samples": latent}, vae).args[0]["waveform"][0]
    try:
        decode = comfy("comfy_extras.nodes_audio").vae_decode_audio
    except (ImportError, AttributeError):  # an older one, or it wants torchaudio
        audio = vae.decode(latent).movedim(-1, 1)
        audio /= (audio.std(dim=[1, 2], keepdim=True) * 5).clamp(min=1)
        return audio[0]
    return decode(vae, {"samples": latent})["waveform"][0]


def sampled_graph(
    family: str, *, again: int, packed: bool, has_node: bool, decoder: str
) -> dict[str, Any]:
    """A prompt in which ComfyUI's own nodes sample a family's latents.

    With `packed` callbacks get several latents as one. What was sampled, and what ComfyUI's node
    `decoder` makes of its sound, is saved as `sampled-AGAIN.pt`; with another number it is computed
    again, not taken from ComfyUI's cache.
    """
    vae, bare = ["vae", 0], ["model", 0]
    shifted = packed and family == "minimax_h3"  # the shift decides how sound is scaled
    if shifted:
        bare = ["shift", 0]
    model = ["node", 0] if has_node else bare
    conditioning, latent = ["conditioning", 0], ["latent", 0]
    of_vae = "audio_vae" if decoder.startswith("LTXV") else "vae"
    steps = {"steps": STEPS, "scheduler": "simple", "denoise": 1.0, "model": model}
    graph: dict[str, Any] = {
        "vae": ("ProbeSoundVAE", {"family": family}),
        "model": ("ProbeAudioModel", {"family": family}),
        "conditioning": ("ProbeConditioning", {"family": family, "again": again}),
        **LATENTS[family],
        "sampler": (
            "KSampler",
            steps
            | {"seed": 5, "cfg": 1.0, "sampler_name": "euler", "latent_image": latent}
            | {"positive": conditioning, "negative": conditioning},
        ),
    }
    if shifted:
        shifts = {"shift_video": 6.0, "shift_audio": 4.0}
        graph["shift"] = ("MiniMaxH3SigmaShift", {"model": ["model", 0], **shifts})
    if has_node:
        graph["node"] = ("SideStreamPreview", {"model": bare, "audio_vae": vae})
    if packed:
        graph |= {
            "guider": ("ProbePackedGuider", {"model": model, "positive": conditioning}),
            "noise": ("RandomNoise", {"noise_seed": 5}),
            "euler": ("KSamplerSelect", {"sampler_name": "euler"}),
            "sigmas": ("BasicScheduler", steps),
            "sampler": (
                "SamplerCustomAdvanced",
                {name: [name, 0] for name in ("noise", "guider", "sigmas")}
                | {"sampler": ["euler", 0], "latent_image": latent},
            ),
        }
    sound, pictures = ["sampler", 0], {}
    if family in WITH_VIDEO:
        graph["parts"] = ("LTXVSeparateAVLatent", {"av_latent": ["sampler", 0]})
        sound, pictures = ["parts", 1], {"video": ["parts", 0]}
    graph["audio"] = (decoder, {"samples": sound, of_vae: vae})
    kept = {"model": ["model", 0], "sound": sound, "audio": ["audio", 0], **pictures}
    graph["save"] = ("ProbeSaveSampled", kept | {"name": f"sampled-{again}"})
    return {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in graph.items()}
