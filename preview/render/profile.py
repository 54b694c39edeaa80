"""Named ranges for a profiler, if the environment variable SIDESTREAM_NVTX is set."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

ENABLED = bool(os.environ.get("SIDESTREAM_NVTX"))


def span(name: str) -> AbstractContextManager[object]:
    """A range `sidestream <name>` around a block, for Nsight Systems and torch's profiler."""
    if not ENABLED:
        return nullcontext()
    return torch.cuda.nvtx.range(f"sidestream {name}")
