"""I4 harmless, I3 true: real ComfyUI sampling of real UNet shapes, with and without SideStream."""

from __future__ import annotations

import pytest
import torch
from sidestream.benchmarks import measure, models, providers
from sidestream.benchmarks.models import Case

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda", 0)


def sampled(sampling, sampler, settings):
    import comfy.sample
    import latent_preview
    from sidestream.benchmarks.standin import begin_prompt, end_prompt

    begin_prompt(sampling.server, {"sidestream": settings})
    callback = latent_preview.prepare_callback(sampling.model, 8)
    torch.manual_seed(5)
    with torch.inference_mode():
        latents = comfy.sample.sample(
            sampling.model,
            sampling._noise,
            8,
            7.0,
            sampler,
            "normal",
            sampling._conditioning,
            sampling._conditioning,
            sampling._latent,
            callback=callback,
            disable_pbar=True,
            seed=5,
        )
    end_prompt(sampling.server)
    return latents, torch.cuda.get_rng_state(DEVICE)


def gpu_noise(x, sigma_min, sigma_max, seed=None, cpu=True):
    """Noise drawn on the GPU by its default generator (Philox)."""
    return lambda sigma, sigma_next: torch.randn_like(x)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m_sde_gpu"])
def test_i4_latents_are_bit_identical_on_off_and_absent(
    comfyui, pack, shaped, sampler, monkeypatch
):
    import comfy.k_diffusion.sampling as k

    monkeypatch.setattr(k, "default_noise_sampler", lambda x, seed=None: gpu_noise(x, 0, 0))
    unet, model = shaped
    case = Case(unet, unet, (1, 4, 64, 64), 8, 1)
    sampling = measure.Sampling(case, model, comfyui, DEVICE)
    pack._provider.uninstall()
    sampled(sampling, sampler, {})  # a process's first run may differ from all others by itself
    pack._provider.install()
    on = sampled(sampling, sampler, providers.EVERY_STEP)
    frames = len(comfyui.pictures)
    again = sampled(sampling, sampler, {})
    off = sampled(sampling, sampler, {"method": "off"})
    pack._provider.uninstall()
    absent = sampled(sampling, sampler, {})
    assert frames >= 1
    for latents, state in (on, again, off):
        assert torch.equal(latents, absent[0])
        assert torch.equal(state, absent[1])
    assert torch.isfinite(absent[0]).all()


def test_i3_every_frame_of_a_real_run_is_the_decode_of_its_step(comfyui, pack):
    case = Case("sd15", "sd15", (1, 4, 64, 64), 60, 1)
    model = models.build("sd15", DEVICE)
    sampling = measure.Sampling(case, model, comfyui, DEVICE)
    pack._provider.uninstall()
    references = measure.reference_pictures(sampling, 512)["taesd"]
    pack._provider.install()
    for _ in range(9):
        sampling.run(providers.EVERY_STEP)
    measure.settle(comfyui)
    assert len(comfyui.pictures) >= 500
    assert {p.step for p in comfyui.pictures} <= set(references)  # all others would pass as right
    assert not [p.step for p in comfyui.pictures if measure.is_wrong(p, references)]
