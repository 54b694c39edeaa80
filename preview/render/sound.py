"""Makes sounds, a part at a time between the pictures.

Sounds are made rarely, within a share of the budget, and always of a sampling's last step.
"""

from __future__ import annotations

import json
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from .. import records
from ..decoders.cache import DecoderCache
from ..decoders.sound import SoundDecoder
from ..decoders.vae import is_short_of_memory
from ..deliver.wav import wav
from ..plain import in_a_line
from ..records import Label, Sound
from .backends import BackendError
from .budget import Budget
from .protocols import Run, Sink
from .slots import Lease, Station

log = logging.getLogger(__name__)

BUDGET_SHARE = 0.2
"""The share of the setting `budget` for sounds, in runs that have them."""
PATIENCE = 0.02
"""Seconds until a waiting sound checks again whether it may continue."""
PAUSE = 10.0
"""Seconds without sounds after one failed because of a lack of memory."""


class SoundSnapshot(NamedTuple):
    """The latent of a step's sound, in a slot that it holds."""

    run: Run
    label: Label
    lease: Lease

    @property
    def is_last(self) -> bool:
        """Whether it is of its sampling's last step, whose sound is always made."""
        return self.run.ended or self.label.step == self.label.total_steps


@dataclass(frozen=True)
class SoundJob:
    """The work from a staged latent to a part of its sound, as a backend's `Job`."""

    decoder: SoundDecoder
    part: slice

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor]:
        """float32 [channels, n]."""
        return (self.decoder(latent[:1], self.part),)


@dataclass(eq=False)
class Unfinished:
    """An unfinished sound."""

    snapshot: SoundSnapshot
    decoder: SoundDecoder
    todo: deque[slice]
    samples: list[np.ndarray] = field(default_factory=list)
    decode_seconds: float = 0.0


class Sounder:
    """Makes one sound at a time."""

    def __init__(self, station: Station, decoders: DecoderCache, sink: Sink) -> None:
        self.budget = Budget()
        self._backend = station.backend
        self._slots = station.sound_slots
        self._decoders = decoders
        self._sink = sink
        self._waiting: SoundSnapshot | None = None
        self._unfinished: Unfinished | None = None
        self._warm: Callable[[], SoundDecoder | None] = lambda: None
        """The decoder of the last part, not kept in memory."""
        self._rests_until = float("-inf")
        self._complained_of = 0
        """The number of the run whose failure was logged last."""
        self._lock = threading.Lock()

    # The sampler's thread

    def wants(self, run: Run, now: float) -> bool:
        """Whether to stage the sound of the run's current step."""
        return run.may_be_last or (not self.busy and self._allows(run, now))

    def put(self, snapshot: SoundSnapshot) -> None:
        """Leave a snapshot for the worker, replacing one that it has not taken."""
        if snapshot.lease.slots is not self._slots:  # staged for a previous backend
            snapshot.lease.close()
            return
        snapshot.run.acquire()
        with self._lock:
            replaced, self._waiting = self._waiting, snapshot
        if replaced is not None:
            drop(replaced)

    def drop_waiting(self) -> None:
        """Drop what waits, as nobody will take it."""
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            drop(waiting)

    @property
    def busy(self) -> bool:
        """Whether a sound is in progress or waiting."""
        return self._unfinished is not None or self._waiting is not None

    # The worker's thread

    @property
    def run(self) -> Run | None:
        """The run whose sound is in progress."""
        return None if self._unfinished is None else self._unfinished.snapshot.run

    def patience(self) -> float:
        """Seconds to wait for a picture before continuing with the sound; 0 for none."""
        unfinished = self._unfinished
        return 0.0 if unfinished and self._may_go_on(unfinished.snapshot) else PATIENCE

    def advance(self) -> bool:
        """Decode the next part of a sound, or send it; False if there is nothing to do yet."""
        unfinished = self._unfinished
        waiting = self._waiting
        if unfinished is None or (waiting and waiting.is_last and not unfinished.snapshot.is_last):
            unfinished = self._begun()
        if unfinished is None:
            return False
        run = unfinished.snapshot.run
        try:
            if not (self._sink.may_sound(run) and self._sink.watched(run)):
                self._stop()
            elif not unfinished.todo:
                self._send(unfinished)
                self._stop()
            elif self._may_go_on(unfinished.snapshot):
                self._decode(unfinished, unfinished.todo.popleft())
            else:
                return False
        except BackendError:
            raise
        except Exception as error:
            self._fail(run, error)
        return True

    def forget(self) -> None:
        """Drop what is in progress and what waits."""
        self._stop()
        self.drop_waiting()

    def _allows(self, run: Run, now: float) -> bool:
        percent = run.settings.budget * BUDGET_SHARE
        return now >= self._rests_until and self.budget.allows(now, percent)

    def _may_go_on(self, snapshot: SoundSnapshot) -> bool:
        return snapshot.is_last or self._allows(snapshot.run, records.now())

    def _begun(self) -> Unfinished | None:
        """Start with what waits, if allowed at the moment, and drop what was in progress."""
        snapshot = self._waiting
        if snapshot is None or not self._backend.settled(snapshot.lease.slot):
            return None
        if not self._may_go_on(snapshot) and self._sink.may_sound(snapshot.run):
            return None
        with self._lock:
            snapshot, self._waiting = self._waiting, None
        if snapshot is None:
            return None
        self._stop()
        run = snapshot.run
        try:
            decoder = self._decoder_of(run)
            todo = deque(decoder.parts(snapshot.lease.slot.latent))
        except Exception as error:
            drop(snapshot)
            self._fail(run, error)
            return None
        self._unfinished = Unfinished(snapshot, decoder, todo)
        return self._unfinished

    def _decoder_of(self, run: Run) -> SoundDecoder:
        source = run.sound
        assert source is not None
        return self._decoders.get(source, self._backend.device)

    def _decode(self, unfinished: Unfinished, part: slice) -> None:
        job = SoundJob(unfinished.decoder, part)
        (samples,), seconds = self._backend.render(unfinished.snapshot.lease.slot, job)
        unfinished.samples.append(samples.copy())  # the backend reuses its memory
        unfinished.decode_seconds += seconds
        # A first decode includes warm-up, so it is not typical.
        if self._warm() is unfinished.decoder:
            self.budget.spend(records.now(), seconds)
        self._warm = weakref.ref(unfinished.decoder)

    def _send(self, unfinished: Unfinished) -> None:
        samples = np.concatenate(unfinished.samples, axis=1)
        decoder, label = unfinished.decoder, unfinished.snapshot.label
        rate, latent = decoder.rate, unfinished.snapshot.lease.slot.latent
        self._sink.send_sound(
            Sound(
                label,
                wav(samples, rate, comment_of(label), levelled=decoder.levelled),
                rate,
                len(samples),
                samples.shape[1] / rate,
                max(decoder.seconds(latent), samples.shape[1] / rate),
                unfinished.decode_seconds * 1000,
            )
        )

    def _fail(self, run: Run, error: Exception) -> None:
        passes = is_short_of_memory(error)
        if not (run.sound_failed or (passes and run.number == self._complained_of)):
            log.warning(
                "[SideStream] Sound previews failed (%s); this run continues %s.",
                in_a_line(error),
                "and retries them later" if passes else "without sound",
            )
        self._complained_of = run.number
        run.sound_failed = not passes
        self._rests_until = records.now() + PAUSE
        self._sink.send_no_sound(run, "memory" if passes else "failed")
        self._stop()

    def _stop(self) -> None:
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            drop(unfinished.snapshot)


def comment_of(label: Label) -> str:
    """The label inside a saved sound, as in pictures."""
    context = label.run.context
    told = {
        "prompt_id": context.prompt_id,
        "node_id": context.node_id,
        "run": label.run.id,
        "step": label.step,
        "total_steps": label.total_steps,
    }
    seed = {} if context.seed is None else {"seed": context.seed}
    return json.dumps({"sidestream": told | seed}, separators=(",", ":"))


def drop(snapshot: SoundSnapshot) -> None:
    """Release a snapshot, once it is done or no longer needed."""
    snapshot.lease.close()
    snapshot.run.release()
