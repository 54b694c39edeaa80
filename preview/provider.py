"""The seam with ComfyUI's `latent_preview`: which previewer a sampler gets.

`get_previewer` is replaced; `prepare_callback` is wrapped to learn the MODEL, the step and the end
of sampling. Previewers of other packs, and what they wrap around ours, stay as they are.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from . import host, inline, runs, sources
from .batches import shown_images, staged
from .decoders.cache import DecoderCache
from .decoders.errors import in_a_line
from .decoders.protocols import Source
from .engine import Engine, Engines
from .plain import plain
from .render.backends import BackendError, StagingError
from .runs import Asked, Frame, Plan, Run, Runs
from .settings import KEY, Settings, of_node, salvaged
from .transport import Transport

log = logging.getLogger(__name__)

LONGEST_LINE = 400
"""Characters of a line of the log that holds something from outside, and our own words."""


@dataclass
class Sampling:
    """What `prepare_callback` was called with, and the previewer that came of it."""

    model: Any
    steps: int
    asked: bool = False
    """Whether whoever answers for previewers passed the question on to SideStream."""
    previewer: Previewer | None = None


_sampling: ContextVar[Sampling | None] = ContextVar("sidestream_sampling", default=None)


class Previewer(host.LatentPreviewer):
    """What a sampler holds: hands latents to the engine and returns at once, without a picture."""

    def __init__(
        self,
        start: Callable[[], Run],
        engines: Engines,
        transport: Transport,
        own: Callable[[], Any],
        scale: int = 8,
        device: torch.device | None = None,
        views: bool = False,
    ) -> None:
        """`own` makes ComfyUI's previewer, `scale` is that of its pictures to latents.

        `device` is where sampling is expected. With `views` what latents have in the place of
        frames is one thing from several sides.
        """
        self._start = start
        self._engines = engines
        self._transport = transport
        self._make_own = own
        self._scale = scale
        self._counts = True
        self._views = views
        self._shapes: Sequence[Sequence[int]] = ()
        """Of the latents that are sampled as one, where there are several."""
        self._captured: tuple[Engine, Frame] | None = None
        self._asked = False
        self._engine: Engine | None = None
        self._engine_for: tuple[torch.device, str] | None = None
        self.run = self._started()
        if device is not None and self.run.chain.wanted:
            # The worker tries its device out while the sampler is at its first step.
            with contextlib.suppress(Exception):
                self._engine_of(device)

    def _started(self) -> Run:
        run = self._start()
        # Catches the samplings whose end nobody tells: packs with callbacks of their own.
        weakref.finalize(self, run.end).atexit = False
        return run

    def decode_latent_to_preview_image(self, preview_format: str, x0: torch.Tensor) -> None:
        """Stage the frame of the current step; SideStream sends it when it is ready."""
        self._asked = True
        try:
            if self._counts:
                self.run.at(self.run.step + 1, host.announced_steps(self.run.owner))
            host.expect_progress()
            if self.run.wants(runs.now()) and self._transport.watched(self.run):
                self._capture(self._picture_of(x0))
            if self._counts:
                self._hand_over()
        except Exception as error:
            log.warning(
                "[SideStream] A preview failed (%s); sampling goes on without previews.",
                in_a_line(error),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )
            self.run.abort()

    def decode_latent_to_preview(self, x0: torch.Tensor) -> Any:
        """For packs that decode on their own: ComfyUI's picture of `x0`, made on the spot."""
        return self._own.decode_latent_to_preview(x0)

    def told_steps(
        self, callback: Callable[..., Any], asks: Callable[[Run, bool], None]
    ) -> Callable[..., Any]:
        """`callback` as it is, telling the run its step before and an exception after.

        `asks` learns whether the callback asks this previewer for its pictures, and each change.
        """
        self._counts = False
        before: bool | None = None

        @functools.wraps(callback)
        def told(step: int, x0: Any, x: Any, total_steps: int) -> Any:
            nonlocal before
            run = self._run_of(step, total_steps)
            self._asked = False
            try:
                result = callback(step, x0, x, total_steps)
                if self._asked is not before:
                    before = self._asked
                    asks(run, before)
                return result
            except BaseException:
                run.abort()
                raise
            finally:
                self._hand_over()

        return told

    def _run_of(self, step: Any, total_steps: Any) -> Run:
        """The run that `step` (from 0) is of, which is told of it."""
        run = self.run
        try:
            number, total = int(step) + 1, int(total_steps)
        except Exception:  # whatever a sampler counts with
            number, total = run.step + 1, run.total_steps
        # One callback for several samplings: the next one, or one that failed and is tried again.
        is_another = not run.aborted or number <= max(run.step, 1)
        if run.ended and is_another:
            try:
                run = self.run = self._started()
            except Exception as error:
                run.abort()
                log.warning("[SideStream] No previews of this sampling (%s).", in_a_line(error))
        run.at(number, total)
        return run

    def begun(self, shapes: Sequence[Sequence[int]]) -> None:
        """Sampling begins, with latents of these shapes: several where they are sampled as one."""
        self._shapes = shapes

    def ended(self, failed: bool) -> None:
        """Sampling is over."""
        if failed:
            self.run.abort()
        else:
            self.run.end()

    def _picture_of(self, x0: Any) -> torch.Tensor:
        """The part of `x0` that is shown: [B, C, ...]."""
        latent = host.unpacked(host.latent_frame(x0), self._shapes)
        return host.views_as_batch(latent) if self._views else latent

    def _capture(self, latent: torch.Tensor) -> None:
        settings = self.run.settings
        if not 3 <= latent.ndim <= 5:
            log.info(
                "[SideStream] No previews of a latent with %d dimensions: nothing is known of it.",
                latent.ndim,
            )
            self.run.abort()
            return
        try:
            engine = self._engine_of(latent.device)
        except BackendError:
            engine = None
        run = self.run
        if engine is None or run.left_to_host or run.chain.current(runs.now()) is None:
            self._preview_inline(latent)
            return
        if self._views and settings.batch == "first":
            settings = settings.updated({"batch": "grid"})
        images = shown_images(latent.shape[0], settings)
        shown = staged(latent, images, settings)
        try:
            if torch.is_inference_mode_enabled():  # as ComfyUI samples; to enter it takes time
                frame = engine.capture(run, shown, images)
            else:
                with torch.inference_mode():
                    frame = engine.capture(run, shown, images)
        except StagingError as error:
            cause = error.__cause__
            if not isinstance(cause, BackendError):  # of which the worker speaks
                run.staging_failed(cause, passes=isinstance(cause, torch.cuda.OutOfMemoryError))
            self._preview_inline(latent)
        else:
            self._keep(engine, frame)

    def _engine_of(self, device: torch.device) -> Engine:
        """The engine for latents on `device`. Raises BackendError."""
        wanted = (device, self.run.settings.device)
        if self._engine is None or self._engine_for != wanted or self._engine.problem is not None:
            self._engine_for, self._engine = wanted, self._engines.of(*wanted)
        return self._engine

    def _preview_inline(self, latent: torch.Tensor) -> None:
        """The last resort: ComfyUI's own previewer makes the picture, here and now."""
        run = self.run
        if run.host_failed:
            return
        courier = self._engines.courier()
        try:
            picture = self._own.decode_latent_to_preview(latent)
            frame = inline.frame(run, picture, latent.shape, self._scale)
        except torch.cuda.OutOfMemoryError:
            return  # of this frame; there may be memory for the next
        except Exception as error:
            run.host_failed = True
            log.warning(
                "[SideStream] ComfyUI's own previewer failed too (%s); this run goes on with no"
                " previews.",
                in_a_line(error),
            )
            return
        self._keep(courier, frame)

    def _keep(self, engine: Engine, frame: Frame | None) -> None:
        """Keep a captured frame until the callback has nothing else left to do."""
        self._hand_over()  # of a callback that asks twice
        if frame is not None:
            self._captured = (engine, frame)

    def _hand_over(self) -> None:
        """Give the captured frame to the worker, as the last thing in a callback."""
        if self._captured is not None:
            engine, frame = self._captured
            self._captured = None
            try:
                engine.publish(frame)
            except Exception as error:
                log.warning("[SideStream] A preview was lost (%s).", in_a_line(error))
                self.run.abort()

    def __deepcopy__(self, memo: object) -> Previewer:
        return self  # a copy goes on with the same run

    def __copy__(self) -> Previewer:
        return self

    def __reduce__(self) -> tuple[Callable[[Any], Any], tuple[Any]]:
        return _itself, (self._own,)  # elsewhere there is no run: ComfyUI's own takes its place

    @functools.cached_property
    def _own(self) -> Any:
        return self._make_own()

    def __getattr__(self, name: str) -> Any:
        # Packs that wrap previewers look for the attributes of ComfyUI's own.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own, name)


_DECODES = Previewer.decode_latent_to_preview_image


def _itself(previewer: Any) -> Any:
    return previewer


class Provider:
    """Installs itself into `latent_preview` and makes the previewers."""

    def __init__(
        self, decoders: DecoderCache, engines: Engines, transport: Transport, book: Runs
    ) -> None:
        self._decoders = decoders
        self._engines = engines
        self._transport = transport
        self._runs = book
        self._said: set[str] = set()
        self._complaints: set[str] = set()
        self._active = False
        self._theirs = ""
        """Whose pictures the last sampler showed, where they were not ours."""
        self._replaced: dict[str, tuple[Any, Any]] = {}
        self._progress: Any = None
        self._method: Any = None

    def install(self) -> None:
        """Take the place of ComfyUI's functions. Raises host.UnknownHost."""
        host.check()
        self._active = True
        self._progress = host.install_progress()
        self._method = host.watch_method()
        self._replace("get_previewer", self._get_previewer)
        self._replace("prepare_callback", self._prepare_callback)

    def uninstall(self) -> None:
        """Give the functions back; where another pack wraps ours, ours only passes through."""
        self._active = False
        if self._progress is not None:
            host.uninstall_progress(self._progress)
            self._progress = None
            host.unwatch_method(self._method)
        for name, (original, ours) in self._replaced.items():
            if getattr(host.latent_preview, name) is ours:
                setattr(host.latent_preview, name, original)
        self._replaced.clear()

    def in_charge(self) -> str:
        """Whose pictures the last sampler showed, for people to read."""
        return (self._theirs or "SideStream") if self._active else "ComfyUI"

    def around(self) -> str:
        """Which pack was loaded later and is asked for previewers first; "" where none is."""
        current = host.latent_preview.get_previewer
        if not self._active or current is self._replaced["get_previewer"][1]:
            return ""
        return host.author(current)

    def _replace(self, name: str, method: Callable[..., Any]) -> None:
        original = getattr(host.latent_preview, name)

        @functools.wraps(original)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return method(original, *args, **kwargs)

        ours.__module__ = __name__
        self._replaced[name] = (original, ours)
        setattr(host.latent_preview, name, ours)

    def _prepare_callback(
        self, original: Callable[..., Any], model: Any, steps: int, *args: Any, **kwargs: Any
    ) -> Any:
        if not self._active:
            return original(model, steps, *args, **kwargs)
        sampling = Sampling(model, steps)
        token = _sampling.set(sampling)
        try:
            callback = original(model, steps, *args, **kwargs)
        finally:
            _sampling.reset(token)
        previewer = sampling.previewer
        if previewer is None:
            if not sampling.asked:
                self._theirs = self.around() or host.author(original)
            return callback
        host.watch_sampling(model, previewer)
        return previewer.told_steps(callback, self._asks)

    def _asks(self, run: Run, asked: bool) -> None:
        """Whether a sampler that has a previewer of ours asks it for pictures."""
        if asked:
            self._theirs = ""
            return
        decodes = Previewer.decode_latent_to_preview_image
        if decodes is _DECODES:  # something wraps the previewer, and makes pictures of its own
            self._theirs = self.around() or "another pack"
            return
        self._theirs = who = host.author(decodes)
        self._say_once(logging.INFO, f"{who} suppresses the previews of a sampler.")
        where = host.preview_switch(who)
        self._transport.announce_none(run.owner, "suppressed", who=who, where=where)

    def _get_previewer(
        self,
        original: Callable[..., Any],
        device: Any,
        latent_format: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        beneath = functools.cache(
            functools.partial(original, device, latent_format, *args, **kwargs)
        )
        if not self._active:
            return beneath()
        sampling = _sampling.get()
        if sampling is not None:
            sampling.asked = True
        try:
            theirs = self._their_previewer(original, beneath)
            if theirs is not None:
                self._theirs = self._author(theirs)
                return theirs
            plan = self._plan(latent_format)
            if plan is None:
                return beneath()
            own = functools.partial(host.own_previewer, beneath, latent_format)
            start = functools.partial(self._runs.start, plan)
            scale = host.picture_scale(latent_format)
            views = host.shows_views(latent_format)
            previewer = Previewer(
                start, self._engines, self._transport, own, scale, device, views
            )
        except Exception as error:
            log.warning(
                "[SideStream] Could not set up previews (%s); ComfyUI's own are used.",
                in_a_line(error),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )
            return beneath()
        if sampling is not None:
            sampling.previewer = previewer
        else:
            self._theirs = ""
        return previewer

    def _author(self, theirs: Any) -> str:
        """Who made a previewer that is not ours, or changed ComfyUI's."""
        if not host.is_own_previewer(theirs):
            return host.author(type(theirs))
        return host.author(host.overriding_method())

    def _their_previewer(self, original: Callable[..., Any], beneath: Callable[[], Any]) -> Any:
        """Another pack's previewer, or ComfyUI's own that another pack has changed; else None."""
        overridden = host.is_overridden_for_all()
        if host.is_own_function(original, "get_previewer") and not overridden:
            return None
        theirs = self._contained(beneath)
        return theirs if overridden or not host.is_own_previewer(theirs) else None

    def _contained(self, beneath: Callable[[], Any]) -> Any:
        """What other packs give; None where that, or ComfyUI beneath it, fails."""
        try:
            return beneath()
        except Exception as error:
            self._say_once(
                logging.WARNING,
                f"Another pack's previewer failed ({in_a_line(error)});"
                " SideStream's is used.",
            )
            return None

    def _plan(self, latent_format: Any) -> Plan | None:
        """How to preview this sampling; None to leave it to ComfyUI."""
        sampling = _sampling.get()
        owner = host.current_owner()
        extra = host.extra_data(owner.prompt_id)
        node = self._node_settings(sampling.model, extra) if sampling else {}
        chosen = host.chosen_method(extra)
        if chosen == "none" and node.get("method", "host") == "host":
            self._transport.announce_none(owner, "method")
            return None
        left = host.left_vae(sampling.model) if sampling else None

        def sources_for(settings: Settings) -> list[Source]:
            method = settings.method
            if method == "host":
                method = chosen or "auto"
            # Here, on the sampler's thread, and only where it is wanted: a copy takes memory.
            vae = host.vae_copy(left) if left is not None and method == "auto" else None
            return sources.find(method, latent_format, self._say_once, vae)

        others = sources.find("auto", latent_format, self._say_once)
        if not others and (left is None or host.vae_copy(left) is None):
            self._say_once(
                logging.INFO,
                f"No previews for {type(latent_format).__name__} latents:"
                " ComfyUI has neither a decoder nor colour factors for them.",
            )
            self._transport.announce_none(owner, "latents")
            return None
        return Plan(
            owner,
            Asked(self._good(*salvaged(extra.get(KEY, {})), "sent with a prompt"), node),
            sources_for,
            host.preview_size(),
            _whole(sampling.steps) if sampling else 0,
            host.video(latent_format),
            self._decoders.is_broken,
        )

    def _node_settings(self, model: Any, extra: Any) -> dict[str, Any]:
        """What the nodes on a MODEL set: as inputs, or beside the prompt that runs now."""
        settings: dict[str, Any] = {}
        for left in host.left_settings(model):
            settings |= self._good(*salvaged(left.settings), "left on a MODEL")
            settings |= self._good(*of_node(extra.get(KEY), left.node_id), "sent with a prompt")
        return settings

    def _good(
        self, good: dict[str, Any], complaints: list[str], whence: str
    ) -> dict[str, Any]:
        """The good settings. Complaints of the others have a limit of their own."""
        for complaint in complaints:
            self._say_once(logging.WARNING, f"Settings {whence}: {complaint}.", self._complaints)
        return good

    def _say_once(self, level: int, line: str, said: set[str] | None = None) -> None:
        said = self._said if said is None else said
        line = plain(line, LONGEST_LINE)
        if line not in said and len(said) < 100:
            said.add(line)
            log.log(level, "[SideStream] %s", line)


def _whole(number: Any) -> int:
    """`number` as a whole one, whatever a sampler counts with; 0 where it is none."""
    try:
        return int(number)
    except Exception:
        return 0
