"""Measures runs of a provider, and summarises them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from .models import Case, conditioning
from .providers import Provider
from .standin import Picture, PromptServer, begin_prompt, end_prompt

WRONG_BELOW = 28.0  # dB; frames of other steps are far below, a JPEG of the right one far above


@dataclass
class Measured:
    """Measurements of a provider over all its runs of a case."""

    seconds: list[float] = field(default_factory=list)
    callbacks_ms: list[float] = field(default_factory=list)
    sent_ms: list[float] = field(default_factory=list)
    ready_ms: list[float] = field(default_factory=list)
    frames: int = 0
    animated: int = 0
    wrong: int = 0
    peak: int = 0


class Sampling:
    """A case, prepared for repeated sampling."""

    def __init__(self, case: Case, model: Any, server: PromptServer, device: torch.device) -> None:
        self.case = case
        self.server = server
        self.device = device
        self.model = model
        self._conditioning = conditioning(case.unet)
        self._latent = torch.zeros(case.latent)
        generator = torch.Generator().manual_seed(7)
        self._noise = torch.randn(self._latent.shape, generator=generator)

    def run(
        self, settings: dict[str, Any], watch: Any = None
    ) -> tuple[torch.Tensor, list[tuple[float, float]]]:
        """Sample once with ComfyUI's code.

        Returns the latents, and when each callback began and ended, in seconds. For tests,
        `watch(step, x0)` is called after each callback.
        """
        import comfy.sample
        import latent_preview

        begin_prompt(self.server, {"sidestream": settings})
        callback = latent_preview.prepare_callback(self.model, self.case.steps)
        callbacks: list[tuple[float, float]] = []

        def timed(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
            start = time.perf_counter()
            callback(step, x0, x, total_steps)
            callbacks.append((start, time.perf_counter()))
            if watch is not None:
                watch(step + 1, x0)

        try:
            with torch.inference_mode():
                samples = comfy.sample.sample(
                    self.model,
                    self._noise,
                    self.case.steps,
                    7.0,
                    "euler",
                    "normal",
                    self._conditioning,
                    self._conditioning,
                    self._latent,
                    callback=timed,
                    disable_pbar=True,
                    seed=7,
                )
                torch.cuda.synchronize(self.device)
        finally:
            end_prompt(self.server)
        return samples, callbacks


def measure(
    sampling: Sampling, provider: Provider, seen: Measured, references: Any
) -> torch.Tensor:
    """One timed run of `provider`, added to `seen`. Returns the sampled latents."""
    server = sampling.server
    with provider.active():
        settle(server)
        start = time.perf_counter()
        samples, callbacks = sampling.run(provider.settings)
        seen.seconds.append(time.perf_counter() - start)
        settle(server)
    seen.callbacks_ms += [(end - begin) * 1000 for begin, end in callbacks]
    for picture in server.pictures:
        if picture.animated:
            seen.animated += 1
            continue
        seen.frames += 1
        seen.wrong += is_wrong(picture, references.get(provider.decoder, {}))
        if picture.info:
            seen.sent_ms.append(picture.info["captured_to_sent_ms"])
            seen.ready_ms.append(picture.info["ready_to_sent_ms"])
    server.pictures.clear()
    return samples


def measure_memory(sampling: Sampling, provider: Provider, seen: Measured) -> None:
    """One untimed run, for the peak of all memory that torch takes from the device.

    It is what torch reserves, not what tensors hold: recorded graphs use memory that belongs to no
    tensor.
    """
    with provider.active():
        settle(sampling.server)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(sampling.device)
        sampling.run(provider.settings)
        settle(sampling.server)
        seen.peak = torch.cuda.max_memory_reserved(sampling.device)
    sampling.server.pictures.clear()


def memory_left(device: torch.device) -> int:
    """Bytes of the device that torch keeps when its cache is empty."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def settle(server: PromptServer) -> None:
    """Wait until previews of earlier runs have passed through the server's loop."""
    time.sleep(0.15)
    server.loop.call_soon_threadsafe(lambda: None)
    time.sleep(0.05)


def is_wrong(picture: Picture, references: dict[int, np.ndarray]) -> bool:
    """Whether a picture is not the decode of the step on its label."""
    expected = references.get(picture.step)
    return expected is not None and psnr(np.asarray(picture.image), expected) < WRONG_BELOW


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """The peak signal-to-noise ratio of two uint8 pictures of the same size, in dB."""
    error = np.square(one.astype(np.float32) - other.astype(np.float32)).mean()
    return float(99.0 if error == 0 else 10 * np.log10(255**2 / error))


def reference_pictures(sampling: Sampling, max_size: int) -> dict[str, dict[int, np.ndarray]]:
    """By decoder and step, what ComfyUI's own previewers make of each x0, synchronously."""
    import latent_preview
    from PIL import Image, ImageOps

    from .providers import host_method

    kept: dict[int, torch.Tensor] = {}
    sampling.run({"method": "off"}, watch=lambda step, x0: kept.update({step: x0[:1].clone()}))
    result: dict[str, dict[int, np.ndarray]] = {}
    # ComfyUI 0.3.75 gives Wan's decoder latents with the wrong scale, so it is no reference.
    is_video = len(sampling.case.latent) == 5
    for method in ("latent2rgb",) if is_video else ("latent2rgb", "taesd"):
        with host_method(method), torch.inference_mode():
            latent_format = sampling.model.model.latent_format
            previewer = latent_preview.get_previewer(sampling.device, latent_format)
            pictures = {}
            for step, x0 in kept.items():
                previewer.decode_latent_to_preview(x0)
                torch.cuda.synchronize(sampling.device)
                image = previewer.decode_latent_to_preview(x0.cpu().to(sampling.device))
                torch.cuda.synchronize(sampling.device)
                image = Image.fromarray(np.array(image))
                size = (max_size, max_size)
                pictures[step] = np.asarray(
                    ImageOps.contain(image, size, Image.Resampling.BILINEAR)
                )
            result[method] = pictures
    return result


def percentile(values: list[float], percent: float) -> float:
    """The value below which `percent` of `values` lie; NaN if there are none."""
    return float(np.percentile(values, percent)) if values else float("nan")


def row(case: Case, name: str, seen: Measured, base: Measured) -> dict[str, Any]:
    """One row of the table."""
    return {
        "provider": name,
        "ms_per_step": round(median(seen.seconds) / case.steps * 1000, 2),
        "ratio_median": round(median(seen.seconds) / median(base.seconds), 4),
        "ratio_paired": round(
            median(a / b for a, b in zip(seen.seconds, base.seconds, strict=True)), 4
        ),
        "ratio_min": round(min(seen.seconds) / min(base.seconds), 4),
        "callback_p50_ms": round(percentile(seen.callbacks_ms, 50), 3),
        "callback_p99_ms": round(percentile(seen.callbacks_ms, 99), 3),
        "frames": seen.frames,
        "animated": seen.animated,
        "wrong": seen.wrong,
        "sent_p50_ms": round(percentile(seen.sent_ms, 50), 1),
        "sent_p99_ms": round(percentile(seen.sent_ms, 99), 1),
        "ready_p50_ms": round(percentile(seen.ready_ms, 50), 1),
        "ready_p99_ms": round(percentile(seen.ready_ms, 99), 1),
        "peak_mb_above_none": round((seen.peak - base.peak) / 2**20, 1),
    }
