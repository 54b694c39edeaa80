"""Previews by a real VAE: I4 harmless, I6 contained, I11 light, I12 right colours."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sidestream.preview.decoders import vae as vae_module
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.picture import on_chequerboard
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.decoders.vae import (
    MB,
    RESERVE,
    SHARED,
    Memory,
    NotEnoughMemory,
    Vae,
    VaeSource,
    feathers,
    places,
)
from sidestream.preview.vae_copy import SMALLEST, VaeCopy, copied
from sidestream.tests.helpers import CPU, HALF, SAMPLES_ON, FakeSource
from sidestream.tests.stage import all_told
from torch import nn

if TYPE_CHECKING:
    from sidestream.tests.conftest import HostModules

EVERYTHING = 1 << 30
ATOL = 2e-5 if SAMPLES_ON == "cpu" else HALF
SCALE = 8


class Net(nn.Module):
    """A decoder of convolutions that see less than two latent pixels around them."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.encoder = nn.Conv2d(3, 4, 3)
            self.first = nn.Conv2d(4, 4, 3, padding=1)
            self.last = nn.Conv2d(4, 3, 3, padding=1)
        self.register_buffer("offset", torch.full((1, 3, 1, 1), 0.25))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.shapes: list[tuple[int, ...]] = []

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(z.shape))
        x = nn.functional.interpolate(self.first(z).tanh(), scale_factor=SCALE)
        return self.last(x) + self.offset


class Blank(Net):
    """Costs nothing."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(z.shape))
        size = [SCALE * length for length in z.shape[-2:]]
        return torch.zeros(1).expand(1, 3, *size)


def unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def float32(device: torch.device) -> torch.dtype:
    return torch.float32


def vae_copy(model: nn.Module | None = None, **changes: Any) -> VaeCopy:
    arguments: dict[str, Any] = {
        "model": model or Net(),
        "process_output": unchanged,
        "channels": 4,
        "scale": SCALE,
        "latent_dimensions": 2,
        "precision": float32,
        "numbers_held": 1000,
    }
    return VaeCopy(**(arguments | changes))


def load(model: nn.Module | None = None, **changes: Any) -> Vae:
    return VaeSource(vae_copy(model, **changes), unchanged).load(CPU)


def shapes(vae: Vae) -> list[tuple[int, ...]]:
    """Height and width of every tile decoded so far."""
    return [shape[-2:] for shape in vae._decode.__self__.shapes]  # type: ignore[attr-defined]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it with what the device tells from now on."""

    def tell(free: float, kept: int = 0, returns: int = 0) -> None:
        told = Memory(int(free), kept, returns)
        monkeypatch.setattr(vae_module, "memory_of", lambda device: told)

    return tell


def taken(side: int) -> int:
    """Bytes that decoding a square tile takes, as `vae_copy` estimates it."""
    return 1000 * side * side * 4


# Tiles


@given(st.integers(1, 400), st.integers(4, 40).map(lambda n: 8 * n))
def test_tiles_cover_the_latent_and_overlap(length, side):
    tiles = places(length, side)
    assert tiles[0].start == 0
    assert tiles[-1].stop == length
    assert all(tile.stop - tile.start == min(side, length) for tile in tiles)
    for before, after in itertools.pairwise(tiles):
        assert SHARED <= before.stop - after.start < side


@pytest.mark.parametrize(("length", "side"), [(100, 32), (33, 32), (64, 64), (129, 40)])
def test_the_weights_of_all_tiles_sum_to_one(length, side):
    tiles = places(length, side)
    total = torch.zeros(length * SCALE)
    for tile, weight in zip(tiles, feathers(tiles, length, SCALE, CPU), strict=True):
        total[tile.start * SCALE : tile.stop * SCALE] += weight
    assert torch.allclose(total, torch.ones_like(total))


@pytest.mark.parametrize(("height", "width"), [(70, 100), (60, 20), (33, 32)])
def test_i12_tiles_make_the_same_picture_as_the_whole(memory, height, width):
    latent = torch.randn(1, 4, height, width)
    memory(RESERVE + taken(256))
    whole = load()
    expected = whole(latent, EVERYTHING)
    assert shapes(whole) == [(height, width)]
    memory(RESERVE + taken(32))
    tiled = load()
    picture = tiled(latent, EVERYTHING)
    assert len(shapes(tiled)) > 1
    assert max(rows * columns for rows, columns in shapes(tiled)) <= SMALLEST**2
    assert picture.shape == (3, height * SCALE, width * SCALE)
    assert torch.allclose(picture, expected, atol=1e-5)


class Transparent(Net):
    """Gives colours with an alpha that is not the same everywhere."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        rgb = super().decode(z)
        return torch.cat([rgb, rgb[:, :1].sigmoid()], dim=1)


def test_i12_what_a_vae_says_is_transparent_is_on_one_chequerboard_across_its_tiles(memory):
    latent = torch.randn(1, 4, 70, 100)
    with torch.no_grad():
        rgba = Transparent().decode(latent)[0]
    memory(RESERVE + taken(32))
    tiled = load(Transparent())
    picture = tiled(latent, EVERYTHING)
    assert len(shapes(tiled)) > 1
    assert torch.allclose(picture, on_chequerboard(rgba), atol=1e-4)


class Alternating(Net):
    """Gives black and white tiles in turn: the worst that tiles can differ."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(z.shape))
        size = [SCALE * length for length in z.shape[-2:]]
        return torch.full((1, 3, *size), float(len(self.shapes) % 2))


def test_tiles_fade_into_each_other_without_a_seam(memory):
    memory(RESERVE + taken(32))
    picture = load(Alternating())(torch.zeros(1, 4, 32, 90), EVERYTHING)
    steps = picture.diff(dim=-1).abs()
    assert picture.max() > 0.99
    assert picture.min() < 0.01
    assert steps.max() <= 1.01 / (vae_module.RAMP * SCALE)


def test_tiles_are_as_large_as_free_memory_allows(memory):
    latent = torch.randn(1, 4, 128, 128)
    for side in (32, 40, 96, 120, 128):
        memory(RESERVE + taken(side))
        vae = load(Blank())
        vae(latent, 512)
        assert set(shapes(vae)) == {(side, side)}, side
    memory(RESERVE + taken(40) - 1)
    vae = load(Blank())
    vae(latent, 512)
    assert set(shapes(vae)) == {(32, 32)}


def test_a_narrow_latent_needs_no_square_of_memory(memory):
    memory(RESERVE + taken(64))
    vae = load(Blank())
    vae(torch.randn(1, 4, 32, 128), 512)
    assert shapes(vae) == [(32, 128)]


def test_i6_too_little_memory_is_said_in_one_line(memory):
    memory(4 * RESERVE)
    vae = load(Blank())
    memory(RESERVE + 3 * MB)
    with pytest.raises(NotEnoughMemory, match="4 MB, but only 3 MB are free besides the 1024") as e:
        vae(torch.randn(1, 4, 128, 128), 512)
    assert isinstance(e.value, DecoderError)
    assert "\n" not in str(e.value)
    assert shapes(vae) == []
    memory(RESERVE // 2)
    with pytest.raises(NotEnoughMemory, match="0 MB are free"):
        vae(torch.randn(1, 4, 128, 128), 512)


def test_i11_what_torch_keeps_for_the_next_frame_is_not_taken_twice(memory):
    latent = torch.randn(1, 4, 128, 128)
    memory(RESERVE + taken(96), kept=0)
    vae = load(Blank())
    vae(latent, 512)
    memory(RESERVE, kept=taken(96))  # it took all that there was
    vae(latent, 512)
    assert set(shapes(vae)) == {(96, 96)}
    vae(latent[..., :32, :32], 512)  # a smaller one gives nothing back
    vae(latent, 512)
    assert shapes(vae)[-1] == (96, 96)
    memory(RESERVE + taken(64), kept=taken(96))  # what lies in two places is no room for one
    vae(latent, 512)
    assert shapes(vae)[-1] == (96, 96)


@pytest.mark.parametrize("said_by", ["returns", "kept"])
def test_what_torch_gave_back_has_to_be_free_again(memory, said_by):
    latent = torch.randn(1, 4, 128, 128)
    memory(RESERVE + taken(96), kept=taken(96))
    vae = load(Blank())
    vae(latent, 512)
    kept, returns = (taken(96), 1) if said_by == "returns" else (taken(96) - 1, 0)
    memory(RESERVE + taken(40), kept=kept, returns=returns)
    vae(latent, 512)
    assert shapes(vae)[-1] == (40, 40)
    memory(RESERVE, kept=0, returns=2)
    with pytest.raises(NotEnoughMemory):
        vae(latent, 512)


def test_a_device_that_does_not_tell_gets_tiles_of_a_fixed_size():
    vae = load(Blank())
    vae(torch.randn(1, 4, 100, 60), 512)
    assert set(shapes(vae)) == {(64, 60)}


@pytest.mark.parametrize(
    ("min_side", "shrink"), [(EVERYTHING, 1), (513, 1), (512, 2), (128, 8), (1, 8)]
)
def test_pixels_that_are_not_shown_are_averaged_away_at_once(min_side, shrink):
    latent = torch.randn(1, 4, 100, 128)
    picture = load()(latent, min_side)
    expected = nn.functional.avg_pool2d(load()(latent, EVERYTHING), shrink)
    assert picture.shape == (3, 100 * SCALE // shrink, 128 * SCALE // shrink)
    assert torch.allclose(picture, expected, atol=1e-5)


def test_pixels_are_averaged_only_as_many_as_a_latent_pixel_has():
    latent = torch.randn(1, 4, 6, 7)
    assert torch.equal(load(Frames(), scale=1)(latent, 1), latent[0, :3])


# Latents


class Frames(Net):
    """A video decoder: paints the latents of the frames that it is given."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(z.shape))
        return z[:, :3]


def test_of_a_video_only_the_first_frame_is_decoded():
    vae = load(Frames(), scale=1, latent_dimensions=3)
    video = torch.randn(1, 4, 5, 6, 7)
    assert torch.equal(vae(video, 512), video[0, :3, 0])
    assert torch.equal(vae(video[:, :, 0], 512), video[0, :3, 0])
    assert vae._decode.__self__.shapes == [(1, 4, 1, 6, 7)] * 2  # type: ignore[attr-defined]


def test_a_picture_vae_takes_latents_of_one_frame():
    vae = load(Frames(), scale=1)
    video = torch.randn(1, 4, 1, 6, 7)
    assert torch.equal(vae(video, 512), video[0, :3, 0])


def test_i12_latents_are_taken_to_the_vaes_space_in_float32():
    seen = []

    def process_out(latent: torch.Tensor) -> torch.Tensor:
        seen.append(latent.dtype)
        return latent / 0.5 + 1

    source = VaeSource(vae_copy(Frames(), scale=1), process_out)
    latent = torch.randn(1, 4, 6, 7).half()
    assert torch.equal(source.load(CPU)(latent, 512), (latent.float() / 0.5 + 1)[0, :3])
    assert seen == [torch.float32]


def test_a_staged_latent_stays_as_it_is():
    def in_place(image: torch.Tensor) -> torch.Tensor:
        return image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)

    latent = torch.randn(1, 4, 6, 7)
    before = latent.clone()
    picture = load(Frames(), scale=1, process_output=in_place)(latent, 512)
    assert torch.equal(latent, before)
    assert torch.equal(picture, ((before[0, :3] + 1) / 2).clamp(0, 1))


def test_i6_latents_of_another_model_are_refused():
    with pytest.raises(DecoderError, match="expects latents with 4 channels, this model's have 16"):
        load()(torch.randn(1, 16, 8, 8), 512)


def test_i6_what_is_no_picture_is_refused():
    with pytest.raises(DecoderError, match="not a picture of 16x16 pixels"):
        load(scale=2)(torch.randn(1, 4, 8, 8), 512)


class Manifold(Net):
    """Gives more than colours."""

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.cat([super().decode(z)] * 2, dim=1)


def test_of_more_channels_than_colours_and_transparency_the_first_three_are_shown():
    latent = torch.randn(1, 4, 6, 7)
    assert torch.equal(load(Manifold())(latent, EVERYTHING), load()(latent, EVERYTHING))


class Noisy(Net):
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return super().decode(z + torch.randn_like(z))


class Dropping(Net):
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return super().decode(nn.functional.dropout(z, training=True))


@pytest.mark.parametrize("kind", [Noisy, Dropping])
@pytest.mark.parametrize("inference", [False, True])  # in which a dropout is one operation
def test_i4_a_decoder_that_draws_random_numbers_is_refused_before_it_does(kind, inference):
    before = torch.get_rng_state()
    vae = load(kind())
    with torch.inference_mode(inference), pytest.raises(DecoderError, match="random"):
        vae(torch.zeros(1, 4, 8, 8), 512)
    assert torch.equal(torch.get_rng_state(), before)


class NoisyByItself(Net):
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        own = torch.Generator().manual_seed(1)
        return super().decode(z + torch.randn(z.shape, generator=own))


def test_i4_a_decoder_may_draw_from_a_generator_of_its_own():
    before = torch.get_rng_state()
    assert load(NoisyByItself())(torch.zeros(1, 4, 8, 8), 512).shape == (3, 64, 64)
    assert torch.equal(torch.get_rng_state(), before)


# Copies


def test_a_copy_shares_no_weights_and_leaves_the_model_as_it_is():
    model = Net().train()
    before = {name: (id(w), w.clone()) for name, w in model.state_dict(keep_vars=True).items()}
    twin = copied(model, CPU, torch.bfloat16, lambda name: name == "encoder")
    assert twin.encoder is None
    assert {w.dtype for w in twin.parameters()} == {torch.bfloat16}
    assert twin.offset.dtype == torch.bfloat16
    assert twin.steps.dtype == torch.int64
    assert not twin.training
    assert not any(w.requires_grad for w in twin.parameters())
    for weight in (*twin.parameters(), *twin.buffers()):
        weight.zero_()
    twin.shapes.append((1,))
    after = model.state_dict(keep_vars=True)
    assert model.training
    assert model.encoder is not None
    assert model.shapes == []
    assert all(w.requires_grad for w in model.parameters())
    for name, (identity, value) in before.items():
        assert id(after[name]) == identity
        assert torch.equal(after[name], value)
        assert after[name].dtype == value.dtype


def test_a_module_that_is_there_twice_is_copied_once():
    layer = nn.Linear(2, 2)
    twin = copied(nn.Sequential(layer, layer), CPU, torch.float32)
    assert twin[0] is twin[1]
    assert twin[0] is not layer


def test_a_copy_made_in_inference_mode_is_good_elsewhere():
    with torch.inference_mode():
        model = copied(Net(), CPU, torch.bfloat16)
        vae = load(model)
    loaded = vae._decode.__self__  # type: ignore[attr-defined]
    assert not any(w.is_inference() for w in (*model.parameters(), *loaded.parameters()))
    latent = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        inside = vae(latent, 512)
    assert torch.equal(inside, vae(latent, 512))


def test_i11_a_vae_is_loaded_once_for_each_latent_space():
    cache, one, other = DecoderCache(), vae_copy(), vae_copy()

    def of(source: VaeCopy, space: str = "SD15") -> Any:
        return cache.get(VaeSource(source, lambda latent: latent, space), CPU)

    assert of(one) is of(one)
    assert of(one) is not of(other)
    assert of(one) is not of(one, "SDXL")


def test_i11_a_vae_stays_while_any_of_the_runs_that_show_it_goes_on():
    cache, shown = DecoderCache(), vae_copy()
    first, second = VaeSource(shown, unchanged), VaeSource(shown, unchanged)
    decoder = weakref.ref(cache.get(first, CPU))
    cache.get(second, CPU)
    del first
    gc.collect()
    cache.get(FakeSource(), CPU)
    assert decoder() is not None


def test_i6_weights_that_do_not_fit_are_not_loaded(memory, monkeypatch):
    size = vae_copy().size(torch.float32)
    assert size == sum(w.numel() * 4 for w in (*Net().parameters(), *Net().buffers()))
    memory(RESERVE + size)
    load()
    memory(RESERVE + size - 1)
    monkeypatch.setattr(vae_module, "copied", None)
    with pytest.raises(NotEnoughMemory, match="the VAE needs"):
        load()


# On a GPU


@pytest.mark.gpu
def test_a_gpu_tells_what_is_free_and_what_torch_gave_back():
    cuda = torch.device("cuda", 0)
    torch.cuda.empty_cache()  # else the block may come from what torch keeps
    before = vae_module.memory_of(cuda)
    block = torch.empty(256 * MB, dtype=torch.uint8, device=cuda)
    during = vae_module.memory_of(cuda)
    del block
    torch.cuda.empty_cache()
    after = vae_module.memory_of(cuda)
    assert before.free - during.free >= 256 * MB
    assert during.kept - before.kept >= 256 * MB
    assert after.free > during.free
    assert (after.returns, after.kept) != (during.returns, during.kept)


@pytest.mark.gpu
def test_i11_a_gpu_short_of_memory_shows_the_same_picture_and_keeps_its_reserve():
    cuda = torch.device("cuda", 0)
    latent = torch.randn(1, 4, 96, 96)
    expected = load()(latent, EVERYTHING)
    source = vae_copy(precision=lambda device: torch.bfloat16, numbers_held=50_000)
    vae = VaeSource(source, unchanged).load(cuda)
    staged = latent.to(cuda, torch.bfloat16)
    tile = source.numbers_held * 64 * 64 * 2
    free, _ = torch.cuda.mem_get_info(cuda)
    block = torch.empty(int(free - RESERVE - 1.1 * tile), dtype=torch.uint8, device=cuda)
    try:
        with torch.cuda.stream(torch.cuda.Stream(cuda)):
            for _ in range(3):
                picture = vae(staged, EVERYTHING).cpu()
                assert torch.cuda.mem_get_info(cuda)[0] > RESERVE
        assert max(max(shape) for shape in shapes(vae)) <= 72
        assert len(set(shapes(vae))) == 1
    finally:
        del block
        torch.cuda.empty_cache()
    error = (picture - expected).square().mean()
    assert -10 * torch.log10(error) > 35  # dB


# ComfyUI's VAEs


@pytest.fixture(scope="module")
def seam(comfy: HostModules) -> Any:
    """The pack's `host` module, and ComfyUI's behind it."""
    comfy("server")
    comfy("latent_preview")
    from sidestream.preview import host

    return host


def filled(model: nn.Module) -> nn.Module:
    """ComfyUI leaves weights unset; here are small ones, which half precision can hold."""
    generator = torch.Generator().manual_seed(5)
    for weight in model.parameters():
        weight.data = (torch.randn(weight.shape, generator=generator) * 0.15).bfloat16().float()
    return model


DDCONFIG = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
    "ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}


def kl(comfy: HostModules, **changes: Any) -> Any:
    """A VAE of Stable Diffusion's shape, narrow, in float32."""
    config = {"params": {"ddconfig": DDCONFIG | changes, "embed_dim": 4}}
    blank = comfy("comfy.ldm.models.autoencoder").AutoencoderKL(**config["params"])
    return comfy("comfy.sd").VAE(filled(blank).state_dict(), config=config, dtype=torch.float32)


def with_model(vae: Any, model: nn.Module, **attributes: Any) -> Any:
    """`vae` as if ComfyUI had made it with `model`."""
    vae.first_stage_model = filled(model).eval()
    vae.patcher = type(vae.patcher)(vae.first_stage_model, vae.device, torch.device("cpu"))
    for name, value in attributes.items():
        setattr(vae, name, value)
    return vae


def engine(comfy: HostModules) -> Any:
    prefix = "comfy.ldm.modules.diffusionmodules.model"
    model = comfy("comfy.ldm.models.autoencoder").AutoencodingEngine(
        regularizer_config={
            "target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
        },
        encoder_config={"target": f"{prefix}.Encoder", "params": DDCONFIG},
        decoder_config={"target": f"{prefix}.Decoder", "params": DDCONFIG},
    )
    return with_model(kl(comfy), model)


def flux2(comfy: HostModules) -> Any:
    vae = kl(comfy, batch_norm_latent=True)
    vae.latent_channels, vae.upscale_ratio = 16, 16
    vae.first_stage_model.bn.running_var.copy_(torch.linspace(0.5, 2, 16).bfloat16())
    return vae


def wan(comfy: HostModules) -> Any:
    model = comfy("comfy.ldm.wan.vae").WanVAE(
        dim=16, z_dim=16, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return with_model(
        kl(comfy), model, latent_channels=16, latent_dim=3,
        upscale_ratio=(lambda frames: frames * 4 - 3, 8, 8),
        memory_used_decode=lambda shape, dtype: 7000 * shape[3] * shape[4] * 64 * dtype.itemsize,
    )


def wan22(comfy: HostModules) -> Any:
    model = comfy("comfy.ldm.wan.vae2_2").WanVAE(
        dim=16, z_dim=48, dec_dim=16, num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return with_model(
        kl(comfy), model, latent_channels=48, latent_dim=3,
        upscale_ratio=(lambda frames: frames * 4 - 3, 16, 16),
        memory_used_decode=lambda shape, dtype: 8000 * shape[3] * shape[4] * 256 * dtype.itemsize,
    )


def hunyuan(comfy: HostModules) -> Any:
    return with_model(
        kl(comfy),
        comfy("comfy.ldm.models.autoencoder").AutoencoderKL(
            ddconfig=DDCONFIG | {"conv3d": True, "time_compress": 4}, embed_dim=4
        ),
        latent_dim=3,
        upscale_ratio=(lambda frames: frames * 4 - 3, 8, 8),
        memory_used_decode=lambda shape, dtype: 1500 * shape[3] * shape[4] * 256 * dtype.itemsize,
    )


def taesd(comfy: HostModules) -> Any:
    return with_model(kl(comfy), comfy("comfy.taesd.taesd").TAESD(latent_channels=4))


@pytest.mark.parametrize("make", [kl, engine, flux2, wan, wan22, hunyuan, taesd])
def test_i12_the_copy_decodes_as_comfyui_does(comfy, seam, make):
    vae = make(comfy)
    frames = [] if vae.latent_dim == 2 else [1]
    latent = torch.randn(1, vae.latent_channels, *frames, 4, 5)
    with torch.inference_mode():
        decoded = vae.decode(latent)
    expected = decoded.reshape(-1, *decoded.shape[-3:])[0].movedim(-1, 0)
    source = VaeSource(seam.models.vae_copy(vae), unchanged)
    picture = source.load(CPU)(latent, EVERYTHING)
    assert expected.std() > 0.01
    assert picture.shape == expected.shape
    scale = 1.0 if SAMPLES_ON == "cpu" else max(1.0, float(expected.abs().max()))
    assert torch.allclose(picture, expected, atol=ATOL * scale)


def test_half_precision_is_the_same_picture_to_the_eye(comfy, seam):
    latent = torch.randn(1, 4, 8, 8)
    exact, half = (
        Vae(seam.models.vae_copy(kl(comfy)), unchanged, CPU, dtype)(latent, EVERYTHING)
        for dtype in (torch.float32, torch.bfloat16)
    )
    error = (exact - half).square().mean()
    assert -10 * torch.log10(error) > 35  # dB


def test_the_copy_is_half_as_large_and_has_no_encoder(comfy, seam):
    vae = kl(comfy)
    model = seam.models.vae_copy(vae).model
    assert model.encoder is None
    assert {w.dtype for w in model.parameters()} == {torch.bfloat16}
    assert {w.device.type for w in model.parameters()} == {"cpu"}
    decoder = sum(w.numel() for w in vae.first_stage_model.decoder.parameters())
    assert decoder < sum(w.numel() for w in model.parameters()) < 1.01 * decoder


def test_the_vae_stays_as_it_is_and_comfyui_loads_nothing(comfy, seam, monkeypatch):
    vae = kl(comfy)
    model = vae.first_stage_model
    before = [(w, w.dtype, w.requires_grad, w.clone()) for w in model.parameters()]
    kinds = [type(layer) for layer in model.modules()]
    attributes = [set(vars(layer)) for layer in model.modules()]
    for name in ("load_models_gpu", "free_memory", "soft_empty_cache"):
        monkeypatch.setattr(comfy("comfy.model_management"), name, None)
    VaeSource(seam.models.vae_copy(vae), unchanged).load(CPU)(torch.randn(1, 4, 8, 8), 64)
    assert [type(layer) for layer in model.modules()] == kinds
    assert [set(vars(layer)) for layer in model.modules()] == attributes
    for weight, (same, dtype, grad, value) in zip(model.parameters(), before, strict=True):
        assert weight is same
        assert (weight.dtype, weight.requires_grad) == (dtype, grad)
        assert torch.equal(weight, value)


@pytest.mark.parametrize("make", [kl, wan, hunyuan])
def test_i6_decoding_leaves_an_interrupt_to_the_sampler(comfy, seam, make):
    management = comfy("comfy.model_management")
    vae = VaeSource(seam.models.vae_copy(make(comfy)), unchanged).load(CPU)
    management.interrupt_current_processing(True)
    try:
        vae(torch.randn(1, vae._source.channels, 4, 4), 64)
        assert management.processing_interrupted()
    finally:
        management.interrupt_current_processing(False)


def test_a_vae_that_lies_in_parts_is_copied_whole(comfy, seam):
    """As ComfyUI leaves a model that did not fit into the device's memory."""
    vae = kl(comfy)
    latent = torch.randn(1, 4, 8, 8)
    expected = VaeSource(seam.models.vae_copy(vae), unchanged).load(CPU)(latent, EVERYTHING)
    other = kl(comfy)

    def not_here(*args: Any) -> Any:
        raise AssertionError("ComfyUI's layers were called")

    for layer in other.first_stage_model.modules():
        if hasattr(layer, "comfy_cast_weights"):
            layer.comfy_cast_weights = True
            layer.weight_function = [not_here]
    picture = VaeSource(seam.models.vae_copy(other), unchanged).load(CPU)(latent, EVERYTHING)
    assert torch.equal(picture, expected)


def test_a_vae_made_in_inference_mode_previews_on_another_thread(comfy, seam):
    with torch.inference_mode():  # as ComfyUI runs its nodes
        vae = kl(comfy)
        source = VaeSource(seam.models.vae_copy(vae), unchanged)
    latent, pictures = torch.randn(1, 4, 8, 8), []
    worker = threading.Thread(target=lambda: pictures.append(source.load(CPU)(latent, EVERYTHING)))
    worker.start()
    worker.join()
    with torch.inference_mode():
        expected = vae.decode(latent)[0].movedim(-1, 0)
    assert torch.allclose(pictures[0], expected, atol=ATOL)


def ltx(comfy: HostModules) -> Any:
    """LTX-Video's VAE, small: it decodes with noise in the latent and between its layers."""
    config = {
        "_class_name": "CausalVideoAutoencoder", "dims": 3, "in_channels": 3, "out_channels": 3,
        "latent_channels": 128, "base_channels": 8,
        "encoder_blocks": [["res_x", 1], ["compress_all", 1]],
        "decoder_blocks": [
            ["res_x", {"num_layers": 1, "inject_noise": True}],
            ["compress_all", {"residual": True, "multiplier": 2}],
        ],
        "norm_layer": "pixel_norm", "patch_size": 4, "latent_log_var": "uniform",
        "use_quant_conv": False, "causal_decoder": False, "timestep_conditioning": True,
        "scaling_factor": 1.0,
    }
    model = comfy("comfy.ldm.lightricks.vae.causal_video_autoencoder").VideoVAE(config=config)
    for buffer in model.buffers():
        buffer.fill_(1)
    return with_model(
        kl(comfy), model,
        latent_channels=128, latent_dim=3, upscale_ratio=(lambda frames: frames * 2 - 1, 8, 8),
        memory_used_decode=lambda shape, dtype: 900 * shape[3] * shape[4] * 512 * dtype.itemsize,
    )


def test_i4_a_vae_that_decodes_with_noise_does_so_without(comfy, seam):
    vae = ltx(comfy)
    latent = torch.randn(1, 128, 1, 4, 4)
    state = torch.get_rng_state()
    vae.first_stage_model.decode(latent)
    assert not torch.equal(torch.get_rng_state(), state)
    before = torch.get_rng_state()
    decoder = VaeSource(seam.models.vae_copy(vae), unchanged).load(CPU)
    picture = decoder(latent, EVERYTHING)
    assert torch.equal(picture, decoder(latent, EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)
    assert picture.shape == (3, 32, 32)
    assert picture.isfinite().all()
    assert vae.first_stage_model.timestep_conditioning


@pytest.mark.parametrize("what", ["no weights", "not loaded", "not decode", "audio", "foreign"])
def test_i6_a_vae_that_cannot_be_copied_is_told_once(comfy, seam, caplog, what):
    vae = kl(comfy)
    if what == "no weights":
        vae.first_stage_model = None
    elif what == "not loaded":
        vae.first_stage_model.to("meta")
    elif what == "not decode":
        vae.latent_dim = 1
    elif what == "audio":
        vae.extra_1d_channel, what = 16, "not decode"
    elif what == "foreign":
        vae, what = type("Other", (), {"first_stage_model": nn.Conv2d(1, 1, 1)})(), "latent_dim"
    with caplog.at_level(logging.WARNING):
        assert seam.models.vae_copy(vae) is None
        assert seam.models.vae_copy(vae) is None
    assert [what in record.message for record in caplog.records] == [True]
    model = types.SimpleNamespace(model_options={})
    seam.models.attach_vae(model, vae)  # nor does the node fail
    assert len(model.model_options) == 1


def test_i11_a_vae_is_copied_once_and_its_copy_goes_with_it(comfy, seam):
    vae = kl(comfy)
    made = weakref.ref(seam.models.vae_copy(vae))
    assert seam.models.vae_copy(vae) is made()
    assert seam.models.vae_copy(kl(comfy)) is not made()
    del vae
    gc.collect()
    assert made() is None


# The node


@pytest.fixture
def node(comfy: HostModules, seam: Any) -> Callable[..., Any]:
    """The node's MODEL for a MODEL and settings."""
    comfy("comfy_api.latest")
    from sidestream.nodes.preview_settings import SideStreamPreview

    return lambda model, **inputs: SideStreamPreview.execute(model, **inputs).args[0]


@pytest.fixture
def model(comfy: HostModules) -> Any:
    return comfy("comfy.model_patcher").ModelPatcher(nn.Linear(1, 1), CPU, CPU)


class NoCopies:
    def __deepcopy__(self, memo: object) -> Any:
        raise AssertionError("the VAE was copied")


def test_the_node_leaves_a_vae_that_no_copy_of_the_model_copies(comfy, seam, node, model):
    vae = NoCopies()
    previewed = node(model, vae=vae)
    clone = previewed.clone().clone()
    copy.deepcopy(clone.model_options)
    options = comfy("comfy.model_patcher").create_model_options_clone(clone.model_options)
    clone.model_options = options
    assert seam.models.attached_vae(previewed) is seam.models.attached_vae(clone) is vae


def test_a_vae_stays_until_another_is_given_and_on_its_own_branch(seam, node, model):
    first, second = NoCopies(), NoCopies()
    branch = node(model, vae=first, quality=10)
    later = node(branch, quality=20)
    other = node(branch, vae=second)
    assert seam.models.attached_vae(model) is None
    assert seam.models.attached_vae(node(model)) is None
    assert seam.models.attached_vae(branch) is seam.models.attached_vae(later) is first
    assert seam.models.attached_vae(other) is second


def test_a_graph_previews_by_its_vae(comfy, seam, stage, pack, client, told):
    from sidestream.nodes.preview_settings import SideStreamPreview

    vae = kl(comfy)
    settings = {"throttle_ms": 0, "budget": 0, "vae": vae}
    model = SideStreamPreview.execute(stage.demo_model(), **settings).args[0]
    with stage.node():
        stage.sample(model, steps=3)
        assert all_told(pack)
    assert [frame.sidestream["decoder"] for frame in client.frames] == ["vae"] * 3


def test_i11_a_busy_queue_keeps_no_vae_that_nothing_shows(comfy, seam, stage, pack, client, told):
    from sidestream.nodes.preview_settings import SideStreamPreview

    def sampled(**changes):
        settings = {"throttle_ms": 0, "budget": 0, **changes}
        model = SideStreamPreview.execute(stage.demo_model(), **settings).args[0]
        with stage.node():
            stage.sample(model, steps=2)
            assert all_told(pack)
        names = pack.status()["decoders"]
        return [name for name in names if not name.startswith("latent2rgb")]

    first, second = kl(comfy), kl(comfy)
    [name] = sampled(vae=first)
    assert sampled(vae=first) == [name]  # the same run again loads nothing
    assert len(sampled(vae=second)) == 1
    assert sampled() == []
    decoders = [frame.sidestream["decoder"] for frame in client.frames]
    assert decoders == ["vae"] * 6 + ["latent2rgb"] * 2
