"""How much longer blocks of steps with previews take than their neighbours without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .plan import NONE

RESAMPLES = 4000
SEED = 1


def rows(result: dict[str, Any], compared: Sequence[str], seed: int = SEED) -> list[dict[str, Any]]:
    """A row for each provider; the first round, which includes warm-up, is left out."""
    blocks = result["blocks"][2 * len(compared) :]
    found = []
    for name in (NONE, *compared):
        own = [block for block in blocks if block["provider"] == name]
        row: dict[str, Any] = {"provider": name, "blocks": len(own)}
        if name in result["left_out"]:
            row["left_out"] = result["left_out"][name]
        elif own:
            steps = len(own[0]["callbacks_ms"])
            callbacks = np.concatenate([block["callbacks_ms"] for block in own])
            row["ms_per_step"] = float(np.median([b["seconds"] for b in own]) / steps * 1000)
            row["callback_p50_ms"] = float(np.percentile(callbacks, 50))
            row["callback_p99_ms"] = float(np.percentile(callbacks, 99))
            row["frames"] = sum(block.get("frames", 0) for block in own)
            row["steps"] = len(own) * (steps + 1)
            if name != NONE:
                row |= ratio(*pairs(blocks, name), seed)
        found.append(row)
    return found


def pairs(blocks: list[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The seconds of a provider's blocks, and for each the mean of its neighbours."""
    own, beside = [], []
    for index in range(1, len(blocks) - 1):
        if blocks[index]["provider"] == name:
            own.append(blocks[index]["seconds"])
            around = (blocks[index - 1]["seconds"], blocks[index + 1]["seconds"])
            beside.append(sum(around) / 2)
    return np.array(own), np.array(beside)


def ratio(own: np.ndarray, beside: np.ndarray, seed: int = SEED) -> dict[str, Any]:
    """The ratio of the total times with and without previews, and the median ratio of the pairs;
    each with its 95 % interval, by a circular block bootstrap."""
    if len(own) < 2:
        return {}
    # Neighbouring pairs may have a block without previews in common, so they are drawn together.
    count = len(own)
    together = np.arange(round(count ** (1 / 3)))
    draws = -(-count // len(together))
    begins = np.random.default_rng(seed).integers(0, count, (RESAMPLES, draws, 1))
    chosen = (begins + together).reshape(RESAMPLES, -1)[:, :count] % count
    sums = own[chosen].sum(1) / beside[chosen].sum(1)
    medians = np.median((own / beside)[chosen], axis=1)
    return {
        "pairs": count,
        "ratio": float(own.sum() / beside.sum()),
        "ratio_95": interval(sums),
        "median_ratio": float(np.median(own / beside)),
        "median_ratio_95": interval(medians),
    }


def interval(values: np.ndarray) -> list[float]:
    """The interval of the middle 95 %."""
    return [float(np.percentile(values, percent)) for percent in (2.5, 97.5)]


def count_frames(result: dict[str, Any], frames: Sequence[tuple[int | None, float]]) -> None:
    """Record how many frames were made in each block.

    A frame is given by the step on its label (None for ComfyUI's, which have no label) and the time
    of its arrival, by `time.monotonic`.
    """
    blocks = result["blocks"]
    begun = [block["began"] for block in blocks]
    first_steps = [block["step"] for block in blocks]
    for step, moment in frames:
        if step is not None:
            index = int(np.searchsorted(first_steps, step, "right")) - 1
        else:
            index = int(np.searchsorted(begun, moment, "right")) - 1
            if index > 0 and blocks[index]["provider"] == NONE:
                index -= 1  # it arrived late: this block makes none
        if index >= 0:
            blocks[index]["frames"] = blocks[index].get("frames", 0) + 1
