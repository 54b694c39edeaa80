"""Between the sampler's thread and the worker: a place for the newest frame, and two for others."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from ..records import Label, Picture
from .backends import BackendError
from .slots import Snapshot, Station

Frame = Snapshot | Picture
"""What waits for the worker; a `Picture` was made elsewhere."""

HELD_SECONDS = 0.05
"""How often to check whether the node of a held frame has ended."""
KEPT = 2
"""How many frames may wait beside the newest one."""


class StationError(Exception):
    """Staging failed at a station, which the worker may have replaced since."""

    def __init__(self, station: Station, reason: BackendError) -> None:
        super().__init__(str(reason))
        self.station, self.reason = station, reason


def labelled(frame: Frame, label: Label) -> Frame:
    """`frame` with another label."""
    if isinstance(frame, Picture):
        return replace(frame, label=label)
    return frame._replace(label=label)


def ends_well_before(waiting: Label, newer: Label) -> bool:
    """Whether `waiting` is the last frame of its run, which succeeded before `newer`'s began."""
    run = waiting.run
    if waiting.held and run.id == newer.run.id:
        return False  # the node continues to sample
    over = run.ended or waiting.step >= waiting.total_steps
    return over and not run.aborted


def has_its_turn(waiting: Label, newer: Label) -> bool:
    """Whether `waiting` is to be shown although a `newer` frame is there: every step is wanted."""
    settings = waiting.run.settings
    wants_every_step = settings.throttle_ms == settings.budget == 0
    return wants_every_step and waiting.run is newer.run and not waiting.held


class Mailbox:
    """Holds the newest frame, and up to `KEPT` older ones, which go first.

    A newer frame replaces the waiting one, unless that is the last of its run, which nothing would
    replace on screen, or the noise that a sampling starts from, or if every step is wanted: then a
    delay, as by the first decode, costs none. But a worker that does not catch up afterwards, since
    its decoder or its client is slower than the sampler, gets the newest one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Frame] = deque()
        self._newest: Frame | None = None
        self._to_keep = KEPT
        """How many frames may still be kept until the worker has caught up."""
        self._error: StationError | None = None
        self._closed = False
        self._has_other_work = False
        # Wakes the taker; notifying a Condition would take the sampler four times as long.
        self._changes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, frame: Frame) -> Frame | None:
        """Leave `frame`; returns the one that it replaces, or `frame` itself if closed."""
        with self._lock:
            if self._closed:
                return frame
            replaced, self._newest = self._newest, frame
            if replaced is not None:
                label, before = frame.label, replaced.label
                if before.run is not label.run and ends_well_before(before, label):
                    self._kept.append(replaced)
                    replaced = self._surplus()
                elif before.step == 0 and len(self._kept) < KEPT:
                    self._kept.append(replaced)  # there is no other chance to show it
                    replaced = None
                elif has_its_turn(before, label) and len(self._kept) < KEPT and self._to_keep:
                    self._to_keep -= 1
                    self._kept.append(replaced)
                    replaced = None
                elif label.held and not before.held and label.run.id == before.run.id:
                    # It replaces one that was to be shown.
                    self._newest = labelled(frame, label._replace(held=False))
        self._wake()
        return replaced

    def _surplus(self) -> Frame | None:
        """Remove one of too many kept frames: rather one that is not its run's last."""
        if len(self._kept) <= KEPT:
            return None
        runs = [frame.label.run for frame in self._kept]
        followed = (i for i, run in enumerate(runs) if run in runs[i + 1 :])
        gone = self._kept[next(followed, 0)]
        self._kept.remove(gone)
        return gone

    def take(self, wanted: Callable[[Frame], bool], timeout: float) -> Frame | None:
        """Wait up to `timeout` seconds, or until `interrupt`, for a frame for which `wanted` holds.

        Also None if there is other work. Raises the error that `fail` left.
        """
        end = time.monotonic() + timeout
        while not self._closed:
            if self._has_other_work:
                self._has_other_work, end = False, 0.0
            error, self._error = self._error, None
            if error is not None:
                raise error
            frame = self.remove(wanted)
            if frame is not None:
                return frame
            left = end - time.monotonic()
            if not self.pause(min(left, HELD_SECONDS) if self.holds else left) and left <= 0:
                return None
        return None

    def pause(self, seconds: float) -> bool:
        """Wait for a change; False if there was none within that time."""
        try:
            self._changes.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        return True

    def remove(self, wanted: Callable[[Frame], bool]) -> Frame | None:
        """Take out a waiting frame for which `wanted` holds, the older one first."""
        everything = self.waiting
        if not everything:
            self._to_keep = KEPT
        refused: list[object] = []
        for waiting in everything:
            run = waiting.label.run
            if run in refused:
                continue  # what was refused an older frame must not get a newer one before it
            if not wanted(waiting):
                refused.append(run)
                continue
            with self._lock:
                if waiting in self._kept:
                    self._kept.remove(waiting)
                    return waiting
                if waiting is self._newest:
                    self._newest = None
                    return waiting
                # Replaced in the meantime, by a `put` that wakes the taker again.
        return None

    @property
    def waiting(self) -> list[Frame]:
        """The waiting frames, the oldest first."""
        with self._lock:
            return self._all()

    def _all(self) -> list[Frame]:
        return [*self._kept, *([] if self._newest is None else [self._newest])]

    @property
    def holds(self) -> bool:
        """Whether a frame waits for the end of its node."""
        return any(frame.label.held for frame in self.waiting)

    def fail(self, error: StationError) -> None:
        """Let the taker know that staging failed, so that it switches to another backend."""
        self._error = error
        self._wake()

    def interrupt(self) -> None:
        """Stop the taker's wait: there is other work."""
        self._has_other_work = True
        self._wake()

    def notify(self) -> None:
        """Make the taker check the waiting frames again, if there are any."""
        if self._newest is not None or self._kept:
            self._wake()

    def _wake(self) -> None:
        if self._changes.empty():
            self._changes.put(None)

    def close(self) -> list[Frame]:
        """Accept and return no more frames; returns those that were waiting."""
        with self._lock:
            self._closed = True
            left = self._all()
            self._kept.clear()
            self._newest = None
        self._wake()
        return left

    @property
    def closed(self) -> bool:
        return self._closed
