"""ComfyUI as SideStream sees it: the only module under `preview/` that imports it.

Every difference between ComfyUI versions is dealt with here. Written against 0.3.64 to 0.38.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import importlib.metadata
import inspect
import logging
import os
import socket as sockets
import sys
import weakref
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from server import PromptServer

from .decoders.vae import SMALLEST, VaeCopy, copied, weights
from .runs import Owner, Video
from .settings import VAE_KEY
from .transport import Socket

log = logging.getLogger(__name__)

missing: str | None = None
try:
    import comfy.cli_args
    import comfy.latent_formats
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

OWN_PREVIEWERS = ("TAESDPreviewerImpl", "TAEHVPreviewerImpl", "Latent2RGBPreviewer")
UNSENT = 32 * 1024  # bytes that a connection may keep waiting for a slow network
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


def is_overridden_for_all() -> bool:
    """Whether another pack has put a method of its own into ComfyUI's base of all previewers."""
    methods = ("decode_latent_to_preview", "decode_latent_to_preview_image")
    return not all(is_own_function(getattr(LatentPreviewer, name)) for name in methods)


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


DECODERS = {
    "Flux2": "taef2_decoder",
    "HunyuanVideo": "taehv",
    "Wan21": "lighttaew2_1",
    "Wan22": "lighttaew2_2",
    "LTXAV": "taeltx_2",
}
"""By latent format, decoders that there are and that some versions of ComfyUI do not name."""


def decoder_name(latent_format: Any) -> str | None:
    """How the name of the format's file in models/vae_approx begins; None where there is none."""
    name = getattr(latent_format, "taesd_decoder_name", None)
    return DECODERS.get(type(latent_format).__name__) if name is None else name


def decoder_file(latent_format: Any) -> str | None:
    """The path of the format's file in models/vae_approx, as ComfyUI picks it."""
    name = decoder_name(latent_format)
    file = None if name is None else _file_of_decoder(name)
    return None if file is None else folder_paths.get_full_path("vae_approx", file)


def _file_of_decoder(name: str) -> str | None:
    files = folder_paths.get_filename_list("vae_approx")
    return next((file for file in files if file.startswith(name)), None)


def latent_channels(latent_format: Any) -> int:
    """The channels of the format's pictures.

    Of formats for video with sound ComfyUI gives the larger number of the two; the factors are
    those of the pictures, unless they are for latents that have another shape then.
    """
    factors = latent_format.latent_rgb_factors
    if factors is None or getattr(latent_format, "latent_rgb_factors_reshape", None) is not None:
        return int(latent_format.latent_channels)
    return len(factors)


SCALES = {
    "SC_Prior": 42,
    "SC_B": 4,
    "SD_X4": 4,
    "Flux2": 16,
    "LTXV": 32,
    "Wan22": 16,
    "HunyuanImage21": 32,
    "HunyuanImage21Refiner": 16,
    "HunyuanVideo15": 16,
    "ChromaRadiance": 1,
}
"""By latent format, pixels for each latent pixel where that is not `SCALE`: ComfyUI says it of
some, in its newer versions."""

SCALE = 8


def picture_scale(latent_format: Any) -> int:
    """Pixels of the final picture for each latent pixel: those of the nearest class known."""
    for kind in type(latent_format).__mro__:
        stated = vars(kind).get("spacial_downscale_ratio", SCALES.get(kind.__name__))
        if stated is not None:
            return int(stated)
    return SCALE


VIDEOS = {
    "Wan21": Video(16, 4),
    "Wan22": Video(24, 4),
    "HunyuanVideo": Video(24, 4),
    "HunyuanVideo15": Video(24, 4),
    "LTXV": Video(25, 8),
    "Mochi": Video(24, 6),
    "Cosmos1CV8x8x8": Video(24, 8),
    "CogVideoX": Video(8, 4),
    "CogVideoX1_5": Video(16, 4),
    "MiniMaxH3Video": Video(24, 4),
}
"""By latent format, the frame rate that its models are made for: ComfyUI does not say."""


def video(latent_format: Any) -> Video:
    """How the format's videos play; that of the nearest class that is known."""
    known = (VIDEOS.get(kind.__name__) for kind in type(latent_format).__mro__)
    found = next((each for each in known if each), Video())
    ratio = getattr(latent_format, "temporal_downscale_ratio", None)
    return found if not ratio else Video(found.fps, ratio)


SOUNDS = {"ACEAudio"}
"""Latent formats of sound that have rows, and so two dimensions as pictures have them."""


def is_sound(latent_format: Any) -> bool:
    """Whether its latents are no pictures: sound, or others with one dimension and channels."""
    if getattr(latent_format, "latent_dimensions", 2) == 1:
        return True
    return any(kind.__name__ in SOUNDS for kind in type(latent_format).__mro__)


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


def method_of_prompt(extra_data: Mapping[str, Any]) -> str | None:
    """The method that was sent with a prompt, which ComfyUI takes for that prompt alone."""
    method = extra_data.get("preview_method")
    return None if method == "default" else method


def _given_on_command_line(option: str) -> bool:
    if not comfy.options.args_parsing:
        return False
    absent = object()
    # argparse fills in a default only where the namespace has no value yet.
    namespace = argparse.Namespace(**{option: absent})
    comfy.cli_args.parser.parse_known_args(sys.argv[1:], namespace)
    return getattr(namespace, option) is not absent


# --- VAEs ---------------------------------------------------------------------------------------


class Shared:
    """What all copies of a MODEL share: ComfyUI copies a MODEL's options to their depths."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __deepcopy__(self, memo: object) -> Shared:
        return self


def leave_vae(model: Any, vae: Any) -> None:
    """Put a VAE to preview by on a MODEL."""
    model.model_options[VAE_KEY] = Shared(vae)


def left_vae(model: Any) -> Any:
    """The VAE that `leave_vae` put on a MODEL; None where it did not."""
    left = getattr(model, "model_options", {}).get(VAE_KEY)
    return left.content if isinstance(left, Shared) else None


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
            str(error) or type(error).__name__,
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


# --- for the report -----------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file in one of ComfyUI's folders."""

    name: str
    bytes: int


def approximation(name: str) -> File | None:
    """The file in models/vae_approx that is taken for the decoder `name`; None where none is."""
    file = _file_of_decoder(name)
    path = None if file is None else folder_paths.get_full_path("vae_approx", file)
    return None if path is None else File(str(file), os.path.getsize(path))


def decoder_names() -> dict[str, list[str]]:
    """All that ComfyUI's latent formats call their decoders, each with the formats."""
    names: dict[str, list[str]] = {}
    for kind in vars(comfy.latent_formats).values():
        if isinstance(kind, type) and issubclass(kind, comfy.latent_formats.LatentFormat):
            name = decoder_name(kind())
            if name is not None:
                names.setdefault(name, []).append(kind.__name__)
    return names


def folders() -> dict[str, str]:
    """ComfyUI's folders, each with what to call it."""
    own = (folder_paths.base_path, os.path.dirname(folder_paths.__file__))
    named = dict.fromkeys(own, "ComfyUI")
    for name, (paths, *_) in folder_paths.folder_names_and_paths.items():
        for path in paths:
            # What lies within goes by its path from there.
            if not path.startswith(tuple(os.path.join(folder, "") for folder in own)):
                named[path] = f"<{name}>"
    return named | {os.path.realpath(path): label for path, label in named.items()}


def page_version() -> str:
    """The version of ComfyUI's page, as far as it is known."""
    args = comfy.cli_args.args
    if getattr(args, "front_end_root", None):
        return "from a folder of its own"
    try:
        version = importlib.metadata.version("comfyui-frontend-package")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    chosen = getattr(args, "front_end_version", None)
    is_usual = chosen in (None, getattr(comfy.cli_args, "DEFAULT_VERSION_STRING", None))
    return version if is_usual else f"{chosen}, installed {version}"


def sampling_device() -> str:
    """The device on which models sample, for people to read."""
    management = comfy.model_management
    return str(management.get_torch_device_name(management.get_torch_device()))


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
            keep_queue_short(socket.connection)
            await self._server.send_bytes(event, data, socket.id)

    async def send_json(self, event: str, data: dict[str, Any], socket: Socket) -> None:
        if self._server.sockets.get(socket.id) is socket.connection:
            await self._server.send_json(event, data, socket.id)

    def _knows_metadata(self, sid: str) -> bool:
        # As the client sent it: ComfyUI keeps whatever JSON that was.
        flags = self._server.sockets_metadata.get(sid, {}).get("feature_flags")
        return isinstance(flags, Mapping) and flags.get("supports_preview_metadata") is True


def keep_queue_short(connection: Any) -> None:
    """Let the system keep little that the network has not taken yet, where it can be told so.

    By itself it keeps megabytes, and what a slow client sees would be many seconds old.
    """
    option = getattr(sockets, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with contextlib.suppress(AttributeError, OSError):
            raw = connection.get_extra_info("socket")
            raw.setsockopt(sockets.IPPROTO_TCP, option, UNSENT)
