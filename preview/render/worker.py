"""The worker: takes the newest staged frame, decodes it, encodes it and hands it over.

Why nothing here can make the sampler wait: the sampler's thread and the worker share the mailbox,
the free slots and a run's counters. Each has its own lock, which is held for a few assignments (for
the slots, also while asking the device which copies are done), and never across a copy, a wait, a
decode, an encode, a send or a call to other code; so it is always available at once. The worker
waits for work on a queue and holds no lock meanwhile; putting something into the empty queue wakes
it. Loading a decoder, which may take seconds, holds no lock either.

Why no slot is written while it is read: a slot is free or has a single holder, who has its `Lease`:
the sampler's thread that acquired it, the `Snapshot` made from it, the worker, or the animator,
which takes over the one from which it makes an animation. The sampler's thread and the mailbox only
close leases of slots that nobody has started to read. The worker and its animator close them after
the reading has ended; if it failed, they show nothing of it. Only the write of a frame that was
dropped unread may still be in progress when its slot is acquired again; `Backend.stage` orders the
new write after it.

No failure here may kill the worker. What the fallback chain, the encoder and the animator don't
contain is caught in `Engine._work`, which drops the current work and starts over. If the backend
itself fails, the worker switches to the next one; after the last, `Engine.problem` says why, and
previews are left to ComfyUI's own previewer.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .. import records
from ..decoders.cache import DecoderCache
from ..decoders.picture import near_square
from ..decoders.protocols import Decoder, Source
from ..deliver import encode
from ..plain import in_a_line
from ..records import FIRST_IMAGE, Info, Picture
from . import quicker
from .animation import BUDGET_SHARE, Animator, is_played
from .backends import Backend, BackendError, Slot, StagingError, check
from .budget import Budget
from .convergence import Convergence, sigma_of
from .developer import Developer
from .job import RenderJob, shown_size
from .mailbox import Frame, Mailbox, StationError, labelled
from .profile import span
from .protocols import Run, Sink
from .quicker import Way
from .recording import Recording, Shot
from .slots import Lease, Snapshot, Station
from .sound import BUDGET_SHARE as SOUND_SHARE
from .sound import Sounder, SoundSnapshot

log = logging.getLogger(__name__)

IDLE_SECONDS = 8.0
RECORDINGS = 16
"""The newest recordings, whose pictures are made when nothing samples."""
HANG_SECONDS = 60.0
"""A worker is given up after this long on one task. Loading a large file may take a while."""


class Engine:
    """The worker for one pair of a sampler's and a decoder's device."""

    def __init__(
        self, backends: Iterable[Callable[[], Backend]], decoders: DecoderCache, sink: Sink
    ) -> None:
        """`backends` make the possible backends, best first. Raises BackendError."""
        self.budget = Budget()
        self._quicker = quicker.Quicker()
        self.problem: str | None = None
        """Why no backend works; None if one does."""
        self._backends = iter(backends)
        self._decoders = decoders
        self._sink = sink
        self._station = self._next_station(None)
        self._mailbox = Mailbox()
        self._in_work = 0
        self._work_began: float | None = None
        self._source: Source | None = None  # in use by the worker
        self._frame: Frame | None = None  # in work, until it is closed
        self._faltered = False
        self._resting = False  # while it gives memory back; if that fails, no frame is at fault
        self._warm: object = None
        self._convergence = Convergence()
        self._new_makers()
        self._recordings: deque[weakref.ref[Recording]] = deque(maxlen=RECORDINGS)
        name = f"SideStream {self._station.backend.device}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def backend(self) -> Backend:
        """The current backend."""
        return self._station.backend

    def capture(
        self, run: Run, latent: torch.Tensor, images: range = FIRST_IMAGE
    ) -> Snapshot | None:
        """Stage `latent` as the frame of the run's current step; None if it is not wanted.

        `images` are the batch indices of the images to show, which are the first in `latent`. Never
        waits. Called on the sampler's thread, on the sampler's stream. The frame must be passed to
        `publish`, best at the end of the sampler's callback, because the worker that this wakes
        competes with the sampler for the GIL.

        Raises StagingError.
        """
        now = records.now()
        source = run.chain.current(now)
        if source is None:
            return None
        budget: float = run.settings.budget
        whole, animations = budget, self._animator.budget.used(now)
        if self._animator.busy:
            animations = max(0.0, animations - BUDGET_SHARE * whole / 100 * Budget.WINDOW)
            budget -= BUDGET_SHARE * whole
        if run.sound is not None:
            budget -= SOUND_SHARE * whole
        share = 1 - quicker.SHARE if self.budget.is_too_slow(budget) else 1
        fits = run.is_at_edge or self.budget.allows(now, budget * share, self._in_work, animations)
        way = None
        if not fits:
            way = self._quicker.way(run, source, self.budget, budget, now, self._in_work)
            if way is None and not run.may_be_last:
                return None
            if way is None:
                run.hold_back()
        label = run.capture(now, images)
        snapshot, outcome = None, records.FAILED
        try:
            dtype = run.chain.staging_dtype(source, self.backend.device)
            lease = self._staged(latent, dtype)
            if lease is None:
                outcome = records.BUSY
            else:
                snapshot = Snapshot(run, label, lease, way)
        finally:
            if snapshot is None:
                label.close(outcome)
        return snapshot

    def capture_sound(self, run: Run, latent: torch.Tensor) -> SoundSnapshot | None:
        """Stage `latent` as the sound of the run's current step; None if it is not wanted.

        Otherwise as `capture`, for `publish_sound`.
        """
        now = records.now()
        if not self._sounder.wants(run, now):
            return None
        lease = self._staged(latent, torch.float32, is_sound=True)
        return None if lease is None else SoundSnapshot(run, run.capture_sound(now), lease)

    def publish_sound(self, snapshot: SoundSnapshot) -> None:
        """Give the worker a staged sound, replacing one that it has not taken."""
        self._sounder.put(snapshot)
        self._mailbox.interrupt()
        if self._mailbox.closed:
            self._sounder.drop_waiting()

    def _staged(
        self, latent: torch.Tensor, dtype: torch.dtype, *, is_sound: bool = False
    ) -> Lease | None:
        """Copy `latent` into a slot; None if that is not possible now. Raises StagingError."""
        station = self._station
        try:
            slots = station.sound_slots if is_sound else station.slots
            lease = slots.acquire(latent.shape, dtype)
            if lease is None:
                return None
            staged = False
            try:
                staged = station.backend.stage(lease.slot, latent)
            finally:
                if not staged:
                    lease.close()
            return lease if staged else None
        except Exception as error:
            if isinstance(error, BackendError):
                self._mailbox.fail(StationError(station, error))
            raise StagingError from error

    def record(
        self,
        run: Run,
        recording: Recording,
        latent: torch.Tensor,
        images: range,
        size: tuple[int, int],
    ) -> bool:
        """Keep `latent` as the run's current step for its recording; otherwise as `capture`.

        `size` is that of its picture. False if it could not be kept.
        """
        station, source = self._station, run.chain.current(records.now())
        if source is None or self.problem is not None:
            return False
        if recording.engine is not self:  # new, or another device's, which will not be asked again
            recording.forget_shots()
            recording.engine = self
            self._recordings.append(weakref.ref(recording))
        dtype = run.chain.staging_dtype(source, station.backend.device)
        plays = is_played(run, latent, images)
        slot = recording.room(run, station.backend, latent.shape, dtype, size, plays=plays)
        if not station.backend.stage(slot, latent):
            return False
        recording.add(Shot(run, recording.reach(run), images, plays, station.backend, slot))
        return True

    def develop(self, recording: Recording) -> None:
        """Make the pictures of a recording soon. May be called on any thread."""
        self._developer.ask(recording)
        self._mailbox.interrupt()

    def publish(self, frame: Frame) -> None:
        """Give the worker a captured frame, replacing one that it has not taken."""
        replaced = self._mailbox.put(frame)
        if replaced is not None:
            drop(replaced, records.REPLACED)

    def notify(self) -> None:
        """A socket has become free."""
        self._mailbox.notify()

    def status(self) -> dict[str, Any]:
        now = records.now()
        share = sum(
            each.share(now)
            for each in (
                self.budget,
                self._quicker.budget,
                self._animator.budget,
                self._sounder.budget,
            )
        )
        problem = self.problem
        if problem is None and self.hangs(now):
            problem = f"the worker has been busy with one task for over {HANG_SECONDS:.0f} s"
        return {
            "device": str(self.backend.source),
            "path": "ComfyUI's own previewer" if self.problem else self.backend.name,
            "problem": problem,
            "share": round(share, 4),
        }

    @property
    def is_proven(self) -> bool:
        """Whether the backend has been tested."""
        return self._station.proven

    @property
    def alive(self) -> bool:
        """Whether the worker's thread is running."""
        return self._thread.is_alive()

    def hangs(self, now: float) -> bool:
        """Whether the worker has spent more time on one task than any should take.

        It also waits for the sampler's device, which may be a step behind: on a small GPU, minutes.
        (To ask the device here, on any thread, could break another one's recording of a graph.) So
        all that the run had taken before is time that it may have waited.
        """
        began, frame = self._work_began, self._frame
        if began is None:
            return False
        captured = began if frame is None else frame.label.captured_at
        started = captured if frame is None else frame.label.run.began_at or captured
        return now - began > HANG_SECONDS + captured - started

    def give_up(self) -> None:
        """Abandon a worker that hangs, and the decoder in which it hangs."""
        source = self._source
        if source is not None:
            self._decoders.leave(source, f"it did not return within {HANG_SECONDS:.0f} s")
        log.warning(
            "[SideStream] %s did not return within %.0f s; previews continue without it.",
            "The worker" if source is None else f"The {source.name} decoder",
            HANG_SECONDS,
        )
        frame = self._frame
        if frame is not None:
            frame.label.close(records.FAILED)  # not its lease: the worker may still read the slot
        self.shut()

    def close(self, timeout: float = 1.0) -> None:
        """Stop the worker; waits at most `timeout` seconds for its current task."""
        self.shut()
        self._thread.join(timeout)

    def shut(self) -> None:
        """Let the worker stop after its current task."""
        for left in self._mailbox.close():
            drop(left, records.LATE)

    # The worker's thread

    def _work(self) -> None:
        """Serve, and start over after a failure that nothing contained."""
        try:
            while not self._mailbox.closed:
                try:
                    with self._working(), torch.inference_mode():
                        self._serve()
                except StationError as error:
                    if error.station is self._station and self.problem is None:
                        self._leave_backend(error.reason)  # else it was already replaced
                except BackendError as error:
                    self._leave_backend(error)
                except BaseException as error:  # even a SystemExit, which would end this thread
                    self._recover(error)
            self._animator.forget()
            self._developer.forget()
            self._sounder.forget()
        finally:
            self.shut()  # so that a running sampler leaves no frames that nobody takes

    def _working(self) -> AbstractContextManager[object]:
        # Without a backend, pictures made elsewhere are still sent.
        return self.backend.working() if self.problem is None else nullcontext()

    def _leave_backend(self, error: BackendError) -> None:
        """Switch to the next backend; if there is none, `problem` says why."""
        self._struck()
        left = self.backend.name
        try:
            self._station = self._next_station(error)
        except BackendError as last:
            self.problem = str(last)
            serves = "ComfyUI's own previewer, on the sampler's thread"
        else:
            self._new_makers()
            serves = self.backend.name
        log.warning(
            "[SideStream] Previews via the %s do not work here: %s. Falling back to %s.",
            left,
            str(error),
            serves,
        )

    def _next_station(self, error: BackendError | None) -> Station:
        """The next backend that can be made. Raises BackendError: `error`, or why there is none."""
        for make in self._backends:
            try:
                return Station(make())
            except BackendError as reason:
                error = error or reason
        raise error or BackendError("no backend can decode previews on this device")

    def _new_makers(self) -> None:
        """Start afresh, with a new backend, what makes sounds, animations and recorded pictures."""
        self._sounder = Sounder(self._station, self._decoders, self._sink)
        budgets = (self.budget, self._quicker.budget, self._sounder.budget)
        self._animator = Animator(self.backend, self._sink, self._decoders, budgets)
        self._developer = Developer(self.backend, self._decoders)

    def _recover(self, error: BaseException) -> None:
        """Clean up after `error`. A run affected twice continues without previews."""
        run = self._struck()
        if run is None:
            if self._mailbox.closed:  # leaving its streams failed
                return
            if not self._faltered:
                self._faltered = True
                log.error(
                    "[SideStream] The worker failed while idle (%s); it keeps running.",
                    in_a_line(error),
                )
            self._mailbox.pause(IDLE_SECONDS)
            return
        run.strikes += 1
        if run.strikes > 1:
            run.abort()
        log.error(
            "[SideStream] The worker failed (%s) and restarts; this run continues %s previews.",
            in_a_line(error),
            "without" if run.aborted else "with",
            exc_info=log.isEnabledFor(logging.DEBUG),
        )

    def _struck(self) -> records.Run | None:
        """Drop the work that failed, and return its run."""
        self._convergence.forget()
        frame, self._frame = self._frame, None
        rested, self._resting = self._resting, False
        run = self._animator.run or self._sounder.run
        developed = self._developer.busy
        self._animator.forget()
        self._sounder.forget()
        self._developer.forget()
        if frame is None and run is None and not developed and not rested:
            # It may have failed while checking whether the waiting frame may be taken.
            frame = self._mailbox.remove(lambda frame: True)
        if frame is None:
            return run
        drop(frame, records.FAILED)
        return frame.label.run

    def _serve(self) -> None:
        self._prove()
        makers = (self._animator, self._sounder, self._developer)
        while not self._mailbox.closed:
            patience = min([maker.patience() for maker in makers if maker.busy] or [IDLE_SECONDS])
            frame = self._mailbox.take(self._is_due, patience)
            if frame is None and not any(maker.busy for maker in makers):
                self._rest()
                continue
            self._frame, self._in_work, self._work_began = frame, 1, records.now()
            try:
                if frame is not None:
                    self._process(frame)
                    self._frame, self._work_began = None, records.now()
                for maker in makers:
                    maker.advance()
            finally:
                self._in_work, self._work_began = 0, None

    def _is_due(self, frame: Frame) -> bool:
        """Whether to take a waiting frame now."""
        label, run = frame.label, frame.label.run
        if not label.held:
            return self._sink.ready(run)
        if label.is_outrun:
            return True  # to be dropped
        now = records.now()
        over = not self._sink.at_work(run)
        fits = run.admits(label.step, now) and self.budget.allows(now, run.settings.budget)
        return (over or fits) and self._sink.ready(run)

    def _is_stale(self, frame: Frame) -> bool:
        return not self._sink.live(frame.label.run)

    def _prove(self) -> None:
        """Test the backend with a tiny latent before its first frame. Raises BackendError."""
        if self._station.proven or self.problem is not None:
            return
        self._work_began = records.now()
        try:
            check(self.backend)
        finally:
            self._work_began = None
        self._station.proven = True

    def _rest(self) -> None:
        while (frame := self._mailbox.remove(self._is_stale)) is not None:
            drop(frame, records.LATE)
        self._resting = True
        self._give_back()
        self._resting = False

    def _give_back(self) -> None:
        self._decoders.rest(self.backend.device)
        self._station.slots.clear()
        self._station.sound_slots.clear()
        if self._sink.quiet():
            # A later prompt may still ask for these pictures; their latents must leave the device.
            while self._recordings and self.problem is None:
                recording = self._recordings.popleft()()
                if recording is not None and recording.waits:
                    self._developer.ask(recording)
            if self._developer.busy:
                return
            self._animator.forget()
            self._convergence.forget()
            self._warm = None
            self.backend.release()
            self._decoders.release(self.backend.device)

    def _process(self, frame: Frame) -> None:
        """Carry one frame from its slot to the sink."""
        run = frame.label.run
        if frame.label.is_outrun:
            drop(frame, records.REPLACED)
            return
        if frame.label.held:
            frame = self._frame = labelled(frame, run.let_pass(frame.label, records.now()))
        try:
            # The sampler's device may lag a whole step behind its callbacks.
            while not self._has_landed(frame) and self._animator.advance():
                pass
            if not self._sink.live(run):
                drop(frame, records.LATE)
            elif not self._sink.watched(run):
                drop(frame, records.UNWATCHED)
            elif (picture := self._picture_of(frame)) is None:
                drop(frame, records.FAILED)
            elif run.is_open(picture.label):  # else the worker hung and was given up
                with span("encode"):
                    encoded = encode.encode(picture, self._sink.format(run))
                self._sink.send(encoded)
        except BackendError:
            raise
        except Exception as error:
            drop(frame, records.FAILED)
            say_what_is_lost(run, error)

    def _has_landed(self, frame: Frame) -> bool:
        return isinstance(frame, Picture) or self.backend.settled(frame.lease.slot)

    def _picture_of(self, frame: Frame) -> Picture | None:
        """The picture to show; None if no decoder can make it."""
        if isinstance(frame, Picture):
            return frame
        is_ours = self.problem is None and frame.lease.slots is self._station.slots
        return self._decoded(frame) if is_ours else None  # else staged for a previous backend

    def _decoded(self, snapshot: Snapshot) -> Picture | None:
        """The picture by the first decoder of the fallback chain that does not fail.

        Afterwards the slot is free, or held by the animator, which continues to read it.
        """
        with snapshot.lease as slot:
            for source, way in self._decoders_for(snapshot):
                self._source = source
                try:
                    decoder = self._decoders.get(source, self.backend.device)
                    picture = self._render(snapshot, slot, source.name, decoder, way)
                except BackendError:
                    raise
                except Exception as error:
                    self._decoders.rest(self.backend.device)  # it may have lacked that memory
                    snapshot.run.chain.failed(source, error, records.now())
                    continue
                finally:
                    self._source = None
                self._animator.begin(snapshot, picture, source, decoder)
                return picture
        return None

    def _decoders_for(self, snapshot: Snapshot) -> Iterator[tuple[Source, Way | None]]:
        """A snapshot's quicker way, if any, then its chain's best decoders until one succeeds."""
        if snapshot.way is not None:
            yield snapshot.way.source, snapshot.way
        while (source := snapshot.run.chain.current(records.now())) is not None:
            yield source, None

    def _render(
        self, snapshot: Snapshot, slot: Slot, name: str, decoder: Decoder, way: Way | None
    ) -> Picture:
        """What `decoder`, called `name`, makes of the latent in `slot`."""
        run, label = snapshot.run, snapshot.label
        settings = run.settings
        full = settings.detail == "full"
        images = 1 if settings.batch == "animation" else len(label.images)
        job = RenderJob(decoder, run.max_size if way is None else way.max_size, full, images)
        measured = self._convergence.beside(job, label)
        (rgb, not_finite, went), seconds = self.backend.render(slot, measured)
        change = self._convergence.change(label, went)
        now = records.now()
        if way is not None:
            self._quicker.spend(way, job.kind, seconds, settings.budget, now)
            run.spent += seconds
        else:
            # A first decode includes warm-up, so it is not typical.
            if job.kind == self._warm:
                self.budget.spend(now, seconds)
                run.spent += self.budget.cost
            else:
                self.budget.renew()
            self._warm = job.kind
        run.frames_not_finite += int(not_finite) > 0
        info = Info(
            shown_size(decoder, (images, *slot.latent.shape[1:]), run.max_size),
            name,
            ready_at=now - seconds,
            decode_ms=seconds * 1000,
            grid=near_square(images) if images > 1 else None,
            not_finite=int(not_finite),
            is_quicker=way is not None,
            sigma=sigma_of(run, label, self.backend, slot),
            change=change,
        )
        return Picture(label, info, rgb)


def drop(frame: Frame, outcome: str) -> None:
    """Close a frame, and the lease of its slot."""
    if isinstance(frame, Snapshot):
        frame.lease.close()
    label = frame.label
    label.run.close(label, outcome)


def say_what_is_lost(run: records.Run, error: BaseException) -> None:
    """Log, once a run, that a frame failed for a reason other than its decoder."""
    if not run.warned_of_loss:
        run.warned_of_loss = True
        log.warning(
            "[SideStream] A preview failed (%s); sampling continues. Further failures in this"
            " run are not logged.",
            in_a_line(error),
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
