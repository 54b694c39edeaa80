"""What is kept for the node 'Side-Stream Frames': of which samplings, how much, and for how long.

Like ComfyUI's own cache, it finds a sampling by what its node's output depends on (`host.prompts`),
so there are pictures even if the sampler did not have to run again. Prompts without the node are
not recorded, and the first sampling of such a prompt discards what was kept.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..render.recording import STEPS_RATE, Kept, Limit, Recording, evenly

NODE = "SideStreamFrames"
"""The node's class in prompts."""

FRAMES = (128, 1, 4096)
MEGABYTES = (1024, 16, 65536)
"""Default, minimum and maximum of the node's fields."""

Place = tuple[str | None, str | None, int]
"""A prompt, its node, and the number of the call."""

UNKNOWN, EMPTY, LATE = "unknown", "empty", "late"
"""Why some or all pictures are missing: no such sampling is known, it had no previews, they took
too long."""


class Frames(NamedTuple):
    """The node's result."""

    kept: list[Kept]
    rate: float = STEPS_RATE
    why: str = ""
    """Why some or all pictures are missing."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A recording, and how to find it."""

    recording: Recording
    signatures: frozenset[str]
    list_index: int
    """Which call of its node it is, if that is called for each item of a list."""
    model: Callable[[], Any]


class Recordings:
    """The recordings; the oldest are dropped first."""

    MOST = 8  # nodes
    MOST_BYTES = 2**30

    def __init__(self) -> None:
        self._samplings: OrderedDict[Place, Recorded] = OrderedDict()
        self._lock = threading.Lock()

    def begin(
        self,
        place: Place,
        signatures: Sequence[str],
        limit: Limit,
        model: Any = None,
    ) -> Recording:
        """The recording for a sampling at `place`.

        It is the same one if the node samples several times in a call, but not for another graph in
        a prompt of the same id.
        """
        held: Callable[[], Any] = _nothing
        with contextlib.suppress(TypeError):  # None, or a class without weak references
            held = weakref.ref(model)
        with self._lock:
            known = self._samplings.get(place)
            if known is not None and signatures[0] in known.signatures:
                return known.recording
            made = Recorded(Recording(limit), frozenset(signatures), place[2], held)
            for key, old in list(self._samplings.items()):
                # ComfyUI drops its result of that sampling now, too.
                if old.list_index == place[2] and signatures[0] in old.signatures:
                    del self._samplings[key]
            self._samplings[place] = made
            while len(self._samplings) > 1 and self._is_full():
                self._samplings.popitem(last=False)
            return made.recording

    def _is_full(self) -> bool:
        nodes = {(prompt_id, node_id) for prompt_id, node_id, _ in self._samplings}
        taken = sum(each.recording.bytes for each in self._samplings.values())
        return len(nodes) > self.MOST or taken > self.MOST_BYTES

    def clear(self) -> None:
        """Drop all recordings, as a prompt without the node is sampling."""
        with self._lock:
            self._samplings.clear()

    def find(self, upstream: Iterable[str], list_index: int, model: Any = None) -> Recording | None:
        """The first known recording of the samplings `upstream`, by their signatures.

        Those of `model` are preferred, if it is given.
        """
        with self._lock:
            known = [each for each in self._samplings.values() if each.list_index <= list_index]
        # The newest of the same call; or the last, if the sampler was called less often.
        known = sorted(known, key=lambda each: each.list_index)[::-1]
        nearest = None
        for signature in upstream if known else ():
            for each in known:
                if signature not in each.signatures:
                    continue
                if model is None or each.model() is model:
                    return each.recording
                nearest = nearest or each
        return None if nearest is None else nearest.recording


def _nothing() -> None:
    """Stands for a reference to nothing."""


def limit_of(fields: Mapping[str, Any]) -> Limit:
    """The limit in a node's fields in a prompt; the default for linked ones."""

    def whole(name: str, default: int, least: int, most: int) -> int:
        value = default
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # a link, or its value
            value = int(fields.get(name, default))
        return max(least, min(value, most))

    return Limit(whole("max_frames", *FRAMES), whole("max_megabytes", *MEGABYTES))


def frames_of(
    recording: Recording | None, limit: Limit, tell: Callable[[int, int], None]
) -> Frames:
    """Wait for the pictures of a recording; `tell` is called with how many are done, of how many.

    An exception from `tell` ends the wait.
    """
    if recording is None:
        return Frames([], why=UNKNOWN)
    engine = recording.engine
    if recording.waits and engine is not None and engine.problem is None and engine.alive:
        engine.develop(recording)
        for done, total in recording.made():
            tell(done, total)
    recording.forget_shots()
    pictures, why = recording.pictures, LATE if recording.is_incomplete else ""
    if not pictures:
        return Frames([], why=why or EMPTY)
    return Frames(evenly(pictures, limit.of(pictures[-1].size)), recording.rate, why)
