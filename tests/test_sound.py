"""Sounds: decoded as ComfyUI does, beside the sampler, a part at a time."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sidestream.preview.decoders import sound as sound_module
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.decoders.sound import SoundDecoder, SoundSource
from sidestream.preview.deliver.wav import wav
from sidestream.preview.vae_copy import weights
from sidestream.tests.helpers import CPU, HALF, SAMPLES_ON
from sidestream.tests.small_audio_vaes import FAMILIES, Family, class_of, make_vae
from sidestream.tests.sounds import as_comfyui_decodes, read

if TYPE_CHECKING:
    from pathlib import Path

    from sidestream.tests.conftest import HostModules

POSITIONS = 90
FORBIDDEN = (
    "load_models_gpu", "free_memory", "get_free_memory", "soft_empty_cache",
    "throw_exception_if_processing_interrupted",
)  # fmt: skip
"""Of ComfyUI's memory management."""


def unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def vae(
    comfy: HostModules, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    try:
        class_of(comfy, family)
    except ModuleNotFoundError as error:
        if not family.path.startswith(str(error.name)):
            raise
        pytest.skip(f"this ComfyUI has no {family.path}")
    if "vae_sa3" in family.path:
        # On the CPU ComfyUI has another one, with which that family is refused.
        attention = comfy("comfy.ldm.modules.attention").attention_pytorch
        monkeypatch.setattr(comfy("comfy.ldm.audio.vae_sa3"), "optimized_attention", attention)
    made = make_vae(comfy, family, tmp_path)
    if family.small.get("strides") and made.upscale_ratio != family.hop:
        pytest.skip("this ComfyUI does not know ACE-Step 1.5's")
    return made


def decoder_of(comfy: HostModules, vae: Any) -> SoundDecoder:
    from sidestream.preview import host

    return SoundSource(host.models.sound_copy(vae), unchanged).load(CPU)


def whole(decoder: SoundDecoder, latent: torch.Tensor) -> torch.Tensor:
    parts = [decoder(latent, part) for part in decoder.parts(latent)]
    return torch.cat(parts, dim=1)


def test_i12_a_sound_in_parts_is_what_comfyui_decodes(comfy, family, vae, monkeypatch):
    latent = torch.randn(family.shape(POSITIONS), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(sound_module, "PART", POSITIONS * family.hop / family.rate / 3)
    with torch.inference_mode():
        expected = as_comfyui_decodes(comfy, vae, latent)
        decoder = decoder_of(comfy, vae)
        assert len(decoder.parts(latent)) >= 3
        made = whole(decoder, latent)
    assert expected.std() > 0.01
    assert decoder.rate == family.rate
    assert made.shape[1] == POSITIONS * family.hop - family.lead
    assert made.shape[1] <= expected.shape[1]
    given, _ = read(wav(made.numpy(), family.rate, levelled=decoder.levelled))
    tolerance = family.tolerance if SAMPLES_ON == "cpu" else HALF
    assert np.abs(given - expected[:, : made.shape[1]].numpy()).max() < tolerance


def test_i11_a_copy_shares_nothing_and_draws_no_random_numbers(comfy, family, vae, monkeypatch):
    from sidestream.preview import host

    def forbidden(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the sampler's alone")

    latent = torch.randn(family.shape(8))
    made = host.models.sound_copy(vae)
    assert host.models.sound_copy(vae) is made
    theirs = {w.untyped_storage().data_ptr() for w in weights(vae.first_stage_model)}
    decoder = SoundSource(made, unchanged).load(CPU)
    for model in (made.model, decoder._decode.__self__):
        held = list(weights(model))
        normalizer = getattr(model, "normalizer", None)
        if normalizer is not None:
            held += list(weights(normalizer.statistics))
        assert not theirs & {w.untyped_storage().data_ptr() for w in held if w.numel()}
        assert not any("encoder" in name.split(".") for name, _ in model.named_parameters())
    management = comfy("comfy.model_management")
    for name in FORBIDDEN:
        monkeypatch.setattr(management, name, forbidden)
    before = torch.random.get_rng_state()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with torch.inference_mode():
                whole(decoder, latent)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert torch.equal(before, torch.random.get_rng_state())


def test_i11_a_copy_goes_with_its_vae(comfy, family, vae):
    from sidestream.preview import host

    other = copy.copy(vae)
    needed = vae.memory_used_decode
    # As MiniMax H3's: its function refers to its VAE.
    other.memory_used_decode = lambda shape, dtype, vae=other: needed(shape, dtype)
    made = host.models.sound_copy(other)
    assert made.memory(family.shape(8)) == host.models.sound_copy(vae).memory(family.shape(8)) > 0
    copied, kept = weakref.ref(made), made.memory
    del other, made
    gc.collect()
    assert copied() is None
    assert kept(family.shape(8)) == 0


def test_a_latent_of_another_kind_is_refused_in_one_line(comfy, family, vae):
    decoder = decoder_of(comfy, vae)
    shape = list(family.shape(8))
    shape[1] += 1
    with pytest.raises(DecoderError, match=f"from {family.shape(8)[1]} channels, this model's"):
        decoder(torch.randn(shape), slice(0, 8))
