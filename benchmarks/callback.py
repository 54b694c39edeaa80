"""Where the time of a callback goes, on the sampler's thread: `python -m benchmarks.callback`.

Samples SD1.5's shape at a preview a step with a clock around each part. The clocks cost something
too, so that the sum is above what `python -m benchmarks` measures.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any


class Clocks:
    """Times parts that call each other, each without the parts that it calls."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = defaultdict(list)  # µs, one for each call
        self._inner: list[float] = []
        self._undo: list[Callable[[], None]] = []

    def on(self, owner: Any, name: str, part: str) -> None:
        """Time `owner.name` as `part`, until `off`."""
        original = getattr(owner, name)
        own = name in vars(owner)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return original(*args, **kwargs)
            finally:
                whole = (time.perf_counter() - start) * 1e6
                self.spent[part].append(whole - self._inner.pop())
                if self._inner:
                    self._inner[-1] += whole

        setattr(owner, name, timed)
        self._undo.append(
            lambda: setattr(owner, name, original) if own else delattr(owner, name)
        )

    def off(self) -> None:
        """Take all clocks away."""
        while self._undo:
            self._undo.pop()()

    def report(self) -> dict[str, float]:
        """The median of each part, in µs, the longest first."""
        medians = {part: round(median(values), 1) for part, values in self.spent.items()}
        return dict(sorted(medians.items(), key=lambda item: -item[1]))


def profiled(tree: Path, repetitions: int) -> dict[str, Any]:
    """The parts' medians, launch-bound and GPU-bound, and the whole callback's with no clocks."""
    from . import __main__ as entry

    entry.name_the_pack()
    from sidestream.benchmarks import measure, models, providers, standin

    server = standin.install()
    entry.enter_comfyui(tree)
    pack, engines = entry.install_pack(server)
    import torch
    from sidestream.preview import engine, host, lane, provider, runs

    device = torch.device("cuda", 0)
    model = models.build("sd15", device)
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name in ("sd15-launch", "sd15"):
        case = dataclasses.replace(models.CASES[name], steps=30)
        sampling = measure.Sampling(case, model, server, device)
        sampling.run(providers.EVERY_STEP)
        whole = [s * 1e6 for _ in range(repetitions) for s in sampling.run(providers.EVERY_STEP)[1]]
        clocks = Clocks()
        stage = lane.CudaStaging
        for owner, attribute, part in [
            (provider.Previewer, "decode_latent_to_preview_image", "the provider's own"),
            (provider.Previewer, "_hand_over", "the provider's own, handing over"),
            (runs.Run, "wants", "throttle"),
            (pack._transport, "watched", "is the client there"),
            (host, "latent_frame", "which latent"),
            (provider, "staged", "which images"),
            (engine.Engine, "capture", "the engine's own"),
            (runs.Run, "capture", "new frame"),
            (engine.Slots, "take", "slot"),
            (engine.Mailbox, "put", "mailbox, and waking the worker"),
            (stage, "_current_stream", "which stream"),
            (torch.cuda.Event, "record", "recording the event"),
        ]:
            clocks.on(owner, attribute, part)
        for each in engines.all():  # a bound method, kept by the lane
            clocks.on(each.lane, "stage", "the copy's launch, and is a graph being recorded")
        for _ in range(repetitions):
            sampling.run(providers.EVERY_STEP)
        clocks.off()
        result[name] = {"callback_p50_us": round(median(whole), 1), "parts_us": clocks.report()}
    measure.settle(server)
    pack.close()
    return result


def main() -> None:
    """Profile, print and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.callback", description=__doc__)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a file for the result")
    arguments = parser.parse_args()
    if arguments.comfyui is None:
        parser.error("say with --comfyui where ComfyUI is")
    command = shlex.join(["python", "-m", "benchmarks.callback", *sys.argv[1:]])
    about = {"date": time.strftime("%Y-%m-%d"), "command": command}
    result = about | profiled(arguments.comfyui, arguments.repetitions)
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
