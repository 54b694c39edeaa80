"""The ways to make previews that are compared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Provider:
    """One way: `active` enables it during a run."""

    name: str
    active: Callable[[], Any]
    decoder: str = ""
    """The decoder of its pictures: '', 'latent2rgb' or 'taesd'."""
    settings: dict[str, Any] = field(default_factory=dict)


@contextmanager
def host_method(name: str) -> Iterator[None]:
    """ComfyUI's own previews with the method `name`."""
    from comfy.cli_args import LatentPreviewMethod, args

    before = args.preview_method
    args.preview_method = LatentPreviewMethod(name)
    try:
        yield
    finally:
        args.preview_method = before


@contextmanager
def thread_per_step(device: torch.device) -> Iterator[None]:
    """Each preview on a new thread and one side stream, decoded eagerly in float32.

    Based on the idea of ComfyUI pull request 8258: an event keeps the order and nothing waits, but
    every step pays for a thread and for launching each of the decoder's kernels.
    """
    import latent_preview
    from server import PromptServer

    stream = torch.cuda.Stream(device)
    original = latent_preview.get_previewer

    class ThreadPreviewer(latent_preview.LatentPreviewer):
        def __init__(self, taesd: Any) -> None:
            self.taesd = taesd
            self.step = 0

        def decode_latent_to_preview_image(self, kind: str, x0: torch.Tensor) -> None:
            self.step += 1
            event = torch.cuda.Event()
            staged = x0[:1].clone()
            event.record(torch.cuda.current_stream(device))
            threading.Thread(target=self._decode, args=(kind, staged, event, self.step)).start()

        @torch.inference_mode()
        def _decode(self, kind: str, x0: torch.Tensor, event: torch.cuda.Event, step: int) -> None:
            with torch.cuda.stream(stream):
                stream.wait_event(event)
                rgb = self.taesd.decode(x0)[0].movedim(0, 2)
                picture = ((rgb + 1) / 2).clamp(0, 1).mul(255).round().to(torch.uint8)
                image = latent_preview.Image.fromarray(picture.cpu().numpy())
            server = PromptServer.instance
            data: Any = ((kind, image, latent_preview.MAX_PREVIEW_RESOLUTION), {})
            server.loop.call_soon_threadsafe(server._send, 4, data, step)

    def get_previewer(device: torch.device, latent_format: Any) -> ThreadPreviewer:
        return ThreadPreviewer(original(device, latent_format).taesd)

    latent_preview.get_previewer = get_previewer
    try:
        with host_method("taesd"):
            yield
    finally:
        latent_preview.get_previewer = original
        for thread in threading.enumerate():
            if thread.name.startswith("Thread-") and "_decode" in thread.name:
                thread.join()


@contextmanager
def sidestream(pack: Any, **changes: Any) -> Iterator[None]:
    """SideStream's previews; `changes` switch parts of it off (see `VARIANTS`)."""
    undo = [VARIANTS[name](pack) for name in changes]
    pack._provider.install()
    try:
        yield
    finally:
        pack._provider.uninstall()
        for each in undo:
            each()


def _without_kernels(pack: Any) -> Callable[[], None]:
    from sidestream.preview.decoders.fused import WhenReady

    before = WhenReady.to_picture
    WhenReady.to_picture = lambda *a: None  # type: ignore[method-assign]
    return lambda: setattr(WhenReady, "to_picture", before)


def _without_half(pack: Any) -> Callable[[], None]:
    from sidestream.preview import host

    before = host.installation.precision
    host.installation.precision = lambda device: torch.float32
    return lambda: setattr(host.installation, "precision", before)


def _with_pillow(pack: Any) -> Callable[[], None]:
    from sidestream.preview.deliver import encode

    before = encode.jpeg_encoder
    setattr(encode, "jpeg_encoder", lambda: encode.pillow_jpeg)  # noqa: B010
    return lambda: setattr(encode, "jpeg_encoder", before)


VARIANTS: dict[str, Callable[[Any], Callable[[], None]]] = {
    "kernels": _without_kernels,
    "half": _without_half,
    "encoder": _with_pillow,
}

EVERY_STEP = {"throttle_ms": 0, "budget": 0, "method": "taesd"}


@contextmanager
def previewed_by(model: Any, vae: Any, pack: Any) -> Iterator[None]:
    """SideStream's previews of a MODEL with a VAE to decode them."""
    from sidestream.preview import host

    host.models.attach_vae(model, vae)
    try:
        with sidestream(pack):
            yield
    finally:
        del model.model_options[host.models.VAE_KEY]


def compared(case: str, pack: Any, model: Any, device: torch.device) -> list[Provider]:
    """All providers for a benchmark of `case`; the first is the baseline."""
    if case == "wan":
        return for_video(pack)
    if case == "vae":
        return for_vae(pack, model)
    return for_images(pack, device)


def for_video(pack: Any) -> list[Provider]:
    """Still and animated previews of a video."""
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("defaults", {}),
        ("every step, all frames", {"video_frames": 0, "budget": 0, "throttle_ms": 0}),
        ("Latent2RGB", {"method": "latent2rgb"}),
    ]
    return [
        Provider("no previews", lambda: host_method("none")),
        Provider("ComfyUI TAEHV", lambda: host_method("taesd")),
        *[
            Provider(f"SideStream, {name}", lambda: sidestream(pack), settings=settings)
            for name, settings in kinds
        ],
    ]


def for_vae(pack: Any, model: Any) -> list[Provider]:
    """Previews decoded by the model's real VAE."""
    from sidestream.benchmarks import models

    vae = models.vae()
    return [
        Provider("no previews", lambda: host_method("none")),
        Provider("SideStream, TAESD, defaults", lambda: sidestream(pack), "taesd"),
        *[
            Provider(
                f"SideStream, VAE, budget {budget} %",
                lambda: previewed_by(model, vae, pack),
                settings={"budget": budget},
            )
            for budget in (5, 20)
        ],
    ]


def for_images(pack: Any, device: torch.device) -> list[Provider]:
    """All ways, and SideStream with each of its parts switched off."""
    return [
        Provider("no previews", lambda: host_method("none")),
        Provider("ComfyUI Latent2RGB", lambda: host_method("latent2rgb"), "latent2rgb"),
        Provider("ComfyUI TAESD", lambda: host_method("taesd"), "taesd"),
        Provider("thread per step on a side stream", lambda: thread_per_step(device), "taesd"),
        Provider("SideStream, every step", lambda: sidestream(pack), "taesd", EVERY_STEP),
        Provider("SideStream, defaults", lambda: sidestream(pack), "taesd", {}),
        Provider(
            "SideStream, every step, by PyTorch",
            lambda: sidestream(pack, kernels=False),
            "taesd",
            EVERY_STEP,
        ),
        Provider(
            "SideStream, every step, float32",
            lambda: sidestream(pack, half=False),
            "taesd",
            EVERY_STEP,
        ),
        Provider(
            "SideStream, every step, full detail",
            lambda: sidestream(pack),
            "taesd",
            {**EVERY_STEP, "detail": "full"},
        ),
        Provider(
            "SideStream, every step, Pillow's JPEG",
            lambda: sidestream(pack, encoder=False),
            "taesd",
            EVERY_STEP,
        ),
    ]
