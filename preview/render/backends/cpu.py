"""Decoding on the CPU: latents that are there anyway, or copies made by the sampler's thread."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch

from .base import Arrays, Job, Slot
from .staging import CopyStaging


class CpuBackend(CopyStaging):
    """The worker only uses the CPU, whatever device the sampler uses."""

    def __init__(self, source: torch.device) -> None:
        self.source = source
        self.device = torch.device("cpu")
        self.name = "CPU" if source.type == "cpu" else "CPU, copied by the sampler's thread"

    def working(self) -> AbstractContextManager[object]:
        return nullcontext()

    def render(self, slot: Slot, job: Job) -> tuple[Arrays, float]:
        # The thread's CPU time, without what it spent waiting on a busy machine.
        start = time.thread_time()
        results = tuple(each.numpy() for each in job(slot.latent))
        return results, time.thread_time() - start

    def release(self) -> None:
        """Nothing is kept."""
