"""Where this ComfyUI lies, which page it shows, what it samples on, and what was chosen in it.

The method is one global value, `args.preview_method`, whose silent default, none, looks like the
choice of none. Packs with a menu of their own set it for the sampling of one node and put it back,
at times to something else than it was. So it is noted who set it: by the value alone such a choice
could not be told from the default, nor from what was left behind.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import ipaddress
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.options
import folder_paths
import torch

from ..plain import NAME, plain


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


def private_file(name: str) -> Path:
    """A file of the pack's own, in a folder that ComfyUI serves to nobody."""
    return Path(folder_paths.get_user_directory()) / "__sidestream" / name


def network_address() -> str | None:
    """The address by which other machines reach ComfyUI; None if it listens to this one alone."""
    for part in str(comfy.cli_args.args.listen).split(","):
        try:
            address = ipaddress.ip_address(part.strip())
        except ValueError:  # a name
            continue
        if address.is_unspecified:
            return _own_address()
        if not address.is_loopback:
            return f"[{address}]" if address.version == 6 else str(address)
    return None


def _own_address() -> str | None:
    """The IPv4 address that this machine has in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address of nobody; UDP sends nothing to connect
        except OSError:
            return None
        return str(probe.getsockname()[0])


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


def precision(device: torch.device) -> torch.dtype:
    """The fastest type in which convolutions are right on `device`, as ComfyUI knows it."""
    if device.type in ("cuda", "xpu"):
        if comfy.model_management.should_use_fp16(device):
            return torch.float16
        if comfy.model_management.should_use_bf16(device):
            return torch.bfloat16
    return torch.float32


def author(thing: object) -> str:
    """Who wrote a function, or the class of an object: the pack's name, for people to read.

    A function goes by the file of its code: a wrapper often bears the names of what it wraps.
    """
    code = getattr(thing, "__code__", None)
    if code is None:
        kind = thing if isinstance(thing, type) else type(thing)
        return short_name(kind.__module__)
    path = code.co_filename.replace("\\", "/")
    _, found, below = path.rpartition("/custom_nodes/")
    name = below.split("/") if found else path.split("/")[-1:]
    return plain(name[0].removesuffix(".py"), NAME)


def short_name(module: str) -> str:
    """How to call a module in public: one of a pack by the pack, without the path to it.

    ComfyUI names the modules of packs by their paths.
    """
    path = module.replace("\\", "/")
    if "/" not in path:
        return plain(path, NAME)
    _, found, below = path.rpartition("/custom_nodes/")
    # Within a pack's folder its modules follow, with dots between them.
    pack = below.partition("/")[0] if found else path.rpartition("/")[2]
    return plain(pack.partition(".")[0].replace("_x_", "."), NAME)


NONE = "none"
Place = tuple[str, str]
"""A prompt and a node of it."""


@dataclass(frozen=True)
class Setting:
    """`args.preview_method` was set to `value`."""

    value: str
    before: str
    where: Place | None
    """By the code of this node; None for what is of no node, as a menu of the page."""
    times: int = 1
    """How often that node has set it by now."""


_last: Setting | None = None


def _here() -> Place | None:
    """The node that is executed on this thread."""
    # Here, as the report asks for the method where such a module is missing, too.
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    return None if context is None else (context.prompt_id, context.node_id)


def _note(before: Any, value: Any) -> None:
    global _last
    where = _here()
    again = _last is not None and where is not None and _last.where == where
    times = _last.times + 1 if again and _last is not None else 1
    _last = Setting(_name(value), _name(before), where, times)


def _name(method: Any) -> str:
    return str(getattr(method, "value", method))


def watch_method() -> tuple[type, type] | None:
    """Note from now on who sets the method. Returns what `unwatch_method` needs."""
    global _last
    _last = None
    args = comfy.cli_args.args
    kind = type(args)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "preview_method":
                _note(getattr(self, name, None), value)
            super().__setattr__(name, value)

        def __reduce_ex__(self, protocol: Any) -> Any:  # a copy is not watched
            return kind, (), dict(vars(self))

    try:
        args.__class__ = Watched
    except TypeError:  # an object of another build
        return None
    return kind, Watched


def unwatch_method(watched: tuple[type, type] | None) -> None:
    """Note nothing more, unless somebody else has changed the arguments' class since."""
    if watched is not None:
        kind, ours = watched
        args = comfy.cli_args.args
        if type(args) is ours:
            args.__class__ = kind


def preview_size() -> int:
    """ComfyUI's --preview-size, in pixels."""
    return int(getattr(comfy.cli_args.args, "preview_size", 512))


def chosen_method(extra_data: Mapping[str, Any]) -> str | None:
    """The preview method that somebody chose for the node at work; None where nobody did.

    One of none, auto, latent2rgb, taesd.
    """
    method = _name(comfy.cli_args.args.preview_method)
    if method != NONE:
        return method
    said, last = _said(extra_data), _last
    if last is None or last.value != NONE or last.where is None:
        # A menu of the page that goes back to none; not the default that ComfyUI or a pack at its
        # start sets once more.
        by_menu = last is not None and last.before != NONE and not _knows_prompts()
        return NONE if said is not None or by_menu else None
    if last.where == _here():
        return NONE
    # Of a node that is over: set once it was meant to stay, more often it was put back.
    return NONE if last.times == 1 else said


def _said(extra_data: Mapping[str, Any]) -> str | None:
    """The method that came with the prompt or was given at the start; None where none was."""
    by_prompt = method_of_prompt(extra_data)
    if by_prompt == NONE or (by_prompt is not None and _knows_prompts()):
        return by_prompt
    at_start = _of_command_line()
    if at_start is None:
        default = _name(getattr(_latent_preview(), "default_preview_method", NONE))
        return None if default == NONE else default
    return at_start


def _knows_prompts() -> bool:
    """Whether this ComfyUI sets the method anew for each prompt."""
    return hasattr(_latent_preview(), "set_preview_method")


def _latent_preview() -> Any:
    return sys.modules.get("latent_preview")


def method_of_prompt(extra_data: Mapping[str, Any]) -> str | None:
    """The method that was sent with a prompt, which ComfyUI takes for that prompt alone.

    None where none was sent, or none that ComfyUI knows.
    """
    method = extra_data.get("preview_method")
    known = [each.value for each in type(comfy.cli_args.args.preview_method)]
    return method if method in known else None


def _of_command_line() -> str | None:
    """The method that was given on the command line."""
    if not comfy.options.args_parsing:
        return None
    absent = object()
    # argparse fills in a default only where the namespace has no value yet.
    namespace = argparse.Namespace(preview_method=absent)
    comfy.cli_args.parser.parse_known_args(sys.argv[1:], namespace)
    return None if namespace.preview_method is absent else _name(namespace.preview_method)
