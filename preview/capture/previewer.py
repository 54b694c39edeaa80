"""What a sampler's callback does: it tracks the run's steps and captures frames for the worker."""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from .. import host, records
from ..deliver.transport import Transport
from ..plain import in_a_line
from ..render.backends import BackendError, StagingError, inline
from ..render.convergence import readable
from ..render.engines import Engines
from ..render.mailbox import Frame
from ..render.recording import STEPS_RATE, Kept, even_size, expected_size
from ..render.sound import SoundSnapshot
from ..render.worker import Engine, drop
from .batches import shown_images, staged
from .runs import Run, tell

log = logging.getLogger(__name__)


class Previewer:
    """Passes latents to the engine and returns at once, without a picture."""

    def __init__(
        self,
        start: Callable[[], Run],
        engines: Engines,
        transport: Transport,
        own: Callable[[], Any],
        scale: int = 8,
        device: torch.device | None = None,
        views: bool = False,
        is_sound: bool = False,
    ) -> None:
        """`own` makes ComfyUI's previewer, `scale` is its pictures' pixels per latent pixel.

        `device` is where sampling is expected. With `views`, a latent's frames show one object from
        several sides; with `is_sound`, latents are sound without pictures.
        """
        self._start = start
        self._engines = engines
        self._transport = transport
        self._make_own = functools.cache(own)
        self._scale = scale
        self._views = views
        self._is_sound = is_sound
        self._shapes: Sequence[Sequence[int]] = ()
        """The shapes of the latents that are sampled as one, if there are several."""
        self._hidden = host.sampling.Hidden()
        self._captured: tuple[Engine, Frame] | None = None
        self._captured_sound: tuple[Engine, SoundSnapshot] | None = None
        self._in_step = False
        self._whole: Any = None
        """All that is sampled in this step: a callback may ask for a part of it only."""
        self._is_latent = True
        """Whether what the sampler gives in this step is a latent, which can be previewed."""
        self._asked = False
        self._is_recorded = False
        """Whether the engine keeps the current step for a recording."""
        self._engine: Engine | None = None
        self._engine_for: tuple[torch.device, str] | None = None
        self._given: host.Unmade | None = None
        """What the callback of the current step got."""
        self.is_direct = False
        """Whether ComfyUI's own callback calls it, with no pack's wrapper in between."""
        self._looked_at = False
        """Whether a pack looks at what it gets, to show it itself."""
        self._ends: weakref.finalize[[], Previewer] | None = None
        self.run = self._started()
        if device is not None and self.run.chain.wanted:
            # So that the worker tests its device during the sampler's first step.
            with contextlib.suppress(Exception):
                self._engine_of(device)

    def _started(self) -> Run:
        run = self._start()
        # For samplings that never report completion: packs with callbacks of their own.
        if self._ends is not None:
            self._ends.detach()  # the last run, which has ended
        self._ends = weakref.finalize(self, run.end)
        self._ends.atexit = False
        return run

    def decode_latent_to_preview_image(
        self, preview_format: str, x0: torch.Tensor
    ) -> Sequence[Any] | None:
        """Stage the frame of the current step; SideStream sends it when it is ready.

        A call outside a tracked callback counts as a step of its own. Returns None to ComfyUI's own
        callback. Others get an `Unmade`, which replaces SideStream's frames once they have looked.
        """
        self._asked = not self._looked_at
        is_step, wanted = not self._in_step, False
        try:
            if is_step:
                self._follow()
                self._begin_step(self.run.step, host.prompts.announced_steps(self.run.context))
            host.prompts.expect_progress()
            self._record(x0)
            wanted = self.run.wants(records.now())
            if wanted and not self._looked_at and self._transport.watched(self.run):
                self._capture(self._picture_of(x0))
            if self.run.wants_sound and self._transport.watched(self.run):
                self._capture_sound(x0)
        except Exception as error:
            self._fail(error)
        finally:
            if is_step:
                self._end_step()
        if self.is_direct:
            return None
        look = functools.partial(looked_at, weakref.ref(self), self._make_own, preview_format, x0)
        preview = host.Unmade(look)
        if self._looked_at or not wanted:
            preview.replaced = not wanted
        elif is_step:
            preview.replaced = True  # by the frame that was handed over
        else:
            self._given = preview
        return preview

    def _follow(self) -> None:
        """Start another run if a pack keeps this previewer, and another node executes now."""
        if host.prompts.is_elsewhere(self.run.context):
            self.run.end()
            self.run = self._started()
            self._looked_at = False

    def _fail(self, error: Exception) -> None:
        log.warning(
            "[SideStream] A preview failed (%s); sampling continues without previews.",
            in_a_line(error),
            exc_info=log.isEnabledFor(logging.DEBUG),
        )
        self.run.abort()

    def __bool__(self) -> bool:
        """Whether there is something to preview in this step.

        ComfyUI accesses the latent before it calls a previewer, so it would fail if a sampler gives
        none, which it accepts without previews.
        """
        return self._is_latent

    @functools.cached_property
    def decode_latent_to_preview(self) -> Callable[[torch.Tensor], Any]:
        """For packs that decode themselves: ComfyUI's picture of a latent, made immediately.

        Absent if ComfyUI has no previewer for such latents: VideoHelperSuite takes apart previewers
        that have this method, and fails if it finds nothing that it knows.
        """
        decode: Callable[[torch.Tensor], Any] = self._own.decode_latent_to_preview
        return decode

    def with_step_tracking(
        self, callback: Callable[..., Any], asks: Callable[[Run, bool], None]
    ) -> Callable[..., Any]:
        """`callback`, wrapped to report its step and any exception to the run.

        `asks` is told whether the callback asks this previewer for pictures, initially and at each
        change. If the run was asked to finish, the sampler is ended after the step.
        """
        before: bool | None = None

        @functools.wraps(callback)
        def tracked(step: int, x0: Any, x: Any, total_steps: int) -> Any:
            nonlocal before
            self._begin_step(step, total_steps)
            run = self.run
            finisher = run.finishes_here() if run.finish_requested else None
            self._asked, self._whole = False, x0
            self._is_latent = hasattr(x0, "is_nested")
            if not (self._is_latent or run.aborted):
                self._fail(TypeError(f"the sampler gave {type(x0).__name__} instead of a latent"))
            try:
                result = callback(step, x0, x, total_steps)
                if self._is_latent and self._asked is not before:
                    before = self._asked
                    with contextlib.suppress(Exception):  # it reads other packs' nodes
                        asks(run, before)
            except BaseException:
                run.abort()
                raise
            finally:
                self._end_step()
            if finisher is not None:
                finisher.finish(step, x0, x)
            return result

        return tracked

    def _begin_step(self, step: Any, total_steps: Any) -> None:
        """Tell the run that `step` (from 0) is done; a new run if it is of another sampling."""
        self._in_step = True
        run = self.run
        try:
            number, total = int(step) + 1, int(total_steps)
        except Exception:  # a sampler may count with anything
            number, total = run.step + 1, run.total_steps
        # One callback for several samplings: the next one, or one that failed and is retried.
        is_another = not run.aborted or number <= max(run.step, 1)
        if run.ended and is_another:
            try:
                run = self.run = self._started()
            except Exception as error:
                run.abort()
                log.warning(
                    "[SideStream] Previews could not be set up (%s); this sampling has none.",
                    in_a_line(error),
                )
        run.at(number, total)

    def _end_step(self) -> None:
        """The callback is about to return: pass what was captured to the worker."""
        self._in_step, self._whole, self._is_latent = False, None, True
        given, self._given = self._given, None
        if given is not None and given.is_made and not given.replaced:
            self._drop()
        self._hand_over()

    def begun(self, shapes: Sequence[Sequence[int]], hidden: host.sampling.Hidden) -> None:
        """Sampling starts, with latents of these shapes: several if they are sampled as one.

        `hidden` are the frames of the first one that are not part of the video.
        """
        self._shapes, self._hidden = shapes, hidden

    def may_finish(self, finisher: host.sampling.Finisher) -> None:
        """The sampler has started, and `finisher` can end it early; or it has ended."""
        run = self.run
        run.finisher = finisher if finisher.is_open else None
        if finisher.is_open:
            run.begin(readable(finisher.sigmas))
            self._show_start(finisher)
            tell(lambda run: self._transport.announce(run, "sampling"), run)
        elif finisher.succeeded:
            run.finished_early = run.step
            log.info(
                "[SideStream] Sampling was finished early, at step %d of %d.",
                run.step,
                run.total_steps,
            )

    def _show_start(self, finisher: host.sampling.Finisher) -> None:
        """Capture what the sampler starts from, as step 0, if that is wanted."""
        try:
            run = self.run
            if not run.wants_start:
                return
            start = finisher.start()
            self._record(start, is_start=True)
            if run.stage == 1 and self._transport.watched(run):
                self._capture(self._picture_of(start))
        except Exception as error:
            log.warning(
                "[SideStream] What the sampling starts from cannot be shown (%s).",
                in_a_line(error),
            )
        finally:
            self._hand_over()

    def ended(self, failed: bool) -> None:
        """Sampling is over."""
        if failed:
            self.run.abort()
        else:
            self.run.end()

    def _picture_of(self, x0: Any) -> torch.Tensor:
        """The part of `x0` that is shown: [B, C, ...]."""
        latent = host.sampling.unpacked(host.sampling.latent_frame(x0), self._shapes)
        latent = self._hidden.cut_off(latent)
        return host.sampling.views_as_batch(latent) if self._views else latent

    def _shown(self, latent: torch.Tensor) -> tuple[torch.Tensor, range]:
        """What to stage of `latent` [B, C, ...], and the batch's images with which it begins."""
        settings = self.run.settings
        if self._views and settings.batch == "first":
            settings = settings.updated({"batch": "grid"})
        images = shown_images(latent.shape[0], settings)
        return staged(latent, images, settings), images

    def _record(self, x0: Any, is_start: bool = False) -> None:
        """Keep `x0` for the recording, if there is one and it wants this step."""
        run, self._is_recorded = self.run, False
        recording = run.recording
        if recording is None:
            return
        try:
            recording.reach(run)
            if not (recording.is_empty if is_start else run.records(records.now())):
                return
            latent = self._picture_of(x0)
            if not 3 <= latent.ndim <= 5:
                return
            engine = self._engine_of(latent.device)
            size = expected_size(latent, self._scale, run.max_size)
            with torch.inference_mode():
                self._is_recorded = engine.record(run, recording, *self._shown(latent), size)
        except BackendError:
            pass  # ComfyUI's own previewer makes the picture
        except Exception as error:
            run.recording = None
            log.warning(
                "[SideStream] A step could not be kept for Side-Stream Frames (%s); it gives only"
                " those before.",
                in_a_line(error),
            )

    def _capture(self, latent: torch.Tensor) -> None:
        if not 3 <= latent.ndim <= 5:
            log.info(
                "[SideStream] Latents with %d dimensions are not supported; this run has no"
                " previews.",
                latent.ndim,
            )
            self.run.abort()
            return
        try:
            engine = self._engine_of(latent.device)
        except BackendError:
            engine = None
        run = self.run
        if engine is None or run.left_to_host or run.chain.current(records.now()) is None:
            self._preview_inline(latent)
            return
        shown, images = self._shown(latent)
        try:
            if torch.is_inference_mode_enabled():  # as usual in ComfyUI; entering it takes time
                frame = engine.capture(run, shown, images)
            else:
                with torch.inference_mode():
                    frame = engine.capture(run, shown, images)
        except StagingError as error:
            cause = error.__cause__
            if not isinstance(cause, BackendError):  # which the worker reports
                run.staging_failed(cause, passes=isinstance(cause, torch.cuda.OutOfMemoryError))
            self._preview_inline(latent)
        else:
            self._keep(engine, frame)

    def _capture_sound(self, x0: Any) -> None:
        if self._captured_sound is not None:
            return  # a callback asks twice
        run = self.run
        if getattr(self._whole, "is_nested", False):
            x0 = self._whole
        latent = host.sampling.sound_latent(x0, self._shapes, self._is_sound)
        if latent is None:
            run.sound_failed = True
            self._transport.send_no_sound(run, "latents")
            return
        try:
            engine = self._engine_of(latent.device)
            with torch.inference_mode():
                snapshot = engine.capture_sound(run, latent[:1])
        except (BackendError, StagingError):
            return  # reported by the worker, or with this step's picture
        if snapshot is not None:
            self._captured_sound = (engine, snapshot)

    def _engine_of(self, device: torch.device) -> Engine:
        """The engine for latents on `device`. Raises BackendError."""
        wanted = (device, self.run.settings.device)
        if self._engine is None or self._engine_for != wanted or self._engine.problem is not None:
            self._engine_for, self._engine = wanted, self._engines.of(*wanted)
        return self._engine

    def _preview_inline(self, latent: torch.Tensor) -> None:
        """The last resort: ComfyUI's own previewer makes the picture on this thread."""
        run = self.run
        if run.host_failed:
            return
        courier = self._engines.courier()
        try:
            picture = self._own.decode_latent_to_preview(latent)
            frame = inline.frame(run, picture, latent.shape, self._scale)
        except torch.cuda.OutOfMemoryError:
            return  # without this frame; there may be memory for the next
        except Exception as error:
            run.host_failed = True
            log.warning(
                "[SideStream] ComfyUI's own previewer failed too (%s); this run continues without"
                " previews.",
                in_a_line(error),
            )
            return
        if run.recording is not None and not self._is_recorded:
            kept = Kept(run.recording.reach(run), frame.rgb, even_size(frame.info.size))
            run.recording.keep(None, [kept], STEPS_RATE)
        self._keep(courier, frame)

    def _keep(self, engine: Engine, frame: Frame | None) -> None:
        """Keep a captured frame until the callback is about to return."""
        self._hand_over()  # if a callback asks twice
        if frame is not None:
            self._captured = (engine, frame)

    def _drop(self) -> None:
        """Drop the captured frame, as a pack shows ComfyUI's own picture of this step."""
        if self._captured is not None:
            _, frame = self._captured
            self._captured = None
            drop(frame, records.REPLACED)

    def _hand_over(self) -> None:
        """Pass what was captured to the worker, as the last thing in a callback."""
        if self._captured_sound is not None:
            listener, snapshot = self._captured_sound
            self._captured_sound = None
            listener.publish_sound(snapshot)
        if self._captured is not None:
            engine, frame = self._captured
            self._captured = None
            try:
                engine.publish(frame)
            except Exception as error:
                log.warning(
                    "[SideStream] A preview was lost (%s); this run continues without previews.",
                    in_a_line(error),
                )
                self.run.abort()

    def __deepcopy__(self, memo: object) -> Previewer:
        return self  # a copy continues the same run

    def __copy__(self) -> Previewer:
        return self

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return _itself, (self._own,)  # without a run, elsewhere, it becomes ComfyUI's previewer

    @property
    def _own(self) -> Any:
        return self._make_own()

    def __getattr__(self, name: str) -> Any:
        # Packs that wrap previewers use the attributes of ComfyUI's own.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own, name)


def looked_at(
    previewer: weakref.ref[Previewer], make_own: Callable[[], Any], preview_format: str, x0: Any
) -> Sequence[Any]:
    """ComfyUI's own preview of `x0`, for a pack that looks at what it got from a previewer.

    As that pack shows it, or passes it on, it replaces SideStream's from the next step on. It is
    black if ComfyUI's previewer cannot make it, which is logged at the first look.
    """
    asked, is_first = previewer(), True
    if asked is not None:
        is_first, asked._looked_at = not asked._looked_at, True
    try:
        made: Sequence[Any] = make_own().decode_latent_to_preview_image(preview_format, x0)
        return made
    except Exception as error:
        if is_first:
            log.info("[SideStream] A pack gets black previews (%s).", in_a_line(error))
        return preview_format, Image.new("RGB", (8, 8)), host.installation.preview_size()


def _itself(previewer: Any) -> Any:
    return previewer
