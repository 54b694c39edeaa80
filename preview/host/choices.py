"""What somebody chose in ComfyUI: how to preview, and how large."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import comfy.cli_args
import comfy.options


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
    """The method that was sent with a prompt, which ComfyUI takes for that prompt alone.

    None where none was sent, or none that ComfyUI knows.
    """
    method = extra_data.get("preview_method")
    known = [each.value for each in type(comfy.cli_args.args.preview_method)]
    return method if method in known else None


def _given_on_command_line(option: str) -> bool:
    if not comfy.options.args_parsing:
        return False
    absent = object()
    # argparse fills in a default only where the namespace has no value yet.
    namespace = argparse.Namespace(**{option: absent})
    comfy.cli_args.parser.parse_known_args(sys.argv[1:], namespace)
    return getattr(namespace, option) is not absent
