"""One worker for each device: takes the newest staged frame, decodes, encodes, hands it over.

Why nothing here can make the sampler wait: the sampler's thread and the worker share the mailbox,
the free slots and the counts of a run. Each is guarded by a lock of its own that is held for a few
assignments, in the slots' case also for asking the device which copies are done, and never across
a copy, a wait, a decode, an encode, a send or a call to anybody else, so whoever asks for it gets
it at once. The worker waits for work in a queue, holding none of them; that an empty queue is
filled is all that it takes to wake it. Loading a decoder, which may take seconds, holds no lock
either.

Why no slot is written while it is read: a slot is in one place at a time, either free, or with the
sampler's thread that took it, or in the mailbox, or with the worker. The worker has one slot for
the still picture that it makes, and may leave it to the animator, which keeps it over all parts of
a film. A slot returns to the free ones from the sampler's thread or the mailbox, where nobody has
begun to read it, or from the worker or its animator, who have then waited for the end of the
reading or, where it failed, show nothing of what was read. The one write that may still be under
way when a slot is taken again is that of a frame that was dropped unread; `Lane.stage` orders the
new write after it.

Nothing that fails here may end the worker. What its ladder, its encoder and its animator do not
contain is caught in `Engine._work`, which drops what was in work and begins anew.
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
from .decoders.cache import DecoderCache
from .decoders.errors import in_a_line
from .decoders.painting import Painting, shown_size
from .decoders.picture import near_square
from .lane import Lane, Slot, lane_for
from .profile import span
from .runs import FIRST_IMAGE, Frame, Run
from .throttle import Budget

log = logging.getLogger(__name__)

IDLE_SECONDS = 8.0
SLOTS = 4  # one being read, one waiting, one being written, one that a film is made of
REFUSED_SECONDS = 1.0
"""How long no memory for slots is asked for where there was none. To say no, a device's allocator
first gives back what it keeps for the sampler, which would have to be fetched anew each time."""


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
        self._wake()
        return replaced

    def take(self, wanted: Callable[[Frame], bool], timeout: float) -> Frame | None:
        """Wait up to `timeout` seconds for a frame for which `wanted` holds."""
        end = time.monotonic() + timeout
        while not self._closed:
            frame = self.remove(wanted)
            if frame is not None:
                return frame
            if not self.pause(end - time.monotonic()):
                return None
        return None

    def pause(self, seconds: float) -> bool:
        """Wait for a change; False where there was none in so many seconds."""
        try:
            self._changes.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return False
        return True

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
        """Make the taker look again at what waits. Without need it would cost the sampler time."""
        if self._frame is not None:
            self._wake()

    def _wake(self) -> None:
        if self._changes.empty():
            self._changes.put(None)

    def close(self) -> Frame | None:
        """Take and give nothing more; returns the frame that was left."""
        with self._lock:
            self._closed = True
            left, self._frame = self._frame, None
        self._wake()
        return left

    @property
    def closed(self) -> bool:
        return self._closed


class Slots:
    """The staging slots of a device, `SLOTS` for each kind of latent that came by."""

    KINDS = 4

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._free: dict[tuple[torch.Size, torch.dtype], list[Slot]] = {}
        self._refused_until = float("-inf")
        self._lock = threading.Lock()

    def take(self, shape: torch.Size, dtype: torch.dtype) -> Slot | None:
        """A free slot, or None where all are in use.

        Raises what the device says where it has no memory; for `REFUSED_SECONDS` it is None then.
        """
        kind = (shape, dtype)
        with self._lock:
            free = self._free.get(kind)
            if free is not None:
                return free.pop() if free else None
        if time.monotonic() < self._refused_until:
            return None
        try:
            made = [self._lane.slot(shape, dtype) for _ in range(SLOTS)]
        except Exception:
            self._refused_until = time.monotonic() + REFUSED_SECONDS
            raise
        with self._lock:
            free = self._free.setdefault(kind, made)  # another sampler may have been first
            taken = free.pop() if free else None
            self._trim(keep=self.KINDS)
        return taken

    def give_back(self, slot: Slot) -> None:
        with self._lock:
            self._free[slot.latent.shape, slot.latent.dtype].append(slot)

    def clear(self) -> None:
        with self._lock:
            self._trim(keep=0)

    def _trim(self, keep: int) -> None:
        # Oldest first; memory that a copy is on its way to stays, and a kind that is in use.
        for kind in list(self._free)[: max(0, len(self._free) - keep)]:
            free = self._free[kind]
            if len(free) == SLOTS and all(self._lane.settled(slot) for slot in free):
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
        self._frame: Frame | None = None  # in work, until it has found its end
        self._faltered = False
        self._warm: Painting | None = None
        self._animator = Animator(lane, sink, self._slots.give_back)
        name = f"SideStream {lane.device}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def capture(self, run: Run, latent: torch.Tensor, images: range = FIRST_IMAGE) -> Frame | None:
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
        except Exception as error:
            self._lose(frame, error)
            return None
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

    @property
    def alive(self) -> bool:
        """Whether the worker is there."""
        return self._thread.is_alive()

    def close(self, timeout: float = 1.0) -> None:
        """Stop the worker; waits at most `timeout` seconds for what it is doing."""
        self.shut()
        self._thread.join(timeout)

    def shut(self) -> None:
        """Let the worker stop when it has done what it is doing."""
        left = self._mailbox.close()
        if left is not None:
            self._drop(left, runs.LATE)

    def _lose(self, frame: Frame, error: BaseException) -> None:
        """Drop a frame for something that no other rung would do better; said once a run."""
        self._drop(frame, runs.FAILED)
        if not frame.run.lossy:
            frame.run.lossy = True
            log.warning(
                "[SideStream] A preview failed (%s); sampling goes on. More such failures of this"
                " run are not told.",
                in_a_line(error),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )

    def _drop(self, frame: Frame, outcome: str) -> None:
        if frame.slot is not None:
            self._slots.give_back(frame.slot)
            frame.slot = None
        frame.close(outcome)

    def _work(self) -> None:
        """The worker's thread: serves, and after a failure that nothing contained begins anew."""
        try:
            while not self._mailbox.closed:
                try:
                    with self.lane.working(), torch.inference_mode():
                        self._serve()
                except BaseException as error:  # a SystemExit too: it is meant for no one else
                    self._recover(error)
            self._animator.forget()
        finally:
            self.shut()  # a sampler that goes on leaves nothing where nobody takes it

    def _recover(self, error: BaseException) -> None:
        """Clear up after `error`. A run that it strikes twice goes on without previews."""
        run = self._struck()
        if run is None:
            if self._mailbox.closed:  # it failed at leaving its streams
                return
            if not self._faltered:
                self._faltered = True
                log.error("[SideStream] The worker failed at rest (%s).", in_a_line(error))
            self._mailbox.pause(IDLE_SECONDS)
            return
        run.strikes += 1
        if run.strikes > 1:
            run.abort()
        log.error(
            "[SideStream] The worker failed (%s) and begins anew; this run goes on %s previews.",
            in_a_line(error),
            "without" if run.aborted else "with",
            exc_info=log.isEnabledFor(logging.DEBUG),
        )

    def _struck(self) -> Run | None:
        """Drop what the worker failed at, and say whose it was."""
        frame, self._frame = self._frame, None
        run = frame.run if frame is not None else self._animator.run
        self._animator.forget()
        if run is None:
            # Maybe it failed at asking whether the frame that waits may be taken.
            frame = self._mailbox.remove(lambda frame: True)
        if frame is not None:
            run = frame.run
            self._drop(frame, runs.FAILED)
        return run

    def _serve(self) -> None:
        animator = self._animator
        while not self._mailbox.closed:
            patience = animator.patience() if animator.busy else IDLE_SECONDS
            frame = self._mailbox.take(lambda frame: self._sink.ready(frame.run), patience)
            if frame is None and not animator.busy:
                self._rest()
                continue
            self._frame, self._in_work = frame, 1
            try:
                if frame is not None:
                    self._process(frame)
                    self._frame = None
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
            # The sampler's device may be a whole step behind its callbacks.
            while not self._has_landed(frame) and self._animator.advance():
                pass
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
        except Exception as error:
            self._lose(frame, error)

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
            # A first decode makes things ready, and tells nothing of the next one.
            if painting == self._warm:
                self.budget.spend(now, seconds)
            else:
                self.budget.renew()
            self._warm = painting
            frame.ready_at = now - seconds
            frame.picture = picture
            frame.holes = int(holes)
            frame.run.not_finite += frame.holes > 0
            shown = (images, *slot.latent.shape[1:])
            frame.size = shown_size(decoder, shown, max_size)
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
        self._closed = False
        self._lock = threading.Lock()

    def of(self, source: torch.device, wanted: str = "auto") -> Engine:
        """The engine for what is sampled on `source`, painting where the setting `device` says."""
        key = (source, devices.resolved(wanted, source))
        engine = self._engines.get(key)
        if engine is None or not engine.alive:
            with self._lock:
                engine = self._engines.get(key)
                if engine is None or not engine.alive:
                    engine = Engine(lane_for(key[1], source), self._decoders, self._sink)
                    self._engines[key] = engine
                    if self._closed:  # a sampler that began before: its frames are dropped
                        engine.shut()
        return engine

    def all(self) -> list[Engine]:
        return list(self._engines.values())

    def poke(self) -> None:
        for engine in self.all():
            engine.poke()

    def close(self) -> None:
        with self._lock:
            self._closed = True
        engines = self.all()
        for engine in engines:
            engine.shut()
        end = time.monotonic() + 1.0  # for all together
        for engine in engines:
            engine.close(max(0.0, end - time.monotonic()))
