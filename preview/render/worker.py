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
the still picture that it makes, and may leave it to the animator, which keeps it over all parts
of an animation. A slot returns to the free ones from the sampler's thread or the mailbox, where
nobody has begun to read it, or from the worker or its animator, who have then waited for its end
of the
reading or, where it failed, show nothing of what was read. The one write that may still be under
way when a slot is taken again is that of a frame that was dropped unread; `Backend.stage` orders
the new write after it.

Nothing that fails here may kill the worker. What the fallback chain, the encoder and the animator
do not contain is caught in `Engine._work`, which drops what was in work and begins anew. Where the
backend itself fails, the worker goes on with the next one; after the last, `Engine.problem` says
why, and previews are left to ComfyUI's own previewer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch

from ..capture import runs
from ..capture.runs import FIRST_IMAGE, Frame, Run
from ..decoders.cache import DecoderCache
from ..decoders.picture import near_square
from ..decoders.protocols import Decoder, Source
from ..deliver import encode
from ..plain import in_a_line
from . import quicker
from .animation import BUDGET_SHARE, Animator
from .backends import (
    Backend,
    BackendError,
    Slot,
    StagingError,
    check,
)
from .budget import Budget
from .job import RenderJob, shown_size
from .mailbox import Mailbox, StationError
from .profile import span
from .slots import Station, give_back

log = logging.getLogger(__name__)

IDLE_SECONDS = 8.0
HANG_SECONDS = 60.0
"""After so long in one piece of work a worker is given up. To load a large file may take long."""


class Sink(Protocol):
    """Where finished frames go."""

    def watched(self, run: Run) -> bool:
        """Whether anybody is there to see this run."""

    def ready(self, run: Run) -> bool:
        """Whether a frame handed over now would be sent at once."""

    def live(self, run: Run) -> bool:
        """Whether frames of this run may still be shown."""

    def at_work(self, run: Run) -> bool:
        """Whether the node of this run goes on, and may sample again."""

    def animates(self, run: Run) -> bool:
        """Whether anybody is there who can show animated frames of this run."""

    def format(self, run: Run) -> str:
        """How to encode frames of this run: a key of `encode.TYPES`."""

    def quiet(self) -> bool:
        """Whether nothing samples, so that memory may go back to the device."""

    def send(self, frame: Frame) -> None:
        """Take over an encoded frame, and close it in the end. Raises nothing."""


class Engine:
    """The worker of one way from a sampler's device to a decoder's."""

    def __init__(
        self, backends: Iterable[Callable[[], Backend]], decoders: DecoderCache, sink: Sink
    ) -> None:
        """`backends` make the backends that can serve, best first. Raises BackendError."""
        self.budget = Budget()
        self._quicker = quicker.Quicker()
        self.problem: str | None = None
        """Why no backend works; None where one does."""
        self._backends = iter(backends)
        self._decoders = decoders
        self._sink = sink
        self._station = self._next_station(None)
        self._mailbox = Mailbox()
        self._in_work = 0
        self._work_began: float | None = None
        self._source: Source | None = None  # that the worker is at
        self._frame: Frame | None = None  # in work, until it has found its end
        self._faltered = False
        self._warm: RenderJob | None = None
        self._animator = self._new_animator()
        name = f"SideStream {self._station.backend.device}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def backend(self) -> Backend:
        """The backend that serves now."""
        return self._station.backend

    def capture(self, run: Run, latent: torch.Tensor, images: range = FIRST_IMAGE) -> Frame | None:
        """Stage `latent` as the frame of the run's current step; None if it is not wanted.

        `images` are the indices in the sampler's batch of those that are shown, which come first
        in `latent`. Never waits. Called on the sampler's thread, under the stream that the sampler
        uses; the frame must be given to `publish`, best when the sampler's callback has nothing
        left to do, because the worker that it wakes competes with the sampler for the GIL.

        Raises StagingError.
        """
        now = runs.now()
        source = run.chain.current(now)
        if source is None:
            return None
        budget: float = run.settings.budget
        if self._animator.busy:
            budget *= 1 - BUDGET_SHARE
        share = 1 - quicker.SHARE if self.budget.is_too_slow(budget) else 1
        fits = run.is_at_edge or self.budget.allows(now, budget * share, self._in_work)
        way = None
        if not fits:
            way = self._quicker.way(run, source, self.budget, budget, now, self._in_work)
            if way is None and not run.may_be_last:
                return None
            if way is None:
                run.hold_back()
        station = self._station
        frame = run.capture(now, images)
        frame.way = way
        try:
            dtype = run.chain.staging_dtype(source, station.backend.device)
            frame.slot = station.slots.take(latent.shape, dtype)
            if frame.slot is not None and station.backend.stage(frame.slot, latent):
                return frame
        except BackendError as error:
            self._drop(frame, runs.FAILED)
            self._mailbox.fail(StationError(station, error))
            raise StagingError from error
        except Exception as error:
            self._drop(frame, runs.FAILED)
            raise StagingError from error
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

    def notify(self) -> None:
        """A socket has become free."""
        self._mailbox.notify()

    def status(self) -> dict[str, Any]:
        now = runs.now()
        share = sum(
            each.share(now) for each in (self.budget, self._quicker.budget, self._animator.budget)
        )
        problem = self.problem
        if problem is None and self.hangs(now):
            problem = f"the worker has been at one piece of work for over {HANG_SECONDS:.0f} s"
        return {
            "device": str(self.backend.source),
            "path": "ComfyUI's own previewer" if self.problem else self.backend.name,
            "problem": problem,
            "share": round(share, 4),
        }

    @property
    def is_proven(self) -> bool:
        """Whether the backend has been tried out."""
        return self._station.proven

    @property
    def alive(self) -> bool:
        """Whether the worker is there."""
        return self._thread.is_alive()

    def hangs(self, now: float) -> bool:
        """Whether the worker has been at one piece of work for longer than any should take."""
        began = self._work_began
        return began is not None and now - began > HANG_SECONDS

    def give_up(self) -> None:
        """Leave a worker that hangs to itself, and with it the decoder that it hangs in."""
        source = self._source
        if source is not None:
            self._decoders.leave(source, f"it did not return within {HANG_SECONDS:.0f} s")
        log.warning(
            "[SideStream] %s did not return within %.0f s; previews go on without it.",
            "The worker" if source is None else f"The {source.name} decoder",
            HANG_SECONDS,
        )
        frame = self._frame
        if frame is not None:
            frame.close(runs.FAILED)  # its slot stays with who may still read it
        self.shut()

    def close(self, timeout: float = 1.0) -> None:
        """Stop the worker; waits at most `timeout` seconds for what it is doing."""
        self.shut()
        self._thread.join(timeout)

    def shut(self) -> None:
        """Let the worker stop when it has done what it is doing."""
        for left in self._mailbox.close():
            self._drop(left, runs.LATE)

    def _lose(self, frame: Frame, error: BaseException) -> None:
        """Drop a frame for something that no other decoder would do better; said once a run."""
        self._drop(frame, runs.FAILED)
        if not frame.run.warned_of_loss:
            frame.run.warned_of_loss = True
            log.warning(
                "[SideStream] A preview failed (%s); sampling goes on. More such failures of this"
                " run are not logged.",
                in_a_line(error),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )

    def _drop(self, frame: Frame, outcome: str) -> None:
        if frame.slot is not None:
            give_back(frame.slot)
            frame.slot = None
        frame.close(outcome)

    # The worker's thread

    def _work(self) -> None:
        """Serves, and after a failure that nothing contained begins anew."""
        try:
            while not self._mailbox.closed:
                try:
                    with self._working(), torch.inference_mode():
                        self._serve()
                except StationError as error:
                    if error.station is self._station and self.problem is None:
                        self._leave_backend(error.reason)  # else it was left meanwhile
                except BackendError as error:
                    self._leave_backend(error)
                except BaseException as error:  # a SystemExit too: it is meant for no one else
                    self._recover(error)
            self._animator.forget()
        finally:
            self.shut()  # a sampler that goes on leaves nothing where nobody takes it

    def _working(self) -> AbstractContextManager[object]:
        # Without a backend it still carries the pictures that others made.
        return self.backend.working() if self.problem is None else nullcontext()

    def _leave_backend(self, error: BackendError) -> None:
        """Go on with the next backend; where there is none, `problem` says why."""
        self._struck()
        left = self.backend.name
        try:
            self._station = self._next_station(error)
        except BackendError as last:
            self.problem = str(last)
            serves = "ComfyUI's own previewer, on the sampler's thread"
        else:
            self._animator = self._new_animator()
            serves = self.backend.name
        log.warning(
            "[SideStream] Previews by way of the %s do not work here: %s. They go on by %s.",
            left,
            str(error),
            serves,
        )

    def _next_station(self, error: BackendError | None) -> Station:
        """The next backend that can be made. Raises BackendError: `error`, or why none can be."""
        for make in self._backends:
            try:
                return Station(make())
            except BackendError as reason:
                error = error or reason
        raise error or BackendError("there is no way to decode previews on this device")

    def _new_animator(self) -> Animator:
        return Animator(self.backend, self._sink, give_back)

    def _recover(self, error: BaseException) -> None:
        """Clear up after `error`. A run that it strikes twice goes on without previews."""
        run = self._struck()
        if run is None:
            if self._mailbox.closed:  # it failed at leaving its streams
                return
            if not self._faltered:
                self._faltered = True
                log.error("[SideStream] The worker failed while idle (%s).", in_a_line(error))
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
        self._prove()
        animator = self._animator
        while not self._mailbox.closed:
            patience = animator.patience() if animator.busy else IDLE_SECONDS
            frame = self._mailbox.take(self._is_due, patience)
            if frame is None and not animator.busy:
                self._rest()
                continue
            self._frame, self._in_work, self._work_began = frame, 1, runs.now()
            try:
                if frame is not None:
                    self._process(frame)
                    self._frame = None
                animator.advance()
            finally:
                self._in_work, self._work_began = 0, None

    def _is_due(self, frame: Frame) -> bool:
        """Whether a frame that waits is to be taken now."""
        if not frame.held:
            return self._sink.ready(frame.run)
        if frame.is_outrun:
            return True  # to be dropped
        run, now = frame.run, runs.now()
        over = not self._sink.at_work(run)
        fits = frame.may_go(now) and self.budget.allows(now, run.settings.budget)
        return (over or fits) and self._sink.ready(run)

    def _prove(self) -> None:
        """Try the backend on a tiny latent before its first frame. Raises BackendError."""
        if self._station.proven or self.problem is not None:
            return
        self._work_began = runs.now()
        try:
            check(self.backend)
        finally:
            self._work_began = None
        self._station.proven = True

    def _has_landed(self, frame: Frame) -> bool:
        return frame.slot is None or self.backend.settled(frame.slot)

    def _rest(self) -> None:
        stale = self._mailbox.remove(lambda frame: not self._sink.live(frame.run))
        if stale is not None:
            self._drop(stale, runs.LATE)
        self._station.slots.clear()
        if self._sink.quiet():
            self._animator.forget()
            self._warm = None
            self.backend.release()
            self._decoders.release(self.backend.device)

    def _process(self, frame: Frame) -> None:
        """Carry one frame from its slot to the sink."""
        if frame.is_outrun:
            self._drop(frame, runs.REPLACED)
            return
        if frame.held:
            frame.run.let_pass(frame, runs.now())
        try:
            # The sampler's device may be a whole step behind its callbacks.
            while not self._has_landed(frame) and self._animator.advance():
                pass
            if not self._sink.live(frame.run):
                self._drop(frame, runs.LATE)
            elif not self._sink.watched(frame.run):
                self._drop(frame, runs.UNWATCHED)
            elif frame.picture is None and not (self._is_ours(frame) and self._decode(frame)):
                self._drop(frame, runs.FAILED)
            elif frame.closed:  # the worker hung, and was given up
                pass
            else:
                with span("encode"):
                    encode.encode_frame(frame, self._sink.format(frame.run))
                self._sink.send(frame)
        except BackendError:
            raise
        except Exception as error:
            self._lose(frame, error)

    def _is_ours(self, frame: Frame) -> bool:
        """Whether it was staged for the backend that serves now."""
        slot = frame.slot
        return self.problem is None and slot is not None and slot.owner is self._station.slots

    def _decode(self, frame: Frame) -> bool:
        """Fill in the picture, going down the fallback chain as long as decoders fail."""
        slot, chain = frame.slot, frame.run.chain
        assert slot is not None
        while True:
            source = chain.current(runs.now()) if frame.way is None else frame.way.source
            if source is None:
                return False
            self._source = source
            try:
                decoder = self._decoders.get(source, self.backend.device)
                self._render(frame, slot, decoder)
            except BackendError:
                raise
            except Exception as error:
                chain.failed(source, error, runs.now())
                frame.way = None
                continue
            finally:
                self._source = None
            frame.decoder = source.name
            if frame.way is not None or not self._animator.begin(frame, decoder):
                give_back(slot)
            frame.slot = None
            return True

    def _render(self, frame: Frame, slot: Slot, decoder: Decoder) -> None:
        """Fill in what `decoder` makes of the frame in `slot`."""
        way, settings, max_size = frame.way, frame.run.settings, frame.run.max_size
        full = settings.detail == "full"
        images = 1 if settings.batch == "animation" else len(frame.images)
        painting = RenderJob(decoder, max_size if way is None else way.max_size, full, images)
        (picture, non_finite), seconds = self.backend.render(slot, painting)
        now = runs.now()
        if way is not None:
            self._quicker.spend(way, painting, seconds, settings.budget, now)
        else:
            # A first decode makes things ready, and tells nothing of the next one.
            if painting == self._warm:
                self.budget.spend(now, seconds)
            else:
                self.budget.renew()
            self._warm = painting
        frame.ready_at = now - seconds
        frame.picture = picture
        frame.non_finite = int(non_finite)
        frame.run.not_finite += frame.non_finite > 0
        frame.size = shown_size(decoder, (images, *slot.latent.shape[1:]), max_size)
        frame.grid = near_square(images) if images > 1 else None
        frame.decode_ms = seconds * 1000
