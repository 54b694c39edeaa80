"""Makes animated previews, a few frames at a time between the still ones."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from .. import records
from ..decoders.cache import DecoderCache
from ..decoders.protocols import Decoder, Source, VideoDecoder
from ..decoders.vae import is_short_of_memory
from ..deliver import encode
from ..deliver.webp import LONGEST, animated_webp
from ..plain import in_a_line
from ..records import Encoded, Picture
from .backends import Backend, BackendError
from .budget import Budget
from .chain import Pause
from .job import RenderJob, StreamingRenderJob, shown_size
from .protocols import Run, Sink
from .quicker import SMALLER
from .slots import Lease, Snapshot

log = logging.getLogger(__name__)

BUDGET_SHARE = 0.3
"""The least share of the setting `budget` for an animation in progress.

An animation takes about twenty decodes, and people wait for stills rather than for it.
"""
STILLS_TO_COME = 2
"""The number of stills for which animations always leave room in the budget."""
OLDEST = 0.25
"""The share of a run's duration that an animation may take, if quicker ways can achieve that."""
SIZE = 0.75
"""The size of animated videos relative to `max_size`: most decoders can skip an upsampling then."""
ENCODING_SHARE = 0.1
"""The share of a CPU core for encoding animations: WebP's encoder holds the GIL at times."""
BATCH_RATE = 8.0
"""Images per second of a batch that is played as an animation, if `fps` is not set."""
PATIENCE = 0.02
"""Seconds until a waiting animation checks again whether it may continue."""


@dataclass(frozen=True)
class Part:
    """One decode of an animation, some of whose pictures are shown."""

    index: int
    """That of the latent frame, or of the image in a batch."""
    shown: tuple[int, ...]
    """Which of the decoded pictures are shown, from 0."""
    durations: tuple[int, ...]
    """How long each of these is shown, in milliseconds."""

    def of(self, latent: torch.Tensor) -> torch.Tensor:
        """The part of the whole latent [B, C, ...] that is decoded."""
        i = self.index
        return latent[:1, :, i : i + 1] if latent.ndim == 5 else latent[i : i + 1]


def parts(visible: Sequence[range], limit: int, rate: float) -> list[Part]:
    """The plan of an animation in which latent frame i has the visible pictures `visible[i]`.

    At most `limit` of them (0: all) are shown, evenly spread, each until the next one. `rate` is
    that of all pictures, per second. The plan ends with the last latent frame that is needed.
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
    """How to animate a latent, of a video or of a batch's `images`; `most` limits the pictures."""
    settings = run.settings
    if latent.ndim == 5:
        assert isinstance(decoder, VideoDecoder)
        limits = [each for each in (settings.video_frames, most) if each]
        visible = [decoder.visible_frames(i) for i in range(latent.shape[2])]
        return parts(visible, min(limits, default=0), run.latent_rate() * decoder.frames_each)
    return parts([range(1)] * len(images), most, settings.fps or BATCH_RATE)


class Recipe(NamedTuple):
    """A way to make animations."""

    source: Source
    max_size: int
    full: bool


@dataclass(eq=False)
class Animation:
    """An unfinished animation, of the step whose latent is in the slot of `lease`."""

    run: Run
    still: Picture
    lease: Lease
    latent: torch.Tensor
    recipes: list[Recipe]
    """The current way, then others, each quicker than the one before."""
    job: RenderJob | StreamingRenderJob
    size: tuple[int, int]
    todo: deque[Part]
    pictures: list[bytes] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0


def moves(still: Picture, decoder: Decoder, latent: torch.Tensor) -> bool:
    """Whether the staged latent has more to show than the picture of `still`."""
    if still.label.step == 0:
        return False  # an animation of noise would delay that of the first step
    if not is_played(still.label.run, latent, still.label.images):
        return False
    return latent.ndim != 5 or isinstance(decoder, VideoDecoder)


def is_played(run: records.Run, latent: torch.Tensor, images: range) -> bool:
    """Whether `latent` is that of a video, or of a batch whose `images` are to be animated."""
    settings = run.settings
    if latent.ndim == 5:
        return latent.shape[2] > 1 and settings.video_frames != 1
    return settings.batch == "animation" and len(images) > 1


def animation_size(run: Run, latent: torch.Tensor) -> int:
    """The longest side that an animation of `latent` may have, in pixels."""
    smaller = latent.ndim == 5 and run.settings.detail != "full"
    return max(1, round(run.max_size * SIZE)) if smaller else run.max_size


class Animator:
    """Makes one animation at a time, on the worker's thread; only `busy` is for other threads, too.

    While a run samples, animations take what its stills leave of the budget, but at least
    `BUDGET_SHARE`. Those that would take longer than a quarter of the run are made smaller, or by
    the quickest decoder. The last step's starts at once and does not have to wait, but takes no
    more than is left of the whole run's budget.
    """

    def __init__(
        self, backend: Backend, sink: Sink, decoders: DecoderCache, stills: Sequence[Budget]
    ) -> None:
        """`stills` are the budgets of stills, the best decoder's first, and of sounds."""
        self.budget = Budget()
        """That of all animations except those of last steps."""
        self._backend = backend
        self._sink = sink
        self._decoders = decoders
        self._stills = stills
        self._animation: Animation | None = None
        self._streaming: StreamingRenderJob | None = None
        self._streaming_for: object = None
        """What `_streaming` was made for: its memory fits latents of one size."""
        self._warm: object = None
        self._costs = Costs()
        self._rests_until = float("-inf")
        self._newest = 0
        """The number of the run whose animation was sent last."""
        self._pause: Pause | None = None
        """Until there may be memory again; None once an animation was sent."""
        self._pauses = 0
        """The number of the run that lacked memory last: only its animations pause."""

    @property
    def busy(self) -> bool:
        """Whether an animation is in progress."""
        return self._animation is not None

    @property
    def run(self) -> Run | None:
        """The run whose animation is in progress."""
        return None if self._animation is None else self._animation.run

    def begin(self, snapshot: Snapshot, still: Picture, source: Source, decoder: Decoder) -> None:
        """Start to animate the latent of `still`, if that is wanted and possible at the moment.

        If so, the slot of `snapshot` is taken over.
        """
        run, latent = snapshot.run, snapshot.lease.slot.latent
        if not (latent.ndim == 5 and is_played(run, latent, still.label.images)):
            self._streaming = self._streaming_for = None  # `forget` comes only when idle
        if not moves(still, decoder, latent) or run.animation_failed:
            return
        if not (self._may_begin(run, still.label.is_last) and self._sink.animates(run)):
            return
        self._stop()
        try:
            recipes = self._recipes(run, source, latent)
            size = shown_size(decoder, (1, *latent.shape[1:]), recipes[0].max_size)
            job, plan = self._planned(run, still, latent, recipes[0])
            lease = snapshot.lease.take_over()
            self._animation = animation = Animation(
                run, still, lease, latent, recipes, job, size, deque(plan)
            )
            run.acquire()
            self._hurry(animation)
        except Exception as error:
            self._give_up(run, error)

    def _may_begin(self, run: Run, is_last: bool) -> bool:
        """Whether there is time for another one; always for a run's last one, and for its first."""
        if is_last:
            return True
        now, is_first = records.now(), run.number != self._newest
        if run.number == self._pauses and self._pause is not None and now < self._pause.until:
            return False
        return self._animation is None and (is_first or now >= self._rests_until)

    def patience(self) -> float:
        """Seconds to wait for a still before continuing with the animation; 0 for none."""
        return 0.0 if self._may_decode() else PATIENCE

    def advance(self) -> bool:
        """Decode the animation's next part, or send it; False if there is nothing to do yet."""
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
        passes, again = is_short_of_memory(error), run.number == self._pauses
        if not (passes and again):
            log.warning(
                "[SideStream] Animated previews failed (%s); this run continues with stills%s.",
                in_a_line(error),
                " and retries them later" if passes else "",
            )
        if passes:
            self._pause = Pause.after(self._pause if again else None, records.now())
            self._pauses = run.number
        run.animation_failed = not passes
        self.forget()

    def forget(self) -> None:
        """Drop the animation and all of its decoder's working memory."""
        self._stop()
        self._streaming = self._streaming_for = None
        self._warm = None

    # Making it

    def _recipes(self, run: Run, source: Source, latent: torch.Tensor) -> list[Recipe]:
        size, full = animation_size(run, latent), run.settings.detail == "full"
        quickest = run.chain.after(source, records.now())
        if quickest is None:
            return [Recipe(source, size, full)]
        smaller = [Recipe(source, max(1, size // times), False) for times in SMALLER]
        return [Recipe(source, size, full), *smaller, Recipe(quickest, size, full)]

    def _planned(
        self, run: Run, still: Picture, latent: torch.Tensor, recipe: Recipe
    ) -> tuple[RenderJob | StreamingRenderJob, list[Part]]:
        decoder = self._decoders.get(recipe.source, self._backend.device)
        plan = plan_of(run, decoder, latent, still.label.images)
        if latent.ndim != 5:
            return RenderJob(decoder, recipe.max_size, recipe.full), plan
        assert isinstance(decoder, VideoDecoder)
        return self._rewound_job(decoder, recipe, latent.shape[-2:]), plan

    def _rewound_job(
        self, decoder: VideoDecoder, recipe: Recipe, size: torch.Size
    ) -> StreamingRenderJob:
        """The last animation's job if it fits, since its memory is already allocated."""
        wanted = (decoder, recipe.max_size, recipe.full, size)
        if self._streaming is None or self._streaming_for != wanted:
            self._streaming = StreamingRenderJob(decoder, recipe.max_size, recipe.full)
            self._streaming_for = wanted
        self._streaming.rewind()
        return self._streaming

    def _hurry(self, animation: Animation) -> None:
        """Start over in a quicker way if this one would take too long."""
        room = self._room(animation)
        while animation.todo and len(animation.recipes) > 1:
            cost = self._expected(animation)
            if cost is None or cost * len(animation.todo) <= room:
                return
            animation.recipes.pop(0)
            self.budget.renew()
            recipe = animation.recipes[0]
            job, plan = self._planned(animation.run, animation.still, animation.latent, recipe)
            animation.job, animation.todo = job, deque(plan)
            animation.pictures.clear()
            animation.durations.clear()

    def _expected(self, animation: Animation) -> float | None:
        """Seconds of the device's time for a part; None if unknown."""
        recipe = animation.recipes[0]
        known = self._costs.expected(recipe, animation.latent)
        still = animation.still.info
        if known is not None or still.decoder != recipe.source.name or not still.decode_ms:
            return known
        # A still is the picture of one latent frame, too.
        return still.decode_ms / 1000 * min(1.0, recipe.max_size / animation.run.max_size) ** 2

    def _room(self, animation: Animation) -> float:
        """Seconds of the device's time for the rest of an animation."""
        run = animation.run
        budget, duration = run.settings.budget, run.duration
        share = self._percent(run) / 100 if has_limit(budget) else 1.0
        if animation.still.label.is_last and has_limit(budget):
            return budget / 100 * run.sampled_for - run.spent
        return float("inf") if duration is None else share * duration * OLDEST

    def _percent(self, run: Run) -> float:
        """The share of the device, in percent, for animations at the moment; 0 for no limit."""
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
        quality = animation.run.settings.quality
        for i, duration in zip(part.shown, part.durations, strict=True):
            encoded = encode.encoded(pictures[i], animation.size, "webp", quality)
            animation.pictures.append(encoded)
            animation.durations.append(duration)
        animation.encode_seconds += time.thread_time() - start

    def _count(self, animation: Animation, seconds: float) -> None:
        """Account for a part. The first one of a kind includes warm-up, so it is not typical."""
        kind = animation.job.kind
        is_first, self._warm = kind != self._warm, kind
        if is_first:
            self.budget.renew()
            return
        cost = self._costs.note(animation.recipes[0], animation.latent, seconds)
        animation.run.spent += cost
        if not animation.still.label.is_last:
            self.budget.spend(records.now(), seconds)

    def _send(self, animation: Animation) -> None:
        image = animated_webp(animation.pictures, animation.durations, animation.size)
        label = animation.run.another(animation.still.label)
        info = replace(
            animation.still.info,
            size=animation.size,
            decoder=animation.recipes[0].source.name,
            decode_ms=animation.decode_seconds * 1000,
            grid=None,
            animation=(len(animation.pictures), sum(animation.durations)),
        )
        self._rests_until = records.now() + animation.encode_seconds / ENCODING_SHARE
        self._newest, self._pause = animation.run.number, None
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
    """The device's time for a part of an animation, by the way in which it is made."""

    KEPT = 64

    def __init__(self) -> None:
        self._costs: OrderedDict[tuple[object, int], deque[float]] = OrderedDict()

    def note(self, recipe: Recipe, latent: torch.Tensor, seconds: float) -> float:
        """Note that a part took `seconds`; returns its cost, as in `Budget`."""
        work = (_kind(recipe, latent), recipe.max_size)
        known = self._costs.setdefault(work, deque(maxlen=5))
        self._costs.move_to_end(work)
        while len(self._costs) > self.KEPT:
            self._costs.popitem(last=False)
        known.append(seconds)
        return min(known)

    def expected(self, recipe: Recipe, latent: torch.Tensor) -> float | None:
        """Seconds for a part, if one was made in this way, or larger; otherwise None."""
        kind = _kind(recipe, latent)
        found = {}
        for (known, size), costs in self._costs.items():
            if known == kind and size >= recipe.max_size:
                # The work of a convolution grows with the picture's area.
                found[size] = min(costs) * (recipe.max_size / size) ** 2
        return found[min(found)] if found else None


def _kind(recipe: Recipe, latent: torch.Tensor) -> object:
    return recipe.source.key, latent.shape[1], latent.shape[-2:]


def has_limit(budget: float) -> bool:
    """Whether a budget in percent limits anything."""
    return 0 < budget < 100
