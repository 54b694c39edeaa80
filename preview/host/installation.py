"""This ComfyUI: its folders and files, its page, its device, and the chosen preview method."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.cli_args
import comfy.model_management
import comfy.options
import folder_paths
import torch

from .. import decoder_files
from ..plain import NAME, plain

# --- folders and files --------------------------------------------------------------------------


def folders() -> dict[str, str]:
    """ComfyUI's folders, each with a label."""
    own = (folder_paths.base_path, os.path.dirname(folder_paths.__file__))
    named = dict.fromkeys(own, "ComfyUI")
    for name, (paths, *_) in folder_paths.folder_names_and_paths.items():
        for path in paths:
            # Folders inside ComfyUI's own are shown by their relative paths.
            if not path.startswith(tuple(os.path.join(folder, "") for folder in own)):
                named[path] = f"<{name}>"
    return named | {os.path.realpath(path): label for path, label in named.items()}


def private_file(name: str) -> Path:
    """A file of the pack, in a folder that ComfyUI does not serve."""
    return Path(folder_paths.get_user_directory()) / "__sidestream" / name


FOLDER = decoder_files.FOLDER
WRONG_FOLDER = "vae"


def decoder_file(*names: str) -> str | None:
    """The path of the first decoder file that has one of `names`; None if there is none.

    Raises OSError if the folder cannot be read.
    """
    files = _files(FOLDER)
    file = next((file for name in names for file in decoder_files.named(files, name)), None)
    return None if file is None else folder_paths.get_full_path(FOLDER, file)


def misplaced_decoder(*names: str) -> str | None:
    """Where a file with one of `names` lies that ComfyUI does not find; None if there is none.

    For example in models/vae, or in a subfolder of models/vae_approx.
    """
    for folder in (FOLDER, WRONG_FOLDER):
        with contextlib.suppress(OSError, KeyError):
            for file in _files(folder):
                place, own_name = os.path.split(file)
                is_one = any(True for name in names for _ in decoder_files.named([own_name], name))
                if is_one and (place or folder != FOLDER):
                    return f"models/{folder}/{file}".replace(os.sep, "/")
    return None


def other_decoder_files(known: Iterable[str]) -> list[str]:
    """The files in models/vae_approx that no preview uses, except encoders.

    `known` are the names of all formats' decoders. Raises OSError if the folder cannot be read.
    """
    files = _files(FOLDER)
    used = {next(decoder_files.named(files, name), "") for name in known}
    return [file for file in files if file not in used and "encoder" not in file.lower()]


def _files(folder: str) -> list[str]:
    """The files in one of ComfyUI's model folders and its subfolders."""
    return list(folder_paths.get_filename_list(folder))


# --- network, page and device -------------------------------------------------------------------


def network_address() -> str | None:
    """The address at which other machines reach ComfyUI; None if it only listens to this one."""
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
    """This machine's IPv4 address in its network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a reserved address; connecting by UDP sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


def page_version() -> str:
    """The version of ComfyUI's page, as far as it is known."""
    args = comfy.cli_args.args
    if getattr(args, "front_end_root", None):
        return "from a custom folder"
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
    """The fastest dtype in which convolutions are accurate on `device`, according to ComfyUI."""
    if device.type in ("cuda", "xpu"):
        if comfy.model_management.should_use_fp16(device):
            return torch.float16
        if comfy.model_management.should_use_bf16(device):
            return torch.bfloat16
    return torch.float32


# --- names of other packs -----------------------------------------------------------------------


def author(thing: object) -> str:
    """The pack that a function, or the class of an object, comes from, for people to read.

    A function is judged by the file of its code: wrappers often have the names of what they wrap.
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
    """A name for a module without any path: that of its pack, if it belongs to one.

    ComfyUI names the modules of packs after their paths.
    """
    path = module.replace("\\", "/")
    if "/" not in path:
        return plain(path, NAME)
    _, found, below = path.rpartition("/custom_nodes/")
    # After the pack's folder come its modules, separated by dots.
    pack = below.partition("/")[0] if found else path.rpartition("/")[2]
    return plain(pack.partition(".")[0].replace("_x_", "."), NAME)


# --- the preview method -------------------------------------------------------------------------
#
# The method is one global value, `args.preview_method`. Its default, none, looks just like a choice
# of none, and packs with a menu of their own set it for the sampling of one node and then put it
# back, sometimes to another value. So we note who sets it: the value alone does not tell a choice
# from the default, or from what was left behind.

NONE = "none"
Place = tuple[str, str]
"""The id of a prompt, and of one of its nodes."""


@dataclass(frozen=True)
class Setting:
    """`args.preview_method` was set to `value`."""

    value: str
    before: str
    where: Place | None
    """The node whose code set it; None if it was no node, but a menu of the page, for example."""
    times: int = 1
    """How often that node has set it so far."""


_last: Setting | None = None


def _here() -> Place | None:
    """The node that is being executed on this thread."""
    # Imported here, because the report needs the method even if such a module is missing.
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
    """Note from now on who sets the method. `unwatch_method` takes the result."""
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
    except TypeError:  # an object whose class cannot be changed
        return None
    return kind, Watched


def unwatch_method(watched: tuple[type, type] | None) -> None:
    """Stop noting, unless somebody else has changed the arguments' class since."""
    if watched is not None:
        kind, ours = watched
        args = comfy.cli_args.args
        if type(args) is ours:
            args.__class__ = kind


def preview_size() -> int:
    """ComfyUI's --preview-size, in pixels."""
    return int(getattr(comfy.cli_args.args, "preview_size", 512))


def chosen_method(extra_data: Mapping[str, Any]) -> str | None:
    """The preview method that somebody chose for the running node; None if nobody did.

    One of none, auto, latent2rgb, taesd.
    """
    method = _name(comfy.cli_args.args.preview_method)
    if method != NONE:
        return method
    said, last = _said(extra_data), _last
    if last is None or last.value != NONE or last.where is None:
        # A menu of the page was set back to none; ComfyUI, or a pack at its start, that sets the
        # default once more is no choice.
        by_menu = last is not None and last.before != NONE and not _knows_prompts()
        return NONE if said is not None or by_menu else None
    if last.where == _here():
        return NONE
    # By a node that has ended: if it set the method once, that was meant to stay; if more than
    # once, the last time put it back.
    return NONE if last.times == 1 else said


def _said(extra_data: Mapping[str, Any]) -> str | None:
    """The method that came with the prompt or was given at the start; None if there was none."""
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
    """The method that was sent with a prompt, which ComfyUI uses for that prompt only.

    None if none was sent, or one that ComfyUI does not know.
    """
    return _known(extra_data.get("preview_method"))


def _known(method: Any) -> str | None:
    """`method`, if ComfyUI knows it; otherwise None."""
    known = [each.value for each in type(comfy.cli_args.args.preview_method)]
    return method if method in known else None


def _of_command_line() -> str | None:
    """The method that was given on the command line."""
    if not comfy.options.args_parsing:
        return None
    # Packs that run scripts replace the command line. ComfyUI's parser would end this thread if it
    # does not understand theirs.
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preview-method", nargs="?")
    return _known(parser.parse_known_args(sys.argv[1:])[0].preview_method)
