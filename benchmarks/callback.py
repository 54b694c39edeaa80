"""Where the time of a callback goes, on the sampler's thread: `python -m benchmarks.callback`.

Samples SD1.5's shape with a preview at every step and a clock around each part. The clocks have a
cost, too, so the sum exceeds what `python -m benchmarks` measures.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from . import program


class Clocks:
    """Times parts that call each other, excluding the parts that each one calls."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = defaultdict(list)  # µs, one per call
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
        self._undo.append(lambda: setattr(owner, name, original) if own else delattr(owner, name))

    def off(self) -> None:
        """Remove all clocks."""
        while self._undo:
            self._undo.pop()()

    def report(self) -> dict[str, float]:
        """The median of each part, in µs, the longest first."""
        medians = {part: round(median(values), 1) for part, values in self.spent.items()}
        return dict(sorted(medians.items(), key=lambda item: -item[1]))


def profiled(tree: Path, repetitions: int) -> dict[str, Any]:
    """The parts' medians, launch-bound and GPU-bound, and the whole callback's without clocks."""
    from . import __main__ as entry

    server, pack, _ = entry.enter_with_pack(tree)
    import torch
    from sidestream.benchmarks import measure, models, providers
    from sidestream.preview import host
    from sidestream.preview.capture import previewer, runs
    from sidestream.preview.render import mailbox, slots, worker
    from sidestream.preview.render.backends.device import StreamDevice
    from sidestream.preview.render.backends.staging import StreamStaging

    device = torch.device("cuda", 0)
    model = models.build("sd15", device)
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    for name in ("sd15-launch", "sd15"):
        case = dataclasses.replace(models.CASES[name], steps=30)
        sampling = measure.Sampling(case, model, server, device)
        sampling.run(providers.EVERY_STEP)
        runs_of = [sampling.run(providers.EVERY_STEP)[1] for _ in range(repetitions)]
        whole = [(end - start) * 1e6 for callbacks in runs_of for start, end in callbacks]
        clocks = Clocks()
        for owner, attribute, part in [
            (previewer.Previewer, "decode_latent_to_preview_image", "the provider's own"),
            (previewer.Previewer, "_hand_over", "the provider's own, handing over"),
            (runs.Run, "wants", "throttle"),
            (pack._transport, "watched", "is the client there"),
            (host.sampling, "latent_frame", "which latent"),
            (previewer, "staged", "which images"),
            (worker.Engine, "capture", "the engine's own"),
            (runs.Run, "capture", "new frame"),
            (slots.Slots, "acquire", "slot"),
            (mailbox.Mailbox, "put", "mailbox, and waking the worker"),
            (StreamDevice, "current_stream", "which stream"),
            (StreamDevice, "is_recording", "is a graph being recorded"),
            (StreamStaging, "stage", "the copy's launch"),
            (torch.cuda.Event, "record", "recording the event"),
        ]:
            clocks.on(owner, attribute, part)
        for _ in range(repetitions):
            sampling.run(providers.EVERY_STEP)
        clocks.off()
        result[name] = {"callback_p50_us": round(median(whole), 1), "parts_us": clocks.report()}
    measure.settle(server)
    pack.close()
    return result


def main() -> None:
    """Measure, print and save."""
    program.run("callback", __doc__, profiled, repetitions=3)


if __name__ == "__main__":
    main()
