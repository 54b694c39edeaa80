"""Animated previews in the making: a few frames at a time, between the still ones."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from .. import records
from ..decoders.cache import DecoderCache
from ..decoders.protocols import Decoder, Source, VideoDecoder
from ..deliver import encode
from ..deliver.webp import LONGEST, animated_webp
from ..plain import in_a_line
from ..records import Encoded, Picture
from .backends import Backend, BackendError
from .budget import Budget
from .job import RenderJob, StreamingRenderJob, shown_size
from .protocols import Run, Sink
from .quicker import SMALLER
from .slots import Lease, Snapshot

log = logging.getLogger(__name__)

BUDGET_SHARE = 0.3
"""Of the setting `budget`, at least, while an animation is in the making.

It is some twenty decodes and comes when it is done. A still picture is what one waits for.
"""
STILLS_TO_COME = 2
"""For which animations always leave room."""
OLDEST = 0.25
"""The share of a run's duration that an animation may take, as far as a quicker way can help."""
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


class Making(NamedTuple):
    """A way to make animations."""

    source: Source
    max_size: int
    full: bool


@dataclass(eq=False)
class Animation:
    """An animation in the making, of the step whose latent lies in the slot of `lease`."""

    run: Run
    still: Picture
    lease: Lease
    latent: torch.Tensor
    makings: list[Making]
    """The ways that are left, the first of which is gone; each is quicker than the one before."""
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
    """Makes one animation at a time. All of it happens on the worker's thread, but for `busy`.

    While a run samples, animations take what its stills leave of the budget, and at least
    `BUDGET_SHARE`. So that none is older than a quarter of its run when it comes, those that would
    take longer are made smaller, or by the quickest decoder. The last step's begins at once and is
    not held back, but takes no more than is left of the budget for the whole run.
    """

    def __init__(
        self, backend: Backend, sink: Sink, decoders: DecoderCache, stills: Sequence[Budget]
    ) -> None:
        """`stills` are the budgets of stills, first those by the best decoder, and of sounds."""
        self.budget = Budget()
        """Of all animations but those of last steps."""
        self._backend = backend
        self._sink = sink
        self._decoders = decoders
        self._stills = stills
        self._animation: Animation | None = None
        self._streaming: StreamingRenderJob | None = None
        self._streaming_for: object = None
        """What the streaming was made for. Its memory is of one size of latents."""
        self._warm: object = None
        self._costs = Costs()
        self._rests_until = float("-inf")
        self._newest = 0
        """The number of the run whose animation was sent last."""

    @property
    def busy(self) -> bool:
        """Whether an animation is in the making."""
        return self._animation is not None

    @property
    def run(self) -> Run | None:
        """Whose animation is in the making."""
        return None if self._animation is None else self._animation.run

    def begin(self, snapshot: Snapshot, still: Picture, source: Source, decoder: Decoder) -> None:
        """Animate what `still` shows the first picture of, where that is wanted and can be now.

        The slot of `snapshot` is then taken over.
        """
        run, latent = snapshot.run, snapshot.lease.slot.latent
        if not moves(still, decoder, latent) or run.animation_failed:
            return
        if not (self._may_begin(run, still.label.is_last) and self._sink.animates(run)):
            return
        self._stop()
        try:
            makings = self._makings(run, source, latent)
            size = shown_size(decoder, (1, *latent.shape[1:]), makings[0].max_size)
            job, plan = self._planned(run, still, latent, makings[0])
        except Exception as error:
            self._give_up(run, error)
            return
        lease = snapshot.lease.take_over()
        self._animation = animation = Animation(
            run, still, lease, latent, makings, job, size, deque(plan)
        )
        run.acquire()
        self._hurry(animation)

    def _may_begin(self, run: Run, is_last: bool) -> bool:
        """Whether there is time for another: always for a run's last one, and for its first."""
        if is_last:
            return True
        is_first = run.number != self._newest
        return self._animation is None and (is_first or records.now() >= self._rests_until)

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
                self._hurry(animation)
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

    # How it is made

    def _makings(self, run: Run, source: Source, latent: torch.Tensor) -> list[Making]:
        size, full = animation_size(run, latent), run.settings.detail == "full"
        quickest = run.chain.after(source, records.now())
        if quickest is None:
            return [Making(source, size, full)]
        smaller = [Making(source, max(1, size // times), False) for times in SMALLER]
        return [Making(source, size, full), *smaller, Making(quickest, size, full)]

    def _planned(
        self, run: Run, still: Picture, latent: torch.Tensor, making: Making
    ) -> tuple[RenderJob | StreamingRenderJob, list[Part]]:
        decoder = self._decoders.get(making.source, self._backend.device)
        plan = plan_of(run, decoder, latent, still.label.images)
        if latent.ndim != 5:
            return RenderJob(decoder, making.max_size, making.full), plan
        assert isinstance(decoder, VideoDecoder)
        return self._rewound_job(decoder, making, latent.shape[-2:]), plan

    def _rewound_job(
        self, decoder: VideoDecoder, making: Making, size: torch.Size
    ) -> StreamingRenderJob:
        """The one of the last animation where it fits: its memory is there already."""
        wanted = (decoder, making.max_size, making.full, size)
        if self._streaming is None or self._streaming_for != wanted:
            self._streaming = StreamingRenderJob(decoder, making.max_size, making.full)
            self._streaming_for = wanted
        self._streaming.rewind()
        return self._streaming

    def _hurry(self, animation: Animation) -> None:
        """Make it anew in a quicker way, where it would take too long in this one."""
        room = self._room(animation)
        while animation.todo and len(animation.makings) > 1:
            cost = self._expected(animation)
            if cost is None or cost * len(animation.todo) <= room:
                return
            animation.makings.pop(0)
            self.budget.renew()
            making = animation.makings[0]
            job, plan = self._planned(animation.run, animation.still, animation.latent, making)
            animation.job, animation.todo = job, deque(plan)
            animation.pictures.clear()
            animation.durations.clear()

    def _expected(self, animation: Animation) -> float | None:
        """Seconds that a part takes of the device; None where nobody knows."""
        making = animation.makings[0]
        known = self._costs.expected(making, animation.latent)
        still = animation.still.info
        if known is not None or still.decoder != making.source.name or not still.decode_ms:
            return known
        # The still's is the picture of one latent frame, too.
        return still.decode_ms / 1000 * min(1.0, making.max_size / animation.run.max_size) ** 2

    def _room(self, animation: Animation) -> float:
        """Seconds of the device's time that the rest of an animation may take."""
        run = animation.run
        budget, duration = run.settings.budget, run.duration
        share = self._percent(run) / 100 if has_limit(budget) else 1.0
        if animation.still.label.is_last and has_limit(budget):
            return budget / 100 * run.sampled_for - run.spent
        return float("inf") if duration is None else share * duration * OLDEST

    def _percent(self, run: Run) -> float:
        """The share of the device, in percent, that animations may have now; 0 for no limit."""
        budget = run.settings.budget
        if not has_limit(budget):
            return budget
        now = records.now()
        used = sum(stills.used(now) for stills in self._stills)
        used += STILLS_TO_COME * self._stills[0].cost
        return max(budget * BUDGET_SHARE, budget - 100 * used / Budget.WINDOW)

    def _may_decode(self) -> bool:
        animation = self._animation
        if animation is None or not animation.todo:
            return False
        if animation.still.label.is_last:
            return True
        return self.budget.allows(records.now(), self._percent(animation.run))

    def _decode(self, animation: Animation, part: Part) -> None:
        staged = animation.lease.slot.part(part.of(animation.latent))
        arrays, seconds = self._backend.render(staged, animation.job)
        if not animation.todo:
            animation.lease.close()
        animation.decode_seconds += seconds
        self._count(animation, seconds)
        start = time.thread_time()
        pictures = arrays[0].reshape(-1, *arrays[0].shape[-3:])
        for i, duration in zip(part.shown, part.durations, strict=True):
            animation.pictures.append(self._encoded(animation, pictures[i]))
            animation.durations.append(duration)
        animation.encode_seconds += time.thread_time() - start

    def _count(self, animation: Animation, seconds: float) -> None:
        """A part took so long. A first one makes things ready, and tells nothing of the next."""
        is_first, self._warm = animation.job != self._warm, animation.job
        if is_first:
            self.budget.renew()
            return
        cost = self._costs.note(animation.makings[0], animation.latent, seconds)
        animation.run.spend(cost)
        if not animation.still.label.is_last:
            self.budget.spend(records.now(), seconds)

    def _encoded(self, animation: Animation, picture: np.ndarray) -> bytes:
        return encode.encoded(picture, animation.size, "webp", animation.run.settings.quality)

    def _send(self, animation: Animation) -> None:
        image = animated_webp(animation.pictures, animation.durations, animation.size)
        label = animation.run.another(animation.still.label)
        info = replace(
            animation.still.info,
            size=animation.size,
            decoder=animation.makings[0].source.name,
            decode_ms=animation.decode_seconds * 1000,
            grid=None,
            animation=(len(animation.pictures), sum(animation.durations)),
        )
        self._rests_until = records.now() + animation.encode_seconds / ENCODING_SHARE
        self._newest = animation.run.number
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


class Costs:
    """What a part of an animation takes of the device, by how it is made."""

    KEPT = 64

    def __init__(self) -> None:
        self._costs: OrderedDict[tuple[object, int], deque[float]] = OrderedDict()

    def note(self, making: Making, latent: torch.Tensor, seconds: float) -> float:
        """A part took `seconds`. Returns what that costs, as in `Budget`."""
        work = (_kind(making, latent), making.max_size)
        known = self._costs.setdefault(work, deque(maxlen=5))
        self._costs.move_to_end(work)
        while len(self._costs) > self.KEPT:
            self._costs.popitem(last=False)
        known.append(seconds)
        return min(known)

    def expected(self, making: Making, latent: torch.Tensor) -> float | None:
        """Seconds that a part takes, as far as it was made so, or larger; None where it was not."""
        kind = _kind(making, latent)
        found = {}
        for (known, size), costs in self._costs.items():
            if known == kind and size >= making.max_size:
                # The work of a convolution grows with the picture's area.
                found[size] = min(costs) * (making.max_size / size) ** 2
        return found[min(found)] if found else None


def _kind(making: Making, latent: torch.Tensor) -> object:
    return making.source.key, latent.shape[1], latent.shape[-2:]


def has_limit(budget: float) -> bool:
    """Whether a budget in percent limits anything."""
    return 0 < budget < 100
