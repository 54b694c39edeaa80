"""What each stage of a frame costs a launch-bound sampler: `python -m benchmarks.stages`.

Every second step has a preview, which is dropped after one of its stages. A step is timed from the
start of its callback to that of the next one, so it includes everything that is done for its frame.
The median of the steps with a frame is compared with that of the steps in between: changes of the
machine's speed affect both alike, while entire runs differ by more than a frame costs.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from . import program

STAGES = ("captured", "decoded", "encoded")
STEPS = 42
WARM_UP = 2  # steps at the beginning of each run that are not counted, nor is one at its end


@contextmanager
def cut_off(pack: Any, after: str) -> Iterator[None]:
    """SideStream's previews, with frames dropped once they are captured, decoded or encoded."""
    from sidestream.benchmarks import providers
    from sidestream.preview import records
    from sidestream.preview.deliver import encode
    from sidestream.preview.records import Encoded
    from sidestream.preview.render import worker

    def unpublished(engine: Any, frame: Any) -> None:
        worker.drop(frame, records.LATE)

    def unencoded(picture: Any, kind: str) -> Encoded:
        return Encoded(picture.label, picture.info, b"", "")

    def unsent(frame: Any) -> None:
        frame.label.close(records.LATE)

    with ExitStack() as changed:
        if after == "captured":
            changed.enter_context(mock.patch.object(worker.Engine, "publish", unpublished))
        if after == "decoded":
            changed.enter_context(mock.patch.object(encode, "encode", unencoded))
        changed.enter_context(mock.patch.object(pack._transport, "send", unsent))
        with providers.sidestream(pack):
            yield


def alternating(starts: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of the steps with a frame, and of the step after each.

    `starts` are when the callbacks of a run began, in seconds; the first one has a frame.
    """
    steps = np.diff(starts)[WARM_UP:-1] * 1000
    pairs = len(steps) // 2
    return steps[: 2 * pairs : 2], steps[1 : 2 * pairs : 2]


def row(name: str, runs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The summary of `runs` of one kind: medians, their difference and its 90 % interval.

    The bootstrap draws pairs of neighbours, so that the interval excludes what both have in common.
    """
    having = np.concatenate([one for one, _ in runs])
    without = np.concatenate([other for _, other in runs])
    draws = np.random.default_rng(0).integers(0, len(having), (1000, len(having)))
    spread = np.median(having[draws], axis=1) - np.median(without[draws], axis=1)
    low, high = np.percentile(spread, [5, 95])
    between = float(np.median(without))
    extra = float(np.median(having)) - between
    return {
        "stage": name,
        "steps": 2 * len(having),
        "without_ms": round(between, 2),
        "extra_ms": round(extra, 2),
        "low_ms": round(float(low), 2),
        "high_ms": round(float(high), 2),
        "extra_percent": round(100 * extra / between, 1),
    }


def measured(tree: Path, repetitions: int) -> dict[str, Any]:
    """Runs of every kind, repeatedly in a new random order, with the ComfyUI in `tree`."""
    from . import __main__ as entry

    server, pack, _ = entry.enter_with_pack(tree)
    pack._provider.uninstall()
    import torch
    from sidestream.benchmarks import measure, models, providers

    device = torch.device("cuda", 0)
    case = dataclasses.replace(models.CASES["sd15-launch"], steps=STEPS)
    sampling = measure.Sampling(case, models.build(case.unet, device), server, device)
    every_second = {**providers.EVERY_STEP, "every_n_steps": 2}
    kinds: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "no previews": partial(providers.host_method, "none"),
        **{f"{stage} only": partial(cut_off, pack, stage) for stage in STAGES},
        "all of it": partial(providers.sidestream, pack),
    }
    seen: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in kinds}
    order = random.Random(0)
    for repetition in range(-1, repetitions):
        for name in order.sample(list(kinds), len(kinds)):
            with kinds[name]():
                _, callbacks = sampling.run(every_second)
                measure.settle(server)
            server.pictures.clear()
            if repetition >= 0:
                seen[name].append(alternating([start for start, _ in callbacks]))
    pack.close()
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "case": case.name,
        "repetitions": repetitions,
        "rows": [row(name, runs) for name, runs in seen.items()],
        "pairs_ms": {
            name: [np.stack(each, axis=1).round(3).tolist() for each in runs]
            for name, runs in seen.items()
        },
    }


def main() -> None:
    """Measure, print and save."""
    program.run("stages", __doc__, measured, repetitions=20)


if __name__ == "__main__":
    main()
