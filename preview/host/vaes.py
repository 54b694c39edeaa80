"""ComfyUI's VAEs, copied so that they decode on any thread beside the sampler's."""

from __future__ import annotations

import functools
import logging
import weakref
from typing import Any

import comfy.model_management
import torch

from ..decoders.errors import in_a_line
from ..decoders.vae import SMALLEST, VaeCopy, copied, weights

log = logging.getLogger(__name__)

_vae_copies: weakref.WeakKeyDictionary[Any, VaeCopy | None] = weakref.WeakKeyDictionary()


def vae_copy(vae: Any) -> VaeCopy | None:
    """The decoder of ComfyUI's `vae`, copied at the first call; None where that cannot be done.

    To be called on the prompt's thread: nobody moves the VAE's weights meanwhile.
    """
    try:
        if vae not in _vae_copies:
            _vae_copies[vae] = None
            _vae_copies[vae] = _copy_of_vae(vae)
        return _vae_copies[vae]
    except Exception as error:  # it may be any pack's
        log.warning(
            "[SideStream] This VAE cannot show previews (%s); they go on without it.",
            in_a_line(error),
        )
        return None


def _copy_of_vae(vae: Any) -> VaeCopy:
    """Raises ValueError where it makes no pictures; something else where it is built otherwise."""
    model = getattr(vae, "first_stage_model", None)
    if model is None:
        raise ValueError("it holds no weights")
    dimensions = vae.latent_dim
    is_audio = getattr(vae, "extra_1d_channel", None) is not None
    if is_audio or dimensions not in (2, 3) or getattr(vae, "output_channels", 3) < 3:
        raise ValueError("it makes no pictures")
    if any(weight.is_meta for weight in weights(model)):
        raise ValueError("its weights are not loaded")
    types = getattr(vae, "working_dtypes", [torch.bfloat16])
    half = next((dtype for dtype in types if dtype.itemsize == 2), torch.float32)
    decoder = copied(model, torch.device("cpu"), half, lambda name: name.endswith("encoder"))
    _make_independent(decoder)
    one_tile = (1, vae.latent_channels, *(1, SMALLEST, SMALLEST)[-dimensions:])
    held = vae.memory_used_decode(one_tile, torch.float32) / torch.float32.itemsize
    return VaeCopy(
        decoder,
        vae.process_output,
        vae.latent_channels,
        int(vae.spacial_compression_decode()),
        dimensions,
        functools.partial(comfy.model_management.vae_dtype, allowed_dtypes=types),
        held / SMALLEST**2,
        type(model).__name__,
    )


def _make_independent(decoder: Any) -> None:
    """Make ComfyUI's layers of a copy work on any thread, without ComfyUI's memory management."""
    for layer in decoder.modules():
        kind: Any = type(layer)
        layer.__class__ = _independent(kind)
        attention = getattr(layer, "optimized_attention", None)
        if getattr(attention, "__module__", None) == "comfy.ldm.modules.diffusionmodules.model":
            # ComfyUI's empties the allocator's caches when memory is short: that stalls samplers.
            layer.optimized_attention = _attention
        if getattr(layer, "inject_noise", False):
            layer.inject_noise = False
    if getattr(decoder, "timestep_conditioning", False):
        # LTX-Video's VAE adds noise to latents: random numbers that are the sampler's.
        decoder.timestep_conditioning = False


@functools.cache
def _independent(kind: Any) -> Any:
    """`kind` with torch's layers in the place of ComfyUI's.

    Those ask with every call whether the prompt was interrupted, and who asks takes the interrupt
    from the sampler; and they move weights to where a model is only partly loaded.
    """
    layers = [base for base in kind.__mro__ if issubclass(base, torch.nn.Module)]
    of_host = [layer for layer in layers if layer.__module__ == "comfy.ops"]
    if not of_host:
        return kind
    hosts = of_host[-1]  # next to torch's

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return super(hosts, self).forward(*args, **kwargs)

    def convolve(self: Any, x: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return self._conv_forward(x, self.weight, self.bias, **kwargs)

    is_convolution = hasattr(hosts, "_conv_forward")
    between = type(hosts.__name__, (hosts,), {"forward": convolve if is_convolution else forward})
    # After `kind` and before ComfyUI's in the order in which methods are looked up.
    return between if kind is hosts else type(kind.__name__, (kind, between), {})


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attention of every pixel to every other: [B, C, ...] each."""
    batch, channels = q.shape[:2]
    q_, k_, v_ = (x.reshape(batch, 1, channels, -1).transpose(2, 3) for x in (q, k, v))
    result = torch.nn.functional.scaled_dot_product_attention(q_, k_, v_)
    return result.transpose(2, 3).reshape(q.shape)
