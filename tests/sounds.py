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


def read(file: bytes) -> tuple[np.ndarray, int]:
    """The samples of a WAV file, [channels, n] from -1 to 1, and their rate."""
    with wave.open(io.BytesIO(file)) as opened:
        assert opened.getsampwidth() == 2
        data = np.frombuffer(opened.readframes(opened.getnframes()), "<i2")
        return data.reshape(-1, opened.getnchannels()).T / FULL, opened.getframerate()


def sound_graph(
    *, seed: int, video: bool = False, vae: bool = True, works: bool = True, steps: int = 8
) -> dict[str, Any]:
    """A prompt that samples sound by tests/hostpack/sound, with the VAE at SideStream's node."""
    node = {"model": ["1", 0], **({"audio_vae": ["2", 0]} if vae else {})}
    sampler = {"model": ["3", 0], "steps": steps, "seconds": 0.15, "seed": seed}
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
    try:
        decode = comfy("comfy_extras.nodes_audio").vae_decode_audio
    except (ImportError, AttributeError):  # an older one, or it wants torchaudio
        audio = vae.decode(latent).movedim(-1, 1)
        audio /= (audio.std(dim=[1, 2], keepdim=True) * 5).clamp(min=1)
        return audio[0]
    return decode(vae, {"samples": latent})["waveform"][0]
