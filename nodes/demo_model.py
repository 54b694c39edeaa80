"""A MODEL that works without any download: the node `SideStreamDemoModel`."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.supported_models_base
import numpy
import torch
from comfy_api.latest import io

from .demo_pictures import PICTURE_SETS, draw_pictures
from .exact_denoiser import ExactDenoiser, latents_showing

_LATENT_PIXEL = 8
_LATENT_CHANNELS = 4
_KEPT_SIZES = 2
_INTERRUPT_CHECK_SECONDS = 0.02


class SideStreamDemoModel(io.ComfyNode):
    """A model that knows a few pictures and denoises exactly towards one of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStreamDemoModel",
            display_name="Demo Model (no download)",
            category="SideStream/demo",
            description=(
                "A tiny diffusion model that needs no checkpoint. It works with any sampler and "
                "goes from a blur to one of a few pictures, chosen by the seed. Connect "
                "CONDITIONING to both positive and negative."
            ),
            inputs=[
                io.Int.Input(
                    "width",
                    default=512,
                    min=64,
                    max=2048,
                    step=_LATENT_PIXEL,
                    tooltip=f"Image width in pixels, {_LATENT_PIXEL} per latent pixel.",
                ),
                io.Int.Input(
                    "height",
                    default=512,
                    min=64,
                    max=2048,
                    step=_LATENT_PIXEL,
                    tooltip=f"Image height in pixels, {_LATENT_PIXEL} per latent pixel.",
                ),
                io.Float.Input(
                    "seconds_per_step",
                    default=0.15,
                    min=0.0,
                    max=60.0,
                    step=0.01,
                    tooltip=(
                        "Duration of each model call, in seconds, to make the sampler wait as for "
                        "a real model. 0: as fast as possible."
                    ),
                ),
                io.Combo.Input(
                    "picture_set",
                    options=list(PICTURE_SETS),
                    default=next(iter(PICTURE_SETS)),
                    tooltip="Set of pictures the model knows. Change the seed for another picture.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Number of latent images to denoise at once.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="A placeholder for the sampler's inputs; the model ignores prompts.",
                ),
                io.Latent.Output(display_name="LATENT", tooltip="Empty latents to start from."),
            ],
        )

    @classmethod
    def validate_inputs(cls, picture_set: str | None = None) -> bool | str:
        # Some versions of ComfyUI do not check the choices of V3 nodes.
        if picture_set is None or picture_set in PICTURE_SETS:
            return True
        return f"picture_set must be one of {', '.join(PICTURE_SETS)}, not {picture_set!r:.80}"

    @classmethod
    def execute(
        cls, width: int, height: int, seconds_per_step: float, picture_set: str, batch_size: int
    ) -> io.NodeOutput:
        shape = (batch_size, _LATENT_CHANNELS, height // _LATENT_PIXEL, width // _LATENT_PIXEL)
        empty = torch.zeros(shape, device=comfy.model_management.intermediate_device())
        conditioning = [[torch.zeros(1, 77, 768), {}]]
        return io.NodeOutput(
            build_model(picture_set, seconds_per_step), conditioning, {"samples": empty}
        )


def build_model(picture_set: str, seconds_per_step: float) -> comfy.model_patcher.ModelPatcher:
    """Make a MODEL that denoises towards the pictures of a set.

    Args:
        picture_set: a key of `PICTURE_SETS`.
        seconds_per_step: minimum duration of each model call.

    Returns:
        A MODEL in the latent format of Stable Diffusion 1.5, for latents of any size.

    Raises:
        KeyError: no such set.
    """
    config = _DemoConfig({})
    denoiser = DemoDiffusionModel(picture_set, config.latent_format, seconds_per_step)
    model = comfy.model_base.BaseModel(config, unet_model=lambda **_: denoiser)
    model.model_sampling = _DemoSampling(config)
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


class DemoDiffusionModel(torch.nn.Module):
    """Replaces a MODEL's neural network: noisy latents in, guess out.

    Args:
        picture_set: a key of `PICTURE_SETS`.
        latent_format: ComfyUI's; its Latent2RGB factors turn the pictures into latents.
        seconds_per_call: minimum duration of each call.

    Raises:
        KeyError: no such set.
    """

    dtype = torch.float32  # ComfyUI casts its input to this

    def __init__(
        self,
        picture_set: str,
        latent_format: comfy.latent_formats.LatentFormat,
        seconds_per_call: float,
    ) -> None:
        super().__init__()
        if picture_set not in PICTURE_SETS:
            raise KeyError(picture_set)
        self._picture_set = picture_set
        self._latent_format = latent_format
        self._seconds_per_call = seconds_per_call
        # A plain dict, so that ComfyUI does not treat a few small tables as weights to be moved.
        self._denoisers: dict[tuple[int, int, torch.device], ExactDenoiser] = {}

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, **_: Any) -> torch.Tensor:
        """Guess the clean latents.

        Args:
            x: noisy latents, float32, shape (B, 4, H, W), of any H and W.
            timestep: shape (B,), as `_DemoSampling.timestep` counts: a quarter of log sigma.

        Returns:
            float32, the shape of `x`.

        Raises:
            comfy.model_management.InterruptProcessingException: the user pressed cancel.
        """
        _stay_busy(self._seconds_per_call)
        return self._denoiser(x)(x, torch.exp(4 * timestep))

    def _denoiser(self, x: torch.Tensor) -> ExactDenoiser:
        height, width = x.shape[-2:]
        key = (height, width, x.device)
        denoiser = self._denoisers.pop(key, None)
        if denoiser is None:
            pictures = picture_latents(self._picture_set, width, height, self._latent_format)
            denoiser = ExactDenoiser(pictures).to(x.device)
        self._denoisers[key] = denoiser  # as the most recently used
        if len(self._denoisers) > _KEPT_SIZES:
            del self._denoisers[next(iter(self._denoisers))]
        return denoiser


def picture_latents(
    picture_set: str, width: int, height: int, latent_format: comfy.latent_formats.LatentFormat
) -> torch.Tensor:
    """Draw a set's pictures as latents whose Latent2RGB preview shows them.

    Args:
        picture_set: a key of `PICTURE_SETS`.
        width: in latent pixels.
        height: in latent pixels.
        latent_format: ComfyUI's, with `latent_rgb_factors`.

    Returns:
        float32 on the CPU, shape (K, C, height, width), as the sampler sees latents (scaled).

    Raises:
        KeyError: no such set.
    """
    drawn = draw_pictures(picture_set, width, height)
    rgb = torch.from_numpy(numpy.stack([numpy.asarray(picture) for picture in drawn]))
    return latents_showing(
        rgb.permute(0, 3, 1, 2) / 127.5 - 1.0,
        latent_format.latent_rgb_factors,
        latent_format.latent_rgb_factors_bias,
    )


class _DemoLatents(comfy.latent_formats.SD15):
    """Computed with the factors of Latent2RGB, which therefore shows the exact pictures."""

    sidestream_exact = True


class _DemoConfig(comfy.supported_models_base.BASE):
    """What ComfyUI's BaseModel needs to know about a model."""

    latent_format = _DemoLatents
    # From the strongest noise of Stable Diffusion 1.5 down to invisible noise.
    sampling_settings: ClassVar[dict[str, float]] = {"sigma_min": 0.01, "sigma_max": 14.6}
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    memory_usage_factor = 0.01  # a few copies of the latents, so no model has to be unloaded


class _DemoSampling(
    comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.IMG_TO_IMG
):
    """Continuous noise levels; the model is given x as it is and returns its guess as it is."""


def _stay_busy(seconds: float) -> None:
    """Hold this thread for `seconds`, without touching a device, unless the user interrupts."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _INTERRUPT_CHECK_SECONDS))
        comfy.model_management.throw_exception_if_processing_interrupted()
