"""Files of weights, and the type to use them in."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping

import torch

from .errors import DecoderError

Precision = Callable[[torch.device], torch.dtype]
"""The fastest type that convolutions on a device are right in."""

UNFILLED = torch.device("meta")
"""Within it layers are made without weights. Else they would be filled with random numbers, drawn
from the generator that a sampler draws its noise from at the same time."""


def float32_everywhere(device: torch.device) -> torch.dtype:
    """The precision to choose where nothing is known of the device."""
    return torch.float32


def modified_at(path: str) -> float:
    """When a file was last changed, in seconds since 1970; 0 where that cannot be told."""
    try:
        return os.path.getmtime(path)
    except OSError:  # reading it says what is wrong
        return 0.0


def read_weights(path: str) -> Mapping[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file, on the CPU. Raises DecoderError.

    Files are read as weights only: nothing in them is executed.
    """
    try:
        if path.endswith((".safetensors", ".sft")):
            from safetensors.torch import load_file  # shipped with ComfyUI

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DecoderError(f"{path} is gone") from error
    except OSError as error:  # the disk's fault, which may pass
        failure = DecoderError(f"{path} cannot be read: {error}")
        failure.lasting = False
        raise failure from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        raise DecoderError(f"{path} is damaged or no file of weights") from error
    except Exception as error:  # safetensors has an error class of its own
        raise DecoderError(f"{path} cannot be read: {error}") from error
    if not isinstance(weights, Mapping):
        raise DecoderError(f"{path} holds no weights by name")
    return weights
