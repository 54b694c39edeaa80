"""Animated previews in the making: a few frames at a time, between the still ones."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .. import records
from ..decoders.protocols import Decoder, VideoDecoder
from ..deliver import encode
from ..deliver.webp import LONGEST, animated_webp
from ..plain import in_a_line
from ..records import Encoded, Picture
from .backends import Backend, BackendError
from .budget import Budget
from .job import RenderJob, StreamingRenderJob, shown_size
from .protocols import Run, Sink
from .slots import Lease, Snapshot

log = logging.getLogger(__name__)

BUDGET_SHARE = 0.3
"""Of the setting `budget`, while an animation is in the making; the rest is for still pictures.

It is some twenty decodes and comes when it is done. A still picture is what one waits for.
"""
SIZE = 0.75
"""Of `max_size`, for a video: its decoder may then mostly leave one more upsampling out."""
ENCODING_SHARE = 0.1
"""Of a processor that encoding animations may take: WebP's encoder holds the GIL at times."""
BATCH_RATE = 8.0
"""Images a second of a batch that is played as an animation, where `fps` is not set."""
PATIENCE = 0.02
"""Seconds until an animation that had to wait asks again."""


@dataclass(frozen=True)
class Part:
    """What one decode of an animation brings: some of its pictures are shown."""

    index: int
    """Of the latent frame, or of the image of a batch."""
    shown: tuple[int, ...]
    """Which of the decode's pictures, from 0."""
    durations: tuple[int, ...]
    """How long each of these is shown, in milliseconds."""

    def of(self, latent: torch.Tensor) -> torch.Tensor:
        """What is decoded, of the whole latent [B, C, ...]."""
        i = self.index
        return latent[:1, :, i : i + 1] if latent.ndim == 5 else latent[i : i + 1]


def parts(visible: Sequence[range], limit: int, rate: float) -> list[Part]:
    """The plan of an animation of which latent frame i brings the pictures `visible[i]`.

    At most `limit` of them (0: all) are shown, evenly spread, each until the next one. `rate` is
    that of all pictures, in pictures a second. Ends with the last latent frame that is needed.
    """
    total = sum(map(len, visible))
    count = min(total, limit or total)
    starts = [i * total // count for i in range(count)]
    times = [round(start * 1000 / rate) for start in [*starts, total]]
    lasting = {s: min(b - a, LONGEST) for s, a, b in zip(starts, times, times[1:], strict=False)}
    plan = []
    seen = 0
    for index, pictures in enumerate(visible):
        found = {p: seen + i for i, p in enumerate(pictures) if seen + i in lasting}
        plan.append(Part(index, tuple(found), tuple(lasting[n] for n in found.values())))
        seen += len(pictures)
    while plan and not plan[-1].shown:
        plan.pop()
    return plan


def plan_of(
    run: Run, decoder: Decoder, latent: torch.Tensor, images: range, most: int = 0
) -> list[Part]:
    """How to animate a latent: a video, or these images of a batch. At most so many pictures."""
    settings = run.settings
    if latent.ndim == 5:
        assert isinstance(decoder, VideoDecoder)
        limits = [each for each in (settings.video_frames, most) if each]
        visible = [decoder.visible_frames(i) for i in range(latent.shape[2])]
        return parts(visible, min(limits, default=0), run.latent_rate() * decoder.frames_each)
    return parts([range(1)] * len(images), most, settings.fps or BATCH_RATE)


@dataclass(eq=False)
class Animation:
    """An animation in the making, of the step whose latent lies in the slot of `lease`."""

    run: Run
    still: Picture
    lease: Lease
    latent: torch.Tensor
    job: RenderJob | StreamingRenderJob
    size: tuple[int, int]
    todo: deque[Part]
    pictures: list[bytes] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0


def moves(still: Picture, decoder: Decoder, latent: torch.Tensor) -> bool:
    """Whether more of what was staged is to be shown than the picture of `still`."""
    if still.label.step == 0:
        return False  # noise, which would keep the first step's from being made
    if not is_played(still.label.run, latent, still.label.images):
        return False
    return latent.ndim != 5 or isinstance(decoder, VideoDecoder)


def is_played(run: records.Run, latent: torch.Tensor, images: range) -> bool:
    """Whether `latent` is one of a video, or of `images` of a batch that are to be played."""
    settings = run.settings
    if latent.ndim == 5:
        return latent.shape[2] > 1 and settings.video_frames != 1
    return settings.batch == "animation" and len(images) > 1


def animation_size(run: Run, latent: torch.Tensor) -> int:
    """The longer side of an animation of `latent` at most, in pixels."""
    smaller = latent.ndim == 5 and run.settings.detail != "full"
    return max(1, round(run.max_size * SIZE)) if smaller else run.max_size


class Animator:
    """Makes one animation at a time. All of it happens on the worker's thread, but for `busy`."""

    def __init__(self, backend: Backend, sink: Sink) -> None:
        self.budget = Budget()  # of its own, or animations and stills would starve each other
        self._backend = backend
        self._sink = sink
        self._animation: Animation | None = None
        self._streaming: StreamingRenderJob | None = None
        self._streaming_for: object = None
        """What the streaming was made for. Its memory is of one size of latents."""
        self._warm: object = None
        self._rests_until = float("-inf")

    @property
    def busy(self) -> bool:
        """Whether an animation is in the making."""
        return self._animation is not None

    @property
    def run(self) -> Run | None:
        """Whose animation is in the making."""
        return None if self._animation is None else self._animation.run

    def begin(self, snapshot: Snapshot, still: Picture, decoder: Decoder) -> None:
        """Animate what `still` shows the first picture of, where that is wanted and can be now.

        The slot of `snapshot` is then taken over.
        """
        run, latent = snapshot.run, snapshot.lease.slot.latent
        if not moves(still, decoder, latent):
            return
        rested = self._animation is None and records.now() >= self._rests_until
        if run.animation_failed or not (rested and self._sink.animates(run)):
            return
        try:
            max_size = animation_size(run, latent)
            job = self._job(decoder, latent, run, max_size)
            plan = plan_of(run, decoder, latent, still.label.images)
            size = shown_size(decoder, (1, *latent.shape[1:]), max_size)
        except Exception as error:
            self._give_up(run, error)
            return
        lease = snapshot.lease.take_over()
        self._animation = Animation(run, still, lease, latent, job, size, deque(plan))
        run.acquire()

    def patience(self) -> float:
        """Seconds to wait for a still picture before the animation goes on; 0 to do so at once."""
        return 0.0 if self._may_decode() else PATIENCE

    def advance(self) -> bool:
        """Decode the animation's next part, or send it; False where there is nothing to do now."""
        animation = self._animation
        if animation is None:
            return False
        run = animation.run
        try:
            if not self._sink.live(run) or not self._sink.watched(run):
                self._stop()
            elif self._may_decode():
                self._decode(animation, animation.todo.popleft())
            elif not animation.todo and self._sink.ready(run):
                self._send(animation)
                self._stop()
            else:
                return False
        except BackendError:
            raise
        except Exception as error:
            self._give_up(run, error)
        return True

    def _give_up(self, run: Run, error: Exception) -> None:
        log.warning(
            "[SideStream] Animated previews failed (%s); this run continues with stills.",
            in_a_line(error),
        )
        run.animation_failed = True
        self.forget()

    def forget(self) -> None:
        """Give up the animation and all memory that its decoder works in."""
        self._stop()
        self._streaming = self._streaming_for = None
        self._warm = None

    def _job(
        self, decoder: Decoder, latent: torch.Tensor, run: Run, max_size: int
    ) -> RenderJob | StreamingRenderJob:
        full = run.settings.detail == "full"
        if latent.ndim == 5:
            assert isinstance(decoder, VideoDecoder)
            return self._rewound_job(decoder, max_size, full, latent.shape[-2:])
        return RenderJob(decoder, max_size, full)

    def _rewound_job(
        self, decoder: VideoDecoder, max_size: int, full: bool, size: torch.Size
    ) -> StreamingRenderJob:
        """The one of the last animation where it fits: its memory is there already."""
        wanted = (decoder, max_size, full, size)
        if self._streaming is None or self._streaming_for != wanted:
            self._streaming = StreamingRenderJob(decoder, max_size, full)
            self._streaming_for = wanted
        self._streaming.rewind()
        return self._streaming

    def _may_decode(self) -> bool:
        animation = self._animation
        if animation is None or not animation.todo:
            return False
        percent = animation.run.settings.budget * BUDGET_SHARE
        return self.budget.allows(records.now(), percent)

    def _decode(self, animation: Animation, part: Part) -> None:
        staged = animation.lease.slot.part(part.of(animation.latent))
        arrays, seconds = self._backend.render(staged, animation.job)
        if not animation.todo:
            animation.lease.close()
        animation.decode_seconds += seconds
        if animation.job == self._warm:
            self.budget.spend(records.now(), seconds)
        else:
            self.budget.renew()
        self._warm = animation.job
        start = time.thread_time()
        pictures = arrays[0].reshape(-1, *arrays[0].shape[-3:])
        for i, duration in zip(part.shown, part.durations, strict=True):
            animation.pictures.append(self._encoded(animation, pictures[i]))
            animation.durations.append(duration)
        animation.encode_seconds += time.thread_time() - start

    def _encoded(self, animation: Animation, picture: np.ndarray) -> bytes:
        return encode.encoded(picture, animation.size, "webp", animation.run.settings.quality)

    def _send(self, animation: Animation) -> None:
        image = animated_webp(animation.pictures, animation.durations, animation.size)
        label = animation.run.another(animation.still.label)
        info = replace(
            animation.still.info,
            size=animation.size,
            decode_ms=animation.decode_seconds * 1000,
            grid=None,
            animation=(len(animation.pictures), sum(animation.durations)),
        )
        self._rests_until = records.now() + animation.encode_seconds / ENCODING_SHARE
        try:
            self._sink.send(Encoded(label, info, image, encode.TYPES["webp"]))
        except BaseException:
            label.close(records.FAILED)
            raise

    def _stop(self) -> None:
        animation, self._animation = self._animation, None
        if animation is not None:
            animation.lease.close()
            animation.run.release()
