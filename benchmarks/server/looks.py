"""Looks at runs in a server: the correct pictures to compare with, and their use of memory."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import frames, prompts
from .session import Session

REFERENCE_DECODERS = ("taesd", "latent2rgb")
POLL = 0.05  # seconds between two readings of the memory


def references(session: Session, unet: str, split: bool = False) -> dict[str, Any]:
    """By decoder and step, the correct pictures; under `latent`, the hash of the run's latent."""
    asked = session.asked
    with tempfile.TemporaryDirectory(prefix="sidestream-bench-") as folder:
        prompt = prompts.measured(
            "SideStreamBenchReferences",
            unet,
            asked.size(unet),
            session.nonce(),
            split,
            steps=asked.steps,
            folder=folder,
        )
        run = session.run(prompt, {"method": "off"})
        right: dict[str, Any] = {
            decoder: frames.references(Path(folder), decoder) for decoder in REFERENCE_DECODERS
        }
        right["latent"] = session.result(run, prompts.SAMPLER)["latent"]
    return right


@contextlib.contextmanager
def watched_memory(session: Session) -> Iterator[list[dict[str, int]]]:
    """Yields a list that in the end has each GPU's most reserved and least free memory."""
    seen: list[dict[str, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(POLL):
            for index, gpu in enumerate(session.memory()):
                if index == len(seen):
                    seen.append({"most_reserved": 0, "least_free": gpu["free"]})
                each = seen[index]
                each["most_reserved"] = max(each["most_reserved"], gpu["most_reserved"])
                each["least_free"] = min(each["least_free"], gpu["free"])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def megabytes(count: int) -> float:
    """Bytes as MB of 2^20."""
    return round(count / 2**20, 1)
