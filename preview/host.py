"""ComfyUI as SideStream sees it: the only module under `preview/` that imports it.

Every difference between ComfyUI versions is dealt with here. Written against 0.3.64 to 0.38.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import torch
from server import PromptServer

from .runs import Owner
from .transport import Socket

missing: str | None = None
try:
    import comfy.cli_args
    import comfy.model_management
    import comfy.options
    import comfy.patcher_extension
    import folder_paths
    import latent_preview as latent_preview
    from comfy_execution.progress import NodeState, get_progress_state
    from comfy_execution.utils import get_executing_context
    from latent_preview import LatentPreviewer as LatentPreviewer
except ImportError as error:
    missing = str(error)

OWN_PREVIEWERS = ("TAESDPreviewerImpl", "Latent2RGBPreviewer")
WRAPPER_KEY = "sidestream"


class UnknownHost(Exception):
    """This ComfyUI is not built as expected. The message says what is different."""


def check() -> None:
    """Raises UnknownHost where the functions that SideStream replaces have another shape."""
    if missing is not None:
        raise UnknownHost(missing)
    expected = {
        "get_previewer": ["device", "latent_format"],
        "prepare_callback": ["model", "steps"],
    }
    for name, parameters in expected.items():
        function = getattr(latent_preview, name, None)
        if not callable(function):
            raise UnknownHost(f"latent_preview.{name} is missing")
        # Other packs' wrappers often take *args: only ComfyUI's own shape tells.
        found = list(inspect.signature(inspect.unwrap(function)).parameters)
        if is_own_function(function) and found[: len(parameters)] != parameters:
            raise UnknownHost(f"latent_preview.{name} takes ({', '.join(found)})")
    if getattr(PromptServer, "instance", None) is None:
        raise UnknownHost("there is no server")


def version() -> str:
    """ComfyUI's version."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return __version__


# --- previewers ---------------------------------------------------------------------------------


def is_own_function(function: object) -> bool:
    """Whether a function of `latent_preview` is ComfyUI's own, not another pack's."""
    return getattr(function, "__module__", None) == latent_preview.__name__


def is_own_previewer(previewer: object) -> bool:
    """Whether it is one of ComfyUI's own previewers that SideStream serves."""
    return type(previewer).__module__ == latent_preview.__name__ and (
        type(previewer).__name__ in OWN_PREVIEWERS
    )


def own_previewer(beneath: Callable[[], Any], latent_format: Any) -> Any:
    """ComfyUI's own previewer: `beneath()`, or Latent2RGB where that has none or fails."""
    try:
        previewer = beneath()
    except Exception:  # a damaged decoder file, of which the worker speaks
        previewer = None
    if previewer is None and latent_format.latent_rgb_factors is not None:
        optional = ("latent_rgb_factors_bias", "latent_rgb_factors_reshape")
        arguments = [
            getattr(latent_format, name) for name in optional if hasattr(latent_format, name)
        ]
        previewer = latent_preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, *arguments)
    return previewer


def latent_frame(x0: Any) -> torch.Tensor:
    """The tensor to preview: of nested latents (video with audio) the first."""
    return x0.tensors[0] if getattr(x0, "is_nested", False) else x0


def decoder_file(latent_format: Any) -> str | None:
    """The path of the format's file in models/vae_approx, as ComfyUI picks it."""
    name = getattr(latent_format, "taesd_decoder_name", None)
    if name is None:
        return None
    for file in folder_paths.get_filename_list("vae_approx"):
        if file.startswith(name):
            return folder_paths.get_full_path("vae_approx", file)
    return None


def picture_scale(latent_format: Any) -> int:
    """Pixels of the final picture for each latent pixel."""
    ratio = getattr(latent_format, "spacial_downscale_ratio", None)
    if ratio is not None:
        return int(ratio)
    if latent_format.latent_channels == 3:
        return 1  # models that work on pixels
    return 16 if getattr(latent_format, "taesd_decoder_name", None) == "taef2_decoder" else 8


def precision(device: torch.device) -> torch.dtype:
    """The fastest type in which convolutions are right on `device`, as ComfyUI knows it."""
    if device.type in ("cuda", "xpu"):
        if comfy.model_management.should_use_fp16(device):
            return torch.float16
        if comfy.model_management.should_use_bf16(device):
            return torch.bfloat16
    return torch.float32


def preview_size() -> int:
    """ComfyUI's --preview-size, in pixels."""
    return int(getattr(comfy.cli_args.args, "preview_size", 512))


def chosen_method(extra_data: Mapping[str, Any]) -> str | None:
    """The preview method that somebody chose in ComfyUI; None where nobody did.

    One of none, auto, latent2rgb, taesd. ComfyUI's silent default is none, which is a choice
    only if it was given on the command line or with the prompt.
    """
    method = str(comfy.cli_args.args.preview_method.value)
    if method != "none":
        return method
    by_prompt = extra_data.get("preview_method") == "none"
    return "none" if by_prompt or _given_on_command_line("preview_method") else None


def _given_on_command_line(option: str) -> bool:
    if not comfy.options.args_parsing:
        return False
    absent = object()
    # argparse fills in a default only where the namespace has no value yet.
    namespace = argparse.Namespace(**{option: absent})
    comfy.cli_args.parser.parse_known_args(sys.argv[1:], namespace)
    return getattr(namespace, option) is not absent


# --- the prompt ---------------------------------------------------------------------------------


def current_owner() -> Owner:
    """Who is sampling on this thread, as ComfyUI's own progress hook sees it."""
    server = PromptServer.instance
    context = get_executing_context()
    prompt_id = context.prompt_id if context else getattr(server, "last_prompt_id", None)
    node_id = context.node_id if context else server.last_node_id
    if node_id is None:
        return Owner(prompt_id, client_id=server.client_id)
    graph = get_progress_state().dynprompt
    return Owner(
        prompt_id,
        node_id,
        graph.get_display_node_id(node_id),
        graph.get_parent_node_id(node_id),
        graph.get_real_node_id(node_id),
        server.client_id,
    )


def extra_data(prompt_id: str | None) -> Mapping[str, Any]:
    """What the client sent with the running prompt `prompt_id`."""
    for item in list(PromptServer.instance.prompt_queue.currently_running.values()):
        if item[1] == prompt_id and isinstance(item[3], Mapping):
            return item[3]
    return {}


def announced_steps(owner: Owner) -> int:
    """How many steps the node's progress says there are; 0 where it has not said so yet."""
    entry = get_progress_state().nodes.get(owner.node_id)
    return int(entry["max"]) if entry is not None and entry["max"] > 1 else 0


def model_settings(model: Any, key: str) -> Mapping[str, Any]:
    """What SideStream's node left on a MODEL."""
    return getattr(model, "model_options", {}).get(key, {})


def watch_sampling(model: Any, ended: Callable[[bool], None]) -> None:
    """Call `ended(failed)` when the sampling that `model` is about to do is over.

    Leaves a wrapper on the model that takes itself off when sampling begins.
    """

    def outer_sample(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        by_key.pop(WRAPPER_KEY, None)
        try:
            result = executor(*args, **kwargs)
        except BaseException:
            ended(True)
            raise
        ended(False)
        return result

    options = model.model_options.setdefault("transformer_options", {})
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    by_key = options.setdefault("wrappers", {}).setdefault(kind, {})
    by_key[WRAPPER_KEY] = [outer_sample]


# --- the server ---------------------------------------------------------------------------------


def routes() -> Any:
    """The table to which packs add their routes."""
    return PromptServer.instance.routes


def register(current: object) -> None:
    """Remember who answers the routes, for as long as the server lives."""
    PromptServer.instance.sidestream = current


def registered() -> Any:
    """What `register` remembered; None before."""
    return getattr(PromptServer.instance, "sidestream", None)


class Server:
    """ComfyUI's server as `transport.Wire`."""

    def __init__(self) -> None:
        self._server = PromptServer.instance

    def sockets(self, client_id: str | None) -> list[Socket]:
        connected = self._server.sockets
        if client_id is None:
            found = list(connected.items())
        else:
            connection = connected.get(client_id)
            found = [] if connection is None else [(client_id, connection)]
        return [Socket(sid, connection, self._knows_metadata(sid)) for sid, connection in found]

    def connected(self, client_id: str | None) -> bool:
        connections = self._server.sockets
        return bool(connections) if client_id is None else client_id in connections

    def is_running(self, prompt_id: str | None, node_id: str | None) -> bool:
        if comfy.model_management.processing_interrupted():
            return False
        progress = get_progress_state()
        entry = progress.nodes.get(node_id)
        return (
            progress.prompt_id == prompt_id
            and entry is not None
            and entry["state"] == NodeState.Running
            and any(
                item[1] == prompt_id
                for item in list(self._server.prompt_queue.currently_running.values())
            )
        )

    def is_idle(self) -> bool:
        return not self._server.prompt_queue.currently_running

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            asyncio.run_coroutine_threadsafe(coroutine, self._server.loop)
        except RuntimeError:  # the loop is closed: the server is going down
            coroutine.close()

    async def send_bytes(self, event: int, data: bytes, socket: Socket) -> None:
        if self._server.sockets.get(socket.id) is socket.connection:
            await self._server.send_bytes(event, data, socket.id)

    async def send_json(self, event: str, data: dict[str, Any], socket: Socket) -> None:
        if self._server.sockets.get(socket.id) is socket.connection:
            await self._server.send_json(event, data, socket.id)

    def _knows_metadata(self, sid: str) -> bool:
        flags = self._server.sockets_metadata.get(sid, {}).get("feature_flags", {})
        return flags.get("supports_preview_metadata") is True
