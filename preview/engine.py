"""One worker for each device: takes the newest staged frame, decodes, encodes, hands it over.

Why nothing here can make the sampler wait: the sampler's thread and the worker share two things,
the mailbox and the free slots. Each is guarded by a lock that is held for a few assignments and
never across a copy, a wait, an encode, a send or another lock, so whoever asks for it gets it at
once. Why no slot is written while it is read: a slot is in one place at a time, either free, or
with the sampler's thread that took it, or in the mailbox, or with the worker. It returns to the
free ones from the mailbox, where nobody has begun to read it, or from the worker, which has then
waited for the end of the reading. The one write that may still be under way when a slot is taken
again is that of a frame replaced in the mailbox; `Lane.stage` orders the new write after it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from . import devices, encode, runs
from .animator import BUDGET_SHARE, Animator
from .decoders import DecoderCache, Painting, shown_size
from .decoders.picture import near_square
from .lane import Lane, Slot, lane_for
from .profile import span
from .runs import FIRST_IMAGE, Frame, Run
from .throttle import Budget

log = logging.getLogger(__name__)

IDLE_SECONDS = 8.0
SLOTS = 4  # one being read, one waiting, one being written, one that a film is made of


class Sink(Protocol):
    """Where finished frames go."""

    def watched(self, run: Run) -> bool:
        """Whether anybody is there to see this run."""

    def ready(self, run: Run) -> bool:
        """Whether a frame handed over now would be sent at once."""

    def live(self, run: Run) -> bool:
        """Whether frames of this run may still be shown."""

    def animates(self, run: Run) -> bool:
        """Whether anybody is there who can show animated frames of this run."""

    def format(self, run: Run) -> str:
        """How to encode frames of this run: a key of `encode.TYPES`."""

    def quiet(self) -> bool:
        """Whether nothing samples, so that memory may go back to the device."""

    def send(self, frame: Frame) -> None:
        """Take over an encoded frame, and close it in the end. Raises nothing."""


class Mailbox:
    """Room for one frame. A newer frame takes the place of the one that waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frame: Frame | None = None
        self._closed = False
        # Wakes the taker up; to notify a Condition takes the sampler four times as long.
        self._changes: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, frame: Frame) -> Frame | None:
        """Leave `frame`; returns the one that it replaces, or `frame` itself once closed."""
        with self._lock:
            if self._closed:
                return frame
            replaced, self._frame = self._frame, frame
        self.poke()
        return replaced

    def take(self, wanted: Callable[[Frame], bool], timeout: float) -> Frame | None:
        """Wait up to `timeout` seconds for a frame for which `wanted` holds."""
        end = time.monotonic() + timeout
        while not self._closed:
            frame = self.remove(wanted)
            if frame is not None:
                return frame
            try:
                self._changes.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
        return None

    def remove(self, wanted: Callable[[Frame], bool]) -> Frame | None:
        """Take out the waiting frame where `wanted` holds for it."""
        waiting = self._frame
        if waiting is None or not wanted(waiting):
            return None
        with self._lock:
            if self._frame is not waiting:  # a newer one, whose `put` wakes the taker again
                return None
            self._frame = None
        return waiting

    def poke(self) -> None:
        """Make the taker look again."""
        if self._changes.empty():
            self._changes.put(None)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.poke()

    @property
    def closed(self) -> bool:
        return self._closed


class Slots:
    """The staging slots of a device, `SLOTS` for each kind of latent that came by."""

    KINDS = 4

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._free: dict[tuple[torch.Size, torch.dtype], list[Slot]] = {}
        self._lock = threading.Lock()

    def take(self, shape: torch.Size, dtype: torch.dtype) -> Slot | None:
        """A free slot, or None where all are in use."""
        kind = (shape, dtype)
        with self._lock:
            free = self._free.get(kind)
            if free is not None:
                return free.pop() if free else None
        made = [self._lane.slot(shape, dtype) for _ in range(SLOTS)]
        taken = made.pop()
        with self._lock:
            self._free[kind] = made
            self._trim(keep=self.KINDS)
        return taken

    def give_back(self, slot: Slot) -> None:
        with self._lock:
            free = self._free.get((slot.latent.shape, slot.latent.dtype))
            if free is not None and len(free) < SLOTS:
                free.append(slot)

    def clear(self) -> None:
        with self._lock:
            self._trim(keep=0)

    def _trim(self, keep: int) -> None:
        # Oldest first; memory that a copy is still on its way to stays.
        for kind in list(self._free)[: max(0, len(self._free) - keep)]:
            if all(self._lane.settled(slot) for slot in self._free[kind]):
                del self._free[kind]


class Engine:
    """The worker of one device."""

    def __init__(self, lane: Lane, decoders: DecoderCache, sink: Sink) -> None:
        self.lane = lane
        self.budget = Budget()
        self._decoders = decoders
        self._sink = sink
        self._slots = Slots(lane)
        self._mailbox = Mailbox()
        self._in_work = 0
        self._warm: Painting | None = None
        self._animator = Animator(lane, sink, self._slots.give_back)
        name = f"SideStream {lane.device}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def capture(
        self, run: Run, latent: torch.Tensor, images: range = FIRST_IMAGE
    ) -> Frame | None:
        """Stage `latent` as the frame of the run's current step; None if it is not wanted.

        `images` are the indices in the sampler's batch of those that are shown, which come first
        in `latent`. Never waits. Called on the sampler's thread, under the stream that the sampler
        uses; the frame must be given to `publish`, best when the sampler's callback has nothing
        left to do, because the worker that it wakes competes with the sampler for Python's lock.
        """
        now = runs.now()
        budget: float = run.settings.budget
        if self._animator.busy:
            budget *= 1 - BUDGET_SHARE
        if not self.budget.allows(now, budget, self._in_work):
            return None
        frame = run.capture(now, images)
        try:
            frame.slot = self._slots.take(latent.shape, run.ladder.staging_dtype(self.lane.device))
            if frame.slot is not None and self.lane.stage(frame.slot, latent):
                return frame
        except BaseException:
            self._drop(frame, runs.FAILED)
            raise
        self._drop(frame, runs.BUSY)
        return None

    def publish(self, frame: Frame) -> None:
        """Let the worker have a captured frame, in the place of an older one that it had not."""
        replaced = self._mailbox.put(frame)
        if replaced is not None:
            self._drop(replaced, runs.REPLACED)

    def poke(self) -> None:
        """A socket has become free."""
        self._mailbox.poke()

    def status(self) -> dict[str, Any]:
        now = runs.now()
        share = self.budget.share(now) + self._animator.budget.share(now)
        return {
            "device": str(self.lane.device),
            "lane": type(self.lane).__name__,
            "share": round(share, 4),
        }

    def close(self, timeout: float = 1.0) -> None:
        """Stop the worker; waits at most `timeout` seconds for what it is doing."""
        self._mailbox.close()
        self._thread.join(timeout)

    def _drop(self, frame: Frame, outcome: str) -> None:
        if frame.slot is not None:
            self._slots.give_back(frame.slot)
            frame.slot = None
        frame.close(outcome)

    def _work(self) -> None:
        animator = self._animator
        with self.lane.working(), torch.inference_mode():
            while not self._mailbox.closed:
                patience = animator.patience() if animator.busy else IDLE_SECONDS
                frame = self._mailbox.take(lambda frame: self._sink.ready(frame.run), patience)
                if frame is None and not animator.busy:
                    self._rest()
                    continue
                self._in_work = 1
                try:
                    if frame is not None:
                        # The sampler's device may be a whole step behind its callbacks.
                        while not self._has_landed(frame) and animator.advance():
                            pass
                        self._process(frame)
                    animator.advance()
                finally:
                    self._in_work = 0

    def _has_landed(self, frame: Frame) -> bool:
        return frame.slot is None or self.lane.settled(frame.slot)

    def _rest(self) -> None:
        stale = self._mailbox.remove(lambda frame: not self._sink.live(frame.run))
        if stale is not None:
            self._drop(stale, runs.LATE)
        self._slots.clear()
        if self._sink.quiet():
            self._animator.forget()
            self._warm = None
            self.lane.release()
            self._decoders.release(self.lane.device)

    def _process(self, frame: Frame) -> None:
        """Carry one frame from its slot to the sink."""
        try:
            if not self._sink.live(frame.run):
                self._drop(frame, runs.LATE)
            elif not self._sink.watched(frame.run):
                self._drop(frame, runs.UNWATCHED)
            elif not self._decode(frame):
                self._drop(frame, runs.FAILED)
            else:
                with span("encode"):
                    encode.encode_frame(frame, self._sink.format(frame.run))
                self._sink.send(frame)
        except Exception:
            log.exception("[SideStream] A preview failed; sampling goes on.")
            self._drop(frame, runs.FAILED)

    def _decode(self, frame: Frame) -> bool:
        """Fill in the picture, stepping down the ladder as long as rungs fail."""
        slot, ladder, settings = frame.slot, frame.run.ladder, frame.run.settings
        max_size = frame.run.max_size
        assert slot is not None
        while (source := ladder.current) is not None:
            try:
                decoder = self._decoders.get(source, self.lane.device)
                full = settings.detail == "full"
                images = 1 if settings.batch == "animation" else len(frame.images)
                painting = Painting(decoder, max_size, full, images)
                (picture, holes), seconds = self.lane.render(slot, painting)
            except Exception as error:
                ladder.step_down(source, error)
                continue
            now = runs.now()
            if painting == self._warm:
                self.budget.spend(now, seconds)
            # A first decode makes things ready, and tells nothing of the next one.
            self._warm = painting
            frame.ready_at = now - seconds
            frame.picture = picture
            frame.holes = int(holes)
            frame.run.not_finite += frame.holes > 0
            frame.size = shown_size(decoder, slot.latent[:images], max_size)
            frame.grid = near_square(images) if images > 1 else None
            frame.decoder = source.name
            frame.decode_ms = seconds * 1000
            if not self._animator.begin(frame, decoder):
                self._slots.give_back(slot)
            frame.slot = None
            return True
        return False


class Engines:
    """The engines, one for each way from a sampler's device to a painter's, made when needed."""

    def __init__(self, decoders: DecoderCache, sink: Sink) -> None:
        self._decoders = decoders
        self._sink = sink
        self._engines: dict[tuple[torch.device, torch.device], Engine] = {}
        self._lock = threading.Lock()

    def of(self, source: torch.device, wanted: str = "auto") -> Engine:
        """The engine for what is sampled on `source`, painting where the setting `device` says."""
        key = (source, devices.resolved(wanted, source))
        engine = self._engines.get(key)
        if engine is None:
            with self._lock:
                engine = self._engines.get(key)
                if engine is None:
                    engine = Engine(lane_for(key[1], source), self._decoders, self._sink)
                    self._engines[key] = engine
        return engine

    def all(self) -> list[Engine]:
        return list(self._engines.values())

    def poke(self) -> None:
        for engine in self.all():
            engine.poke()

    def close(self) -> None:
        for engine in self.all():
            engine.close()
