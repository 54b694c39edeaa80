"""Makes the pictures of recordings on the worker, one decode at a time."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterator

from .. import records
from ..decoders.cache import DecoderCache
from ..decoders.protocols import Decoder, VideoDecoder
from .animation import animation_size, plan_of
from .backends import Backend, BackendError
from .job import RenderJob, StreamingRenderJob, shown_size
from .recording import STEPS_RATE, Kept, Recording, Shot, even_size

log = logging.getLogger(__name__)


class Developer:
    """Makes pictures for whoever waits for them, at full speed, as nothing is sampling."""

    def __init__(self, backend: Backend, decoders: DecoderCache) -> None:
        self._backend = backend
        self._decoders = decoders
        self._asked: deque[Recording] = deque()
        self._work: Iterator[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a recording's pictures have been requested."""
        return bool(self._asked)

    def patience(self) -> float:
        """Seconds that the worker may wait for a frame before it continues here: none."""
        return 0.0

    def ask(self, recording: Recording) -> None:
        """Request the pictures of a recording. May be called on any thread."""
        if recording not in self._asked:
            self._asked.append(recording)

    def advance(self) -> None:
        """Do one decode. Raises BackendError."""
        if not self._asked:
            return
        recording = self._asked[0]
        try:
            if self._work is None:
                self._work = self._developed(recording)
            next(self._work)
        except StopIteration:
            self._work = None
            self._asked.popleft()
        except BaseException:
            self.forget()
            raise

    def forget(self) -> None:
        """Drop all requests; pictures that were made remain."""
        self._work = None
        while self._asked:
            self._asked.popleft().forget_shots()

    def _developed(self, recording: Recording) -> Iterator[None]:
        """Makes a recording's pictures; yields after each decode."""
        while (shot := recording.take()) is not None:
            yield from self._pictures_of(recording, shot)

    def _pictures_of(self, recording: Recording, shot: Shot) -> Iterator[None]:
        """Pictures by the first decoder of the run's fallback chain that does not fail.

        If a video's frames are wanted, a decoder that gives only stills is the last resort.
        """
        run = shot.run
        pictures: list[Kept] = []
        durations: list[int] = []
        readable = shot.backend is self._backend and not run.aborted
        sources = list(run.chain.allowed(records.now())) if readable else []
        for plays, source in itertools.product([True, False] if shot.plays else [False], sources):
            try:
                decoder = self._decoders.get(source, self._backend.device)
                for made, duration in self._decoded(recording, shot, decoder, plays):
                    pictures.append(made)
                    durations.append(duration)
                    yield
            except BackendError:
                raise
            except Exception as error:
                pictures, durations = [], []
                run.chain.failed(source, error, records.now())
            if pictures:
                break
        if not pictures and not run.aborted:
            log.info("[SideStream] Step %d has no picture for Side-Stream Frames.", shot.step)
        rate = len(durations) * 1000 / sum(durations) if any(durations) else STEPS_RATE
        recording.keep(shot, pictures, rate)

    def _decoded(
        self, recording: Recording, shot: Shot, decoder: Decoder, plays: bool
    ) -> Iterator[tuple[Kept, int]]:
        """Each picture of a latent, with its duration in milliseconds."""
        run, latent = shot.run, shot.slot.latent
        full = run.settings.detail == "full"
        if not plays:
            images = 1 if shot.plays else len(shot.images)
            (rgb, _), _ = self._backend.render(
                shot.slot, RenderJob(decoder, run.max_size, full, images)
            )
            size = shown_size(decoder, (images, *latent.shape[1:]), run.max_size)
            yield Kept(shot.step, rgb.copy(), even_size(size)), 0
            return
        if latent.ndim == 5 and not isinstance(decoder, VideoDecoder):
            return
        max_size = animation_size(run, latent)
        size = even_size(shown_size(decoder, (1, *latent.shape[1:]), max_size))
        job: RenderJob | StreamingRenderJob = RenderJob(decoder, max_size, full)
        if isinstance(decoder, VideoDecoder) and latent.ndim == 5:
            job = StreamingRenderJob(decoder, max_size, full)
            job.rewind()
        for part in plan_of(run, decoder, latent, shot.images, recording.limit.of(size)):
            arrays, _ = self._backend.render(shot.slot.part(part.of(latent)), job)
            made = arrays[0].reshape(-1, *arrays[0].shape[-3:])
            for i, duration in zip(part.shown, part.durations, strict=True):
                yield Kept(shot.step, made[i].copy(), size), duration
