"""Between the sampler's thread and the worker: a place for the newest frame."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ..records import Label, Picture
from .backends import BackendError
from .slots import Snapshot, Station

Frame = Snapshot | Picture
"""What waits for the worker; a `Picture` was made elsewhere."""

HELD_SECONDS = 0.05
"""How often to check whether the node of a held frame has ended."""


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


class Mailbox:
    """Holds the newest frame, and the last one of a run that has ended.

    A newer frame replaces the waiting one unless that is the last of its run, which nothing would
    replace on screen. One such frame waits beside a newer run's frame and goes first, and so does
    the noise that a sampling starts from.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: Frame | None = None
        self._newest: Frame | None = None
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
                    replaced, self._last = self._last, replaced
                elif before.step == 0 and self._last is None:
                    replaced, self._last = None, replaced  # there is no other chance to show it
                elif label.held and not before.held and label.run.id == before.run.id:
                    # It replaces one that was to be shown.
                    self._newest = labelled(frame, label._replace(held=False))
        self._wake()
        return replaced

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
        for waiting in (self._last, self._newest):
            if waiting is None or not wanted(waiting):
                continue
            with self._lock:
                if waiting is self._last:
                    self._last = None
                    return waiting
                if waiting is self._newest:
                    self._newest = None
                    return waiting
                # Replaced in the meantime, by a `put` that wakes the taker again.
        return None

    @property
    def holds(self) -> bool:
        """Whether a frame waits for the end of its node."""
        return any(frame is not None and frame.label.held for frame in (self._last, self._newest))

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
        if self._newest is not None or self._last is not None:
            self._wake()

    def _wake(self) -> None:
        if self._changes.empty():
            self._changes.put(None)

    def close(self) -> list[Frame]:
        """Accept and return no more frames; returns those that were waiting."""
        with self._lock:
            self._closed = True
            left = [frame for frame in (self._last, self._newest) if frame is not None]
            self._last = self._newest = None
        self._wake()
        return left

    @property
    def closed(self) -> bool:
        return self._closed
