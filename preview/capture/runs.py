"""The active runs: their settings, their frames, and what became of those."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .. import records
from ..plain import in_a_line
from ..records import FIRST_IMAGE, Label, NodeContext, Outcomes, Video
from ..render.chain import Failures, FallbackChain
from ..settings import SettingError, Settings, combined
from .clients import Clients, overlay
from .throttle import Throttle

if TYPE_CHECKING:
    import torch

    from ..decoder_files import Kind
    from ..decoders.protocols import Source
    from ..decoders.sound import SoundSource
    from ..render.recording import Recording

log = logging.getLogger(__name__)


class Finisher(Protocol):
    """Ends a sampler early; see `host.sampling`."""

    def finish(self, step: int, x0: Any, x: Any) -> None:
        """Called in its callback of `step` (from 0). Returns if it is not possible."""


@dataclass(slots=True)
class SettingsLayers:
    """A run's settings by where they come from; see `settings.combined` for which one wins."""

    client: Mapping[str, Any] = field(default_factory=dict)
    node: Mapping[str, Any] = field(default_factory=dict)
    live: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> Settings:
        return combined(self.client, self.node, self.live)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that a run is made from."""

    context: NodeContext
    layers: SettingsLayers
    sources_for: Callable[[Settings], Sequence[Source]]
    """The decoders that settings ask for, best first."""
    default_size: int
    steps: int = 0
    video: Video = field(default_factory=Video)
    is_broken: Callable[[Source], bool] = lambda source: False
    """Whether a decoder is known to fail."""
    missing_decoder: Kind | None = None
    """The missing kind of decoder files that would make its previews sharp."""
    recording: Recording | None = None
    """Where to keep its steps, if a node of its prompt wants them."""
    sound: SoundSource | None = None
    """What decodes its sound, if that is wanted."""
    no_sound: str = ""
    """Why its sound is not decoded although it is wanted; see `transport.WHY_NO_SOUND`."""


class Execution:
    """One execution of a node, which clients see as one run however often the node samples.

    Its samplings share the throttle, the numbering of frames and the counters.
    """

    def __init__(self) -> None:
        # Not from a random number generator: those belong to the sampler.
        self.id = os.urandom(6).hex()
        self.throttle = Throttle()
        self.outcomes = Outcomes()
        self.began_at = records.now()
        self.stages = 0
        """The number of samplings so far."""
        self.seq = 0
        """The newest frame's number."""
        self.newest = 0
        """The number of the sampling that made the last step."""
        self.steps = 0
        """The steps of all samplings so far."""
        self.lock = threading.RLock()  # like all locks that `Run.end` takes: see there


class Run:
    """One sampling, a stage of its node's run: from the making of its previewer to its last frame.

    The sampler's thread captures its frames; any thread may change its settings or end it.
    """

    def __init__(
        self, spec: RunSpec, number: int, execution: Execution, on_closed: Callable[[Run], None]
    ) -> None:
        """`number` is higher than those of all earlier runs."""
        self.execution = execution
        execution.stages += 1
        self.id, self.stage = execution.id, execution.stages
        self._spec = spec
        self.recording = spec.recording
        self._recorded = Throttle()
        """The throttle of recorded steps, for which neither watchers nor the budget matter."""
        self.number = number
        self.context = spec.context
        self.missing_decoder = spec.missing_decoder and spec.missing_decoder.wire()
        """The file that would make its previews sharp, as sent to clients."""
        self.settings = spec.layers.settings()
        self._failures = Failures()
        self.chain = self._chain_for(self.settings)
        self.left_to_host = False
        """Whether its latents cannot be staged, so that ComfyUI's own previewer takes over."""
        self.host_failed = False
        """Whether ComfyUI's own previewer, the last resort, failed, too."""
        self._begun_at = self._stepped_at = records.now()
        self.spent = 0.0
        """Seconds of the decoding device's time that its previews took."""
        self.step = 0
        self.total_steps = self._announced = spec.steps
        self._steps_before: int | None = None
        self._held = False
        self._method = self.settings.method
        """The method for which `chain` was made."""
        self.outcomes = Outcomes()
        self.outcomes_of_node = execution.outcomes
        self.began_at: float | None = None
        """When its sampler began, after loading the model; None if ComfyUI does not report it."""
        self.sigmas: torch.Tensor | Sequence[float] | None = None
        """The noise levels before each step and after the last; a tensor until it is read."""
        self.ended = False
        """Whether its sampling is over."""
        self.aborted = False
        self.paused = False
        """Whether its client has paused previews: steps are counted, but no frame is wanted."""
        self.finisher: Finisher | None = None
        """What can end its sampler early, while that is running."""
        self.finish_requested = False
        """Whether its client wants the next step to be the last."""
        self.finished_early: int | None = None
        """The step after which the sampler was ended at its client's request."""
        self.animation_failed = False
        """Whether animated previews failed, so that no more are made."""
        self.sound = spec.sound
        self.sound_failed = False
        """Whether its sound failed for good."""
        self.warned_of_loss = False
        """Whether a warning about lost frames was logged."""
        self.warned_of_silence = False
        """Whether a warning was logged that clients are not told of its start, sampling or end."""
        self.slow: dict[str, Any] | None = None
        """The decoder that is too slow for the budget, if any, as sent to clients."""
        self.strikes = 0
        """How often the worker failed at it."""
        self.frames_not_finite = 0
        """The number of frames with positions that were not finite."""
        self._open: set[int] = set()
        """The numbers of the frames that are not closed."""
        self._acquired = 0
        self._ended_at = float("inf")
        self._on_closed = on_closed
        self._lock = execution.lock

    def staging_failed(self, error: BaseException | None, *, passes: bool) -> None:
        """A latent could not be staged: for now, as memory is short (`passes`), or for good."""
        if not self.left_to_host and not self.warned_of_loss:
            log.warning(
                "[SideStream] A latent could not be staged (%s); ComfyUI's own previewer shows %s.",
                in_a_line(error) if error is not None else "unknown reason",
                "such steps" if passes else "this run",
            )
        self.warned_of_loss = True
        self.left_to_host |= not passes

    def at(self, step: int, total_steps: int) -> None:
        """The sampler has finished `step` (from 1) of `total_steps`.

        Some samplers exceed what they announce: then the total grows. 0 means that it is unknown.
        """
        self._stepped_at = records.now()
        self.step, self._announced = step, total_steps
        self.total_steps = max(step, total_steps) if total_steps else 0
        execution = self.execution
        if self._steps_before is None:
            self._steps_before = execution.steps
        execution.steps = max(execution.steps, self._steps_before + step)
        execution.newest = self.number

    def begin(self, sigmas: torch.Tensor | None) -> None:
        """The model is loaded and its sampler begins, with `sigmas` if they can be read."""
        self.began_at = self._begun_at = self._stepped_at = records.now()
        self.sigmas = sigmas

    @property
    def sampled_for(self) -> float:
        """Seconds from its beginning to its newest step."""
        return self._stepped_at - self._begun_at

    @property
    def duration(self) -> float | None:
        """The expected seconds of its whole sampling, at its pace so far; None if unknown."""
        if not self.step or not self.total_steps:
            return None
        return self.sampled_for * self.total_steps / self.step

    def wants(self, now: float) -> bool:
        """Whether to capture the frame of the current step.

        What may be the node's last step is captured and held even if the throttle forbids it.
        """
        self._follow_method()
        if self.ended or self.paused or not self.chain.wanted:
            return False
        admitted = self.admits(self.step, now)
        self._held = not admitted and self.may_be_last
        return admitted or self._held

    def records(self, now: float) -> bool:
        """Whether to record the current step, even if its preview is not sent; to be asked once."""
        if self.ended or self.paused or not self.chain.wanted:
            return False
        settings, is_last = self.settings, self._is_last(self.step)
        wanted = self._recorded.admits(
            self.step,
            is_last,
            now,
            throttle_ms=settings.throttle_ms,
            every_n_steps=settings.every_n_steps,
        )
        if wanted:
            self._recorded.mark(now, is_last)
        return wanted

    @property
    def wants_start(self) -> bool:
        """Whether to show, as step 0, what its sampling starts from."""
        self._follow_method()
        wanted = self.settings.step_zero == "noise" and not self.step
        return wanted and not (self.ended or self.paused) and self.chain.wanted

    @property
    def wants_sound(self) -> bool:
        """Whether the sound of some of its steps is wanted."""
        if self.sound is None or self.sound_failed:
            return False
        return not self.ended and not self.paused and self.chain.wanted

    def admits(self, step: int, now: float) -> bool:
        """Whether the throttle lets the frame of `step` pass at `now`."""
        settings = self.settings
        return self.execution.throttle.admits(
            (self._steps_before or 0) + step,
            self._is_last(step),
            now,
            throttle_ms=settings.throttle_ms,
            every_n_steps=settings.every_n_steps,
        )

    def _is_last(self, step: int) -> bool:
        return step == self._announced

    @property
    def may_be_last(self) -> bool:
        """Whether the current step may be the last."""
        return self.step >= self._announced

    @property
    def is_at_edge(self) -> bool:
        """Whether the current step is the first shown or the last; limits do not apply to these."""
        throttle = self.execution.throttle
        return not throttle.has_begun or throttle.is_first_end(self._is_last(self.step))

    def hold_back(self) -> None:
        """Hold the frame of the current step, in case no other follows."""
        self._held = True

    def capture(self, now: float, images: range = FIRST_IMAGE) -> Label:
        """A new frame of the current step. The caller must `close` it."""
        is_last = self._is_last(self.step)
        label = Label(
            self, self._next(), self.step, self.total_steps, now, images, self._held, is_last
        )
        if not self._held and self.step:  # the start is no step
            self.execution.throttle.mark(now, is_last)
        return label

    def capture_sound(self, now: float) -> Label:
        """A label for the sound of the current step. It is not a frame, and need not be closed."""
        return Label(self, 0, self.step, self.total_steps, now)

    def let_pass(self, label: Label, now: float) -> Label:
        """A held frame is shown at `now`."""
        self.execution.throttle.mark(now)
        return label._replace(held=False)

    def note_slow(self, decoder: str, seconds: float, between: float) -> None:
        """A decoder takes `seconds`, so it may only decode every `between` seconds."""
        if self.slow is None:
            log.info(
                "[SideStream] %s previews take %.2f s each, so the budget of %d %% allows one every"
                " %.0f s; a faster decoder fills the gaps. To get more, raise the budget (0 sets"
                " no limit) or reduce max_size.",
                decoder,
                seconds,
                self.settings.budget,
                between,
            )
        ms, every = round(seconds * 1000), round(between, 1)
        self.slow = {"decoder": decoder, "decode_ms": ms, "seconds_between": every}

    def another(self, label: Label) -> Label:
        """A new frame of the step of `label`. The caller must `close` it."""
        return label._replace(seq=self._next(), images=FIRST_IMAGE, held=False)

    def latent_rate(self) -> float:
        """Latent frames of a video that play per second."""
        video = self._spec.video
        return (self.settings.fps or video.fps) / video.frames_each

    def _next(self) -> int:
        """The number of a new frame, which is open from now on."""
        with self._lock:
            self.execution.seq += 1
            self._open.add(self.execution.seq)
            return self.execution.seq

    def change(self, live: Mapping[str, Any]) -> None:
        """Apply live changes to the run's settings; None undoes one."""
        overlay(self._spec.layers.live, live)
        self.settings = self._spec.layers.settings()

    def _follow_method(self) -> None:
        """Switch to the decoders of a changed method; if that fails, the method is changed back.

        This happens on the sampler's thread, the only one that may copy a VAE, so that whoever
        changes the method does not have to wait for a disk.
        """
        settings = self.settings
        if settings.method == self._method:
            return
        try:
            self.chain = self._chain_for(settings)
            self._method = settings.method
        except Exception as error:
            self._spec.layers.live["method"] = self._method
            self.settings = self._spec.layers.settings()
            log.warning(
                "[SideStream] Previews keep the method %s, because the new one failed (%s).",
                self._method,
                in_a_line(error),
            )

    def _chain_for(self, settings: Settings) -> FallbackChain:
        sources = self._spec.sources_for(settings)
        for source in filter(self._spec.is_broken, sources):
            self._failures.leave(source)
        return FallbackChain(sources, self._failures)

    @property
    def live(self) -> dict[str, Any]:
        """The settings that were changed for this run and for later ones of its prompt."""
        return dict(self._spec.layers.live)

    def ended_for(self, now: float) -> float:
        """Seconds since the sampling ended; below 0 if it has not."""
        return now - self._ended_at

    def end(self) -> None:
        """Sampling is over; frames in progress may still arrive.

        Also called when a previewer is garbage collected: at any moment, whichever locks are held.
        """
        with self._lock:
            if not self.ended:
                self.ended, self._ended_at = True, records.now()
        self._close_if_over()

    @property
    def can_finish(self) -> bool:
        """Whether the client that queued it can finish its sampling early."""
        return self.finisher is not None and self.context.client_id is not None

    def finishes_here(self) -> Finisher | None:
        """Make the current step the last one, as requested; returns what ends the sampler."""
        self.finish_requested = False
        self._announced = self.step  # so the throttle lets it pass
        return self.finisher

    def abort(self) -> None:
        """Sampling was interrupted or failed: nothing more is sent."""
        self.aborted = True
        self.end()

    def close(self, label: Label, outcome: str) -> None:
        """Close a frame and count its outcome; does nothing if it is closed already."""
        with self._lock:
            if label.seq not in self._open:
                return
            if not label.held:  # held ones count as little as other steps that the throttle forbids
                self.outcomes[outcome] += 1
                self.outcomes_of_node[outcome] += 1
            # Last: who sees no open frame sees the outcome of each, also without the lock.
            self._open.remove(label.seq)
        if self.ended:
            self._close_if_over()

    def is_open(self, label: Label) -> bool:
        """Whether that frame is not closed."""
        return label.seq in self._open

    @property
    def open_frames(self) -> int:
        """The number of frames that are open, or may still result from work in progress."""
        return len(self._open) + self._acquired

    def acquire(self) -> None:
        """Work in progress may still lead to a frame, until `release`."""
        with self._lock:
            self._acquired += 1

    def release(self) -> None:
        """The work is done, and so is the run if that was the last."""
        with self._lock:
            self._acquired -= 1
        self._close_if_over()

    def _close_if_over(self) -> None:
        if self.ended and not self.open_frames:
            self._on_closed(self)

    @property
    def is_outrun(self) -> bool:
        """Whether its node has started another sampling."""
        return self.execution.newest != self.number

    @property
    def max_size(self) -> int:
        """The longest side of the run's previews, in pixels."""
        return self.settings.max_size or self._spec.default_size


class Runs:
    """The active runs, and what became of all frames since the start."""

    EXECUTIONS = 16  # remembered, as their nodes may sample again

    def __init__(
        self,
        on_start: Callable[[Run], None],
        on_end: Callable[[Run], None],
        clients: Clients | None = None,
    ) -> None:
        self._clients = clients or Clients()
        self._active: dict[int, Run] = {}
        self._executions: OrderedDict[Hashable, Execution] = OrderedDict()
        self._closed: Counter[str] = Counter()
        self._not_finite = 0
        self._count = 0
        self._samplings = 0
        self._on_start = on_start
        self._on_end = on_end
        self._lock = threading.RLock()

    def start(self, spec: RunSpec) -> Run:
        with self._lock:
            self._samplings += 1
            number, execution = self._samplings, self._execution(spec.context)
        run = Run(spec, number, execution, self._close)  # outside the lock: it may search for files
        with self._lock:
            self._active[run.number] = run
        # Read once the run is registered, so that concurrent changes reach it in either case.
        context = spec.context
        if live := self._clients.live(context.client_id, context.prompt_id):
            run.change(live)
        run.paused = self._clients.paused(context.client_id)
        tell(self._on_start, run)
        return run

    def _execution(self, context: NodeContext) -> Execution:
        """The execution in which `context` samples."""
        key = (context.client_id, context.prompt_id, context.node_id)
        found = self._executions.get(key)
        if found is None or context.prompt_id is None or context.node_id is None:
            self._count += 1
            found = self._executions[key] = Execution()
        self._executions.move_to_end(key)
        while len(self._executions) > self.EXECUTIONS:
            self._executions.popitem(last=False)
        return found

    def change(self, client_id: str, live: Mapping[str, Any]) -> int:
        """Apply `live` to the client's runs and to those that its prompts will start.

        Returns the number of its runs.
        """
        self._clients.change(client_id, live)
        runs = self._of(client_id)
        for run in runs:
            run.change(live)
        return len({run.id for run in runs})

    def pause(self, client_id: str, paused: bool) -> int:
        """Pause or resume the previews of a client. Returns the number of its runs."""
        self._clients.pause(client_id, paused)
        runs = self._of(client_id)
        for run in runs:
            run.paused = paused
        return len({run.id for run in runs})

    def finish(self, client_id: str, run_id: str) -> None:
        """End the sampling of a client's run after its next step.

        Raises SettingError if it is not one of its runs, or cannot be ended.
        """
        runs = [run for run in self._of(client_id) if run.id == run_id and not run.ended]
        if not runs:
            raise SettingError("run must be the id of a run of this client that is sampling")
        if not runs[-1].can_finish:
            raise SettingError("run cannot be finished early: its sampler does not allow it")
        runs[-1].finish_requested = True

    def state(self, client_id: str) -> dict[str, Any]:
        """For a client: its pause and changes, and its runs."""
        now = records.now()
        return self._clients.state(client_id) | {
            "runs": [
                run.context.wire()
                | {
                    "run": run.id,
                    "stage": run.stage,
                    "total_steps": run.total_steps,
                    "settings": run.settings.as_dict(),
                    "can_finish": run.can_finish,
                    "running_ms": round((now - run.execution.began_at) * 1000, 1),
                    "slow": run.slow,
                    "missing_decoder": run.missing_decoder,
                }
                for run in self._of(client_id)
            ]
        }

    def progress(self, user: str) -> dict[str, Any]:
        """The progress of a user's newest active run; its id is None if there is none."""
        with self._lock:
            active = list(self._active.values())
        going = (run for run in active if run.context.user == user and not run.ended)
        run = max(going, key=lambda run: run.number, default=None)
        if run is None:
            return {"run": None}
        return {
            "run": run.id,
            "stage": run.stage,
            "step": run.step,
            "total_steps": run.total_steps,
        }

    def _of(self, client_id: str) -> list[Run]:
        with self._lock:
            active = list(self._active.values())
        return [run for run in active if run.context.client_id == client_id]

    def counters(self) -> dict[str, Any]:
        with self._lock:
            active = list(self._active.values())
            return {
                "runs": self._count,
                "active_runs": len({run.id for run in active}),
                # Copies, because the counts may still change.
                "frames": dict(sum((Counter(dict(r.outcomes)) for r in active), self._closed)),
                "not_finite": sum((run.frames_not_finite for run in active), self._not_finite),
            }

    def _close(self, run: Run) -> None:
        with self._lock:
            if self._active.pop(run.number, None) is None:
                return
            self._closed.update(run.outcomes)
            self._not_finite += run.frames_not_finite
        tell(self._on_end, run)


def tell(listener: Callable[[Run], None], run: Run) -> None:
    """Call `listener`, on whatever thread a run starts or ends, possibly the sampler's.

    Errors are logged once a run.
    """
    try:
        listener(run)
    except Exception as error:
        if not run.warned_of_silence:
            run.warned_of_silence = True
            log.warning(
                "[SideStream] The start or end of a run could not be announced (%s); clients miss"
                " it.",
                in_a_line(error),
            )
