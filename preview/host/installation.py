"""Where this ComfyUI lies, which page it shows and what it samples on."""

from __future__ import annotations

import importlib.metadata
import os

import comfy.cli_args
import comfy.model_management
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
