"""What blocks of steps with previews take over their neighbours without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .plan import NONE

RESAMPLES = 4000
SEED = 1


def rows(result: dict[str, Any], compared: Sequence[str], seed: int = SEED) -> list[dict[str, Any]]:
    """One row for each provider; the first round, in which all is made ready, is left out."""
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
    """The seconds of a provider's blocks, and the mean of the neighbours of each."""
    own, beside = [], []
    for index in range(1, len(blocks) - 1):
        if blocks[index]["provider"] == name:
            own.append(blocks[index]["seconds"])
            around = (blocks[index - 1]["seconds"], blocks[index + 1]["seconds"])
            beside.append(sum(around) / 2)
    return np.array(own), np.array(beside)


def ratio(own: np.ndarray, beside: np.ndarray, seed: int = SEED) -> dict[str, Any]:
    """All time with previews over all without, and the median of the pairs; each with the interval
    in which 95 % of the bootstrap's resamples lie."""
    if len(own) < 2:
        return {}
    chosen = np.random.default_rng(seed).integers(0, len(own), (RESAMPLES, len(own)))
    sums = own[chosen].sum(1) / beside[chosen].sum(1)
    medians = np.median((own / beside)[chosen], axis=1)
    return {
        "pairs": len(own),
        "ratio": float(own.sum() / beside.sum()),
        "ratio_95": interval(sums),
        "median_ratio": float(np.median(own / beside)),
        "median_ratio_95": interval(medians),
    }


def interval(values: np.ndarray) -> list[float]:
    """Where the middle 95 % lie."""
    return [float(np.percentile(values, percent)) for percent in (2.5, 97.5)]


def count_frames(result: dict[str, Any], arrivals: Sequence[float]) -> None:
    """Note in each block how many frames arrived (on the clock of `time.monotonic`) in it."""
    begun = [block["began"] for block in result["blocks"]]
    for moment in arrivals:
        index = int(np.searchsorted(begun, moment)) - 1
        if index >= 0:
            block = result["blocks"][index]
            block["frames"] = block.get("frames", 0) + 1
