"""A diffusion model that needs no training: the exact denoiser of a handful of pictures.

At noise level s (sigma) each of the K equally likely pictures y_k is out of focus and covered with
noise:

    x = B y_k + s n,      n standard normal,      B = exp(-r),  r = s |f| / a

where f is spatial frequency and a sets the pace. A sampler walks back from noise along
dx/ds = (x - D(x, s)) / s. That walk carries precisely this mixture from one s to the next, and so
ends at one of the pictures, each equally often, if the denoiser is

    D(x, s) = sum over k of w_k L y_k          L = B - s dB/ds = (1 + r) exp(-r)
    w_k = exp(-|x - B y_k|² / (2 s²)) / Z      the posterior probability of picture k

because on the path of one picture dx/ds = dB/ds y_k + n = (x - L y_k) / s, and the slope of a
mixture is the mean of its members' slopes under the posterior. (Z makes the w_k add up to 1.)

Why out of focus: with noise alone (B = L = 1, the textbook case) a few pictures in thousands of
dimensions are told apart while s is still large, and from then on every detail is certain. A
person would see one jump. With B the colours come first, then shapes, and detail last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

PACE = 0.03
"""a, in units of the latent times cycles a latent pixel: f comes into focus as s falls to a / f."""

LOWEST_FREQUENCY = 1 / 128
"""Added (as a right angle) to every frequency, in cycles a latent pixel, so that even the mean
colour is hidden at the start. Otherwise pictures near mid-grey would be chosen more often."""


class ExactDenoiser(torch.nn.Module):
    """D(x, s) for one set of pictures of one size, computed in float32.

    Args:
        pictures: latents of the K pictures, floating dtype, shape (K, C, H, W), nothing empty.

    Raises:
        ValueError: the pictures have another shape.
    """

    _pictures: torch.Tensor
    _spectra: torch.Tensor
    _rows: torch.Tensor
    _columns: torch.Tensor
    _frequency: torch.Tensor

    def __init__(self, pictures: torch.Tensor) -> None:
        super().__init__()
        if pictures.ndim != 4 or pictures.numel() == 0:
            raise ValueError(f"pictures must have shape (K, C, H, W), not {tuple(pictures.shape)}")
        pictures = pictures.float()
        height, width = pictures.shape[-2:]
        rows, columns = cosine_basis(height), cosine_basis(width)
        down = torch.arange(height).float()[:, None] / (2 * height)
        across = torch.arange(width).float()[None, :] / (2 * width)
        buffers = {
            "_pictures": pictures,
            "_spectra": rows @ pictures @ columns.T,
            "_rows": rows,
            "_columns": columns,
            "_frequency": (down**2 + across**2 + LOWEST_FREQUENCY**2).sqrt(),
        }
        # Buffers follow the module to a device; none of them is worth saving.
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def weights(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Posterior probability w_k of each picture.

        Args:
            x: noisy latents, shape (B, C, H, W), any floating dtype.
            sigma: noise level of each, shape (B,), above 0, in units of the latent.

        Returns:
            float32, shape (B, K); each row sums to 1.
        """
        # The cosine transform keeps distances, so |x - B y|² can be measured where B is diagonal.
        spectrum = self._rows @ x.float() @ self._columns.T
        blurred = torch.exp(-self._out_of_focus(sigma))[:, None] * self._spectra
        # |x - B y|² directly: expanding the square would lose, at small s, the digits that decide.
        gaps = (spectrum[:, None] - blurred).square().sum(dim=(2, 3, 4))
        return torch.softmax(-gaps / (2 * sigma.float().square()[:, None]), dim=1)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """D(x, s): the best guess of the picture behind the noise, as sharp as s allows.

        Args:
            x: noisy latents, shape (B, C, H, W), any floating dtype.
            sigma: noise level of each, shape (B,), above 0, in units of the latent.

        Returns:
            float32, the shape of `x`.
        """
        weights = self.weights(x, sigma)[:, :, None, None, None]
        # Sums of products instead of a matrix product: on a GPU, TF32 would round the pictures.
        guess = (weights * self._pictures).sum(dim=1)
        spectrum = (weights * self._spectra).sum(dim=1)
        r = self._out_of_focus(sigma)
        # Taking away what is still hidden, rather than adding up what shows: the rounding of the
        # transform then vanishes with s.
        hidden = spectrum * (1 - (1 + r) * torch.exp(-r))
        return guess - self._rows.T @ hidden @ self._columns

    def _out_of_focus(self, sigma: torch.Tensor) -> torch.Tensor:
        """r = s |f| / a, shape (B, 1, H, W)."""
        return sigma.float()[:, None, None, None] * self._frequency / PACE


def cosine_basis(length: int) -> torch.Tensor:
    """Orthonormal basis of the cosine transform (DCT-II).

    Args:
        length: number of samples, at least 1.

    Returns:
        float32, shape (length, length). Row p is a cosine of p / (2 · length) cycles a sample;
        rows times their transpose is the identity.
    """
    frequency = torch.arange(length, dtype=torch.float64)[:, None]
    place = torch.arange(length, dtype=torch.float64)[None, :] + 0.5
    basis = torch.cos(math.pi / length * frequency * place) * math.sqrt(2 / length)
    basis[0] /= math.sqrt(2)
    return basis.float()


def latents_showing(
    rgb: torch.Tensor,
    factors: Sequence[Sequence[float]],
    bias: Sequence[float] | None = None,
) -> torch.Tensor:
    """The smallest latents whose linear preview (Latent2RGB) is the picture given.

    Args:
        rgb: pictures, shape (K, 3, H, W), from -1 (black) to 1 (full).
        factors: the latent format's `latent_rgb_factors`, C rows of R, G, B.
        bias: the latent format's `latent_rgb_factors_bias`, R, G, B; None for zero.

    Returns:
        float32, shape (K, C, H, W): latents·factors + bias = rgb, exact for C of at least 3.
    """
    inverse = torch.linalg.pinv(torch.tensor(factors, dtype=torch.float64))
    offset = torch.zeros(3) if bias is None else torch.tensor(bias)
    centred = rgb.double() - offset.double()[:, None, None]
    return torch.einsum("krhw,rc->kchw", centred, inverse).float()
