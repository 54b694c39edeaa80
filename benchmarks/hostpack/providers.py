"""The providers of a step's previews: ComfyUI's own code, or SideStream, possibly changed."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any
from unittest import mock

import comfy.cli_args
import latent_preview
import torch
from server import PromptServer

from .sampling import Callback


class NotOffered(Exception):
    """This version of SideStream does not have the part to be changed."""


def fresh_copy(module: ModuleType) -> ModuleType:
    """A module loaded from its file again, without the changes made to the loaded one."""
    name = f"{module.__name__}_as_published"
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


comfyui = fresh_copy(latent_preview)
"""ComfyUI's `latent_preview` without SideStream."""

REPLACED = ("get_previewer", "prepare_callback")


@contextlib.contextmanager
def sidestream_absent() -> Iterator[None]:
    """Restore ComfyUI's own functions in place of SideStream's."""
    with contextlib.ExitStack() as stack:
        for name in REPLACED:
            stack.enter_context(mock.patch.object(latent_preview, name, getattr(comfyui, name)))
        yield


def comfyui_callback(method: str, model: Any, steps: int) -> Callback:
    """The callback that ComfyUI makes for a preview method."""
    args = comfy.cli_args.args
    wanted = comfy.cli_args.LatentPreviewMethod(method)
    # Not by assignment, which would count as this node's choice of a method.
    with mock.patch.dict(vars(args), preview_method=wanted):
        return comfyui.prepare_callback(model, steps)


def change_live(client_id: str, settings: dict[str, Any]) -> None:
    """Change the settings of the running sampling, as the panel does."""
    body = json.dumps({"client_id": client_id, **settings}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{comfy.cli_args.args.port}/sidestream/live",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        if not json.load(answer)["runs"]:
            raise RuntimeError("SideStream has no run whose settings could be changed")


def part_of_sidestream(name: str) -> ModuleType | None:
    """SideStream's module of this name, wherever it is in the pack."""
    for path, module in list(sys.modules.items()):
        if ".preview." in path and path.endswith(f".{name}"):
            return module
    return None


def without_kernels() -> AbstractContextManager[Any]:
    """Decode with PyTorch only."""
    fused = part_of_sidestream("fused")
    if fused is None:
        raise NotOffered("it has no kernels")
    return mock.patch.object(fused.WhenReady, "to_picture", return_value=None)


def without_kept_memory() -> AbstractContextManager[Any]:
    """Allocate the memory of the kernels' layers anew for each picture."""
    fused = part_of_sidestream("fused")
    if fused is None or not hasattr(fused.FusedTaesd, "rest"):
        raise NotOffered("its kernels keep no memory")

    def fresh(self: Any, size: int, device: torch.device, stream: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=device)

    return mock.patch.object(fused.FusedTaesd, "_memory", fresh)


def without_encoding() -> AbstractContextManager[Any]:
    """Always send the first picture of the block."""
    encode = part_of_sidestream("encode")
    if encode is None or not hasattr(encode, "jpeg_encoder"):
        raise NotOffered("its JPEG encoder cannot be replaced")
    real = encode.jpeg_encoder()
    first: list[bytes] = []

    def unencoded(picture: Any, quality: int) -> bytes:
        if not first:
            first.append(real(picture, quality))
        return first[0]

    return mock.patch.object(encode, "jpeg_encoder", return_value=unencoded)


def without_sending() -> AbstractContextManager[Any]:
    """Let the server drop the finished pictures."""

    async def dropped(event: int, data: bytes, sid: str | None = None) -> None:
        pass

    return mock.patch.object(PromptServer.instance, "send_bytes", dropped)


def dropping(method: str) -> AbstractContextManager[Any]:
    """Drop each frame in the engine's `method`, which takes a frame."""
    worker, records = part_of_sidestream("render.worker"), part_of_sidestream("preview.records")
    if worker is None or records is None:
        raise NotOffered("it has no worker that could drop frames")

    def dropped(engine: Any, frame: Any) -> None:
        worker.drop(frame, records.REPLACED)

    return mock.patch.object(worker.Engine, method, dropped)


def without_decoding() -> AbstractContextManager[Any]:
    """Let the worker drop the frames that it takes."""
    return dropping("_process")


def without_worker() -> AbstractContextManager[Any]:
    """Capture frames, but don't pass them to the worker."""
    return dropping("publish")


class Compiled:
    """TAESD's decoder with `torch.compile`, compiled by the worker at the first frame."""

    def __init__(self, decode: Callable[..., torch.Tensor]) -> None:
        self._decode = torch.compile(decode, dynamic=False)
        self._tried = threading.Event()
        self._problem = "torch.compile did not end"

    def __call__(self, decoder: Any, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        try:
            rgb = self._decode(decoder, latent, min_side)
            self._problem = ""
        except BaseException as error:
            self._problem = repr(error)[:500]
            raise
        finally:
            self._tried.set()
        return rgb

    def wait(self) -> str:
        """Wait until the first frame was compiled and decoded. Returns what went wrong, or ""."""
        self._tried.wait(300)
        return self._problem


@functools.cache
def compiled() -> Compiled:
    """The compiled decoder, which all blocks share."""
    taesd = part_of_sidestream("decoders.taesd")
    if taesd is None:
        raise NotOffered("it has no TAESD that could be compiled")
    return Compiled(taesd.Taesd.__call__)


def with_compiled() -> AbstractContextManager[Any]:
    """Decode with TAESD's layers compiled by `torch.compile`."""
    replacement = compiled()
    taesd = part_of_sidestream("decoders.taesd")
    assert taesd is not None

    def decode(decoder: Any, latent: torch.Tensor, min_side: int) -> torch.Tensor:
        return replacement(decoder, latent, min_side)

    return mock.patch.object(taesd.Taesd, "__call__", decode)


CHANGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no kernels": without_kernels,
    "no kept memory": without_kept_memory,
    "no encoding": without_encoding,
    "no sending": without_sending,
    "no decoding": without_decoding,
    "no worker": without_worker,
    "compiled": with_compiled,
}
"""Changes that can be made to SideStream between two steps."""
WAITS: dict[str, Callable[[], str]] = {"compiled": lambda: compiled().wait()}
"""For changes that take effect at a first frame: waits for that, and returns what went wrong."""
