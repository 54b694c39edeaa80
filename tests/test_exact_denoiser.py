"""The demo model's mathematics against slow references. Needs torch, not ComfyUI."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch


def _load_alone() -> ModuleType:
    # By its file: the package around it imports ComfyUI.
    file = Path(__file__).parent.parent / "nodes" / "exact_denoiser.py"
    spec = importlib.util.spec_from_file_location("exact_denoiser_alone", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maths = _load_alone()
ExactDenoiser = maths.ExactDenoiser

# K = 3 pictures of C = 2 channels, H = 3 rows, W = 4 columns: small enough for nested loops.
SMALL = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(0))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filtered(plane: torch.Tensor, kernel: Callable[[float], float]) -> torch.Tensor:
    """A (H, W) plane with each cosine wave scaled by kernel(|f|), all of it spelt out."""
    height, width = plane.shape
    result = torch.zeros(height, width, dtype=torch.float64)
    for p in range(height):
        for q in range(width):
            wave = torch.tensor(
                [
                    [
                        math.cos(math.pi * p * (i + 0.5) / height)
                        * math.cos(math.pi * q * (j + 0.5) / width)
                        for j in range(width)
                    ]
                    for i in range(height)
                ],
                dtype=torch.float64,
            )
            strength = (plane.double() * wave).sum() / wave.square().sum()
            frequency = math.hypot(p / (2 * height), q / (2 * width), maths.LOWEST_FREQUENCY)
            result += strength * wave * kernel(frequency)
    return result


def seen(picture: torch.Tensor, sigma: float, what: str) -> torch.Tensor:
    """B_σ y ("blurred") or L_σ y ("guessed") of a (C, H, W) picture."""

    def kernel(frequency: float) -> float:
        r = sigma * frequency / maths.PACE
        return math.exp(-r) if what == "blurred" else (1 + r) * math.exp(-r)

    return torch.stack([filtered(plane, kernel) for plane in picture])


def brute_force(x: torch.Tensor, sigma: float) -> tuple[list[float], torch.Tensor]:
    """Posterior weights and D(x, σ) for one (C, H, W) latent over SMALL."""
    gaps = [float((x.double() - seen(y, sigma, "blurred")).square().sum()) for y in SMALL]
    odds = [math.exp((min(gaps) - gap) / (2 * sigma**2)) for gap in gaps]
    weights = [each / sum(odds) for each in odds]
    guesses = [seen(y, sigma, "guessed") for y in SMALL]
    return weights, sum(w * guess for w, guess in zip(weights, guesses, strict=True))


def walk(denoiser: torch.nn.Module, x: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Euler steps along dx/dσ = (x - D) / σ through all of `sigmas`, for a batch."""
    for now, then in pairwise(sigmas):
        guess = denoiser(x, now.expand(len(x)))
        x = guess + (x - guess) * (then / now)
    return x


def levels(start: float, end: float, steps: int) -> torch.Tensor:
    return torch.linspace(math.log(start), math.log(end), steps + 1).exp()


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0, 3.0, 14.6])
def test_equals_brute_force(sigma: float) -> None:
    x = SMALL[1] + sigma * noise(2, 3, 4)
    denoiser = ExactDenoiser(SMALL)
    weights, guess = brute_force(x, sigma)
    level = torch.tensor([sigma])
    torch.testing.assert_close(
        denoiser.weights(x[None], level)[0].double(), torch.tensor(weights).double(),
        atol=1e-5, rtol=0,
    )
    torch.testing.assert_close(denoiser(x[None], level)[0].double(), guess, atol=1e-5, rtol=0)


def test_each_of_a_batch_has_its_own_noise_level() -> None:
    denoiser = ExactDenoiser(SMALL)
    x, sigmas = noise(4, 2, 3, 4), torch.tensor([0.1, 0.5, 2.0, 9.0])
    together = denoiser(x, sigmas)
    for i in range(4):
        alone = denoiser(x[i : i + 1], sigmas[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-6, rtol=0)


def test_weights_survive_where_their_exponentials_do_not() -> None:
    """|x - y|² / 2σ² is about 1e9 here: without log-sum-exp every weight would be 0 / 0."""
    denoiser = ExactDenoiser(SMALL)
    x = SMALL[2:3] + 100.0
    weights = denoiser.weights(x, torch.tensor([1e-2]))
    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(1.0)


def test_at_the_end_of_the_noise_the_guess_is_the_picture() -> None:
    sigma = 1e-3
    x = SMALL + sigma * noise(3, 2, 3, 4)
    guess = ExactDenoiser(SMALL)(x, torch.full((3,), sigma))
    torch.testing.assert_close(guess, SMALL, atol=1e-3, rtol=0)


def test_the_walk_follows_the_path_of_a_single_picture() -> None:
    """With one picture the sampler's path is known: B_σ y plus noise that shrinks with σ."""
    start, end = 10.0, 0.4
    picture = noise(1, 4, 8, 8, seed=1)
    n = noise(1, 4, 8, 8, seed=2)
    x = torch.stack([seen(picture[0], start, "blurred")]).float() + start * n
    arrived = walk(ExactDenoiser(picture), x, levels(start, end, 100))
    expected = torch.stack([seen(picture[0], end, "blurred")]).float() + end * n
    torch.testing.assert_close(arrived, expected, atol=2e-2, rtol=0)
    assert (seen(picture[0], end, "blurred") - picture[0]).abs().max() > 0.3, "nothing was blurred"


def test_every_picture_is_reached_equally_often() -> None:
    """The walk carries the mixture: bright or dark, flat or detailed, each picture gets its share.

    Weighing x against the sharp pictures instead would prefer the flat ones.
    """
    size = 8
    ramp = torch.linspace(-1, 1, size)
    checks = (torch.arange(size)[:, None] + torch.arange(size)[None, :]) % 2 * 2.0 - 1
    planes = [torch.zeros(size, size), 1.5 * checks, 0.8 + 0 * checks, ramp.expand(size, size)]
    pictures = torch.stack(planes)[:, None].expand(-1, 4, -1, -1).contiguous()
    denoiser = ExactDenoiser(pictures)
    runs = 200
    arrived = walk(denoiser, 14.6 * noise(runs, 4, size, size), levels(14.6, 0.01, 150))
    chosen = denoiser.weights(arrived, torch.full((runs,), 0.01)).argmax(dim=1)
    counts = torch.bincount(chosen, minlength=4)
    # 50 each is expected, with a standard deviation of 6.1.
    assert counts.min() >= 32, counts.tolist()
    assert counts.max() <= 68, counts.tolist()


def test_coarse_shapes_come_before_detail() -> None:
    size = 32
    denoiser = ExactDenoiser(torch.zeros(1, 1, size, size))
    shape, detail = denoiser._rows[2], denoiser._rows[24]  # one cycle, twelve cycles
    picture = (shape[:, None] * shape + detail[:, None] * detail)[None, None]
    denoiser = ExactDenoiser(picture)

    def visible(wave: torch.Tensor, sigma: float) -> float:
        guess = denoiser(picture, torch.tensor([sigma]))[0, 0]
        return float(wave @ guess @ wave)

    assert visible(shape, 0.3) > 0.85
    assert visible(detail, 0.3) < 0.15
    assert visible(detail, 0.01) > 0.95
    coming = [visible(detail, sigma) for sigma in levels(14.6, 0.01, 30).tolist()]
    assert all(then >= now - 1e-6 for now, then in pairwise(coming)), "detail went away again"


def test_half_precision_comes_in_and_float32_goes_out() -> None:
    denoiser = ExactDenoiser(SMALL)
    guess = denoiser(SMALL.half(), torch.full((3,), 0.05, dtype=torch.float16))
    assert guess.dtype == torch.float32
    torch.testing.assert_close(guess, denoiser(SMALL, torch.full((3,), 0.05)), atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(4, 8, 8), (0, 4, 8, 8), (1, 4, 0, 8)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(K, C, H, W\)"):
        ExactDenoiser(torch.zeros(shape))


@pytest.mark.parametrize("length", [1, 2, 7, 64])
def test_the_cosine_basis_is_orthonormal(length: int) -> None:
    basis = maths.cosine_basis(length)
    torch.testing.assert_close(basis @ basis.T, torch.eye(length), atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("biased", [False, True])
def test_latents_show_the_picture_given(channels: int, biased: bool) -> None:
    factors = noise(channels, 3, seed=3).tolist()
    bias = [0.1, -0.2, 0.3] if biased else None
    rgb = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(4)) * 2 - 1
    latents = maths.latents_showing(rgb, factors, bias)
    assert latents.shape == (2, channels, 5, 6)
    # As ComfyUI's Latent2RGB previewer does.
    preview = torch.nn.functional.linear(
        latents.movedim(1, -1), torch.tensor(factors).T, torch.tensor(bias) if bias else None
    )
    torch.testing.assert_close(preview.movedim(-1, 1), rgb, atol=1e-5, rtol=0)
