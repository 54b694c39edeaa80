"""The seam with ComfyUI's `latent_preview`: which previewer a sampler gets.

`get_previewer` is replaced; `prepare_callback` is wrapped to learn the MODEL, the step and the end
of sampling. Previewers of other packs, and what they wrap around ours, stay as they are.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from . import host, runs, sources
from .batches import shown_images, staged
from .decoders.cache import DecoderCache
from .decoders.ladder import Ladder
from .engine import Engine, Engines
from .runs import Asked, Frame, Plan, Run, Runs
from .settings import KEY, Settings, of_node, salvaged
from .transport import Transport

log = logging.getLogger(__name__)


@dataclass
class Sampling:
    """What `prepare_callback` was called with, and the previewer that came of it."""

    model: Any
    steps: int
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
    ) -> None:
        self._start = start
        self._engines = engines
        self._transport = transport
        self._make_own = own
        self._counts = True
        self._captured: tuple[Engine, Frame] | None = None
        self._engine: Engine | None = None
        self._engine_for: tuple[torch.device, str] | None = None
        self.run = self._started()

    def _started(self) -> Run:
        run = self._start()
        # Catches the samplings whose end nobody tells: packs with callbacks of their own.
        weakref.finalize(self, run.end).atexit = False
        return run

    def decode_latent_to_preview_image(self, preview_format: str, x0: torch.Tensor) -> None:
        """Stage the frame of the current step; SideStream sends it when it is ready."""
        try:
            if self._counts:
                self.run.at(self.run.step + 1, host.announced_steps(self.run.owner))
            if self.run.wants(runs.now()) and self._transport.watched(self.run):
                self._capture(host.latent_frame(x0))
            if self._counts:
                self._hand_over()
        except Exception:
            log.exception("[SideStream] A preview failed; sampling goes on without previews.")
            self.run.abort()

    def decode_latent_to_preview(self, x0: torch.Tensor) -> Any:
        """For packs that decode on their own: ComfyUI's picture of `x0`, made on the spot."""
        return self._own.decode_latent_to_preview(x0)

    def told_steps(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """`callback` as it is, telling the run its step before and an exception after."""
        self._counts = False

        @functools.wraps(callback)
        def told(step: int, x0: Any, x: Any, total_steps: int) -> Any:
            if self.run.ended and not self.run.aborted:
                self.run = self._started()  # one callback for several samplings
            run = self.run
            run.at(step + 1, total_steps)
            try:
                return callback(step, x0, x, total_steps)
            except BaseException:
                run.abort()
                raise
            finally:
                self._hand_over()

        return told

    def _capture(self, latent: torch.Tensor) -> None:
        settings = self.run.settings
        if not 3 <= latent.ndim <= 5:
            log.info(
                "[SideStream] No previews of a latent with %d dimensions: nothing is known of it.",
                latent.ndim,
            )
            self.run.abort()
            return
        wanted = (latent.device, settings.device)
        if self._engine is None or self._engine_for != wanted:
            self._engine_for, self._engine = wanted, self._engines.of(*wanted)
        images = shown_images(latent.shape[0], settings)
        latent = staged(latent, images, settings)
        if torch.is_inference_mode_enabled():  # as ComfyUI samples; the mode takes time to enter
            frame = self._engine.capture(self.run, latent, images)
        else:
            with torch.inference_mode():
                frame = self._engine.capture(self.run, latent, images)
        self._hand_over()  # of a callback that asks twice
        if frame is not None:
            self._captured = (self._engine, frame)

    def _hand_over(self) -> None:
        """Give the captured frame to the worker, as the last thing in a callback."""
        if self._captured is not None:
            engine, frame = self._captured
            self._captured = None
            engine.publish(frame)

    @functools.cached_property
    def _own(self) -> Any:
        return self._make_own()

    def __getattr__(self, name: str) -> Any:
        # Packs that wrap previewers look for the attributes of ComfyUI's own.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._own, name)


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
        self._active = False
        self._theirs = ""
        """Whose previewer the last sampler got, where it was not ours."""
        self._was_chosen = False
        """Whether a method other than none was seen that did not come with a prompt."""
        self._replaced: dict[str, tuple[Any, Any]] = {}

    def install(self) -> None:
        """Take the place of ComfyUI's functions. Raises host.UnknownHost."""
        host.check()
        self._active = True
        self._replace("get_previewer", self._get_previewer)
        self._replace("prepare_callback", self._prepare_callback)

    def uninstall(self) -> None:
        """Give the functions back; where another pack wraps ours, ours only passes through."""
        self._active = False
        for name, (original, ours) in self._replaced.items():
            if getattr(host.latent_preview, name) is ours:
                setattr(host.latent_preview, name, original)
        self._replaced.clear()

    def in_charge(self) -> str:
        """Who answers when a sampler asks for a previewer, for people to read."""
        if not self._active:
            return "ComfyUI"
        current = host.latent_preview.get_previewer
        if current is self._replaced["get_previewer"][1]:
            return f"{self._theirs}, loaded before SideStream" if self._theirs else "SideStream"
        return f"{getattr(current, '__module__', 'another pack')}, around or instead of SideStream"

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
            return callback
        run = previewer.run
        host.watch_sampling(model, lambda failed: run.abort() if failed else run.end())
        return previewer.told_steps(callback)

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
        theirs = self._their_previewer(original, beneath)
        kind = type(theirs)
        self._theirs = "" if theirs is None else f"{kind.__module__}.{kind.__qualname__}"
        if theirs is not None:
            return theirs
        try:
            plan = self._plan(latent_format)
            if plan is None:
                return beneath()
            own = functools.partial(host.own_previewer, beneath, latent_format)
            start = functools.partial(self._runs.start, plan)
            previewer = Previewer(start, self._engines, self._transport, own)
        except Exception:
            log.exception("[SideStream] Could not set up previews; ComfyUI's own are used.")
            return beneath()
        sampling = _sampling.get()
        if sampling is not None:
            sampling.previewer = previewer
        return previewer

    def _their_previewer(self, original: Callable[..., Any], beneath: Callable[[], Any]) -> Any:
        """Another pack's previewer, or ComfyUI's own that another pack has changed; else None."""
        overridden = host.is_overridden_for_all()
        if host.is_own_function(original) and not overridden:
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
                f"Another pack's previewer failed ({type(error).__name__}: {error!s:.200});"
                " SideStream's is used.",
            )
            return None

    def _plan(self, latent_format: Any) -> Plan | None:
        """How to preview this sampling; None to leave it to ComfyUI."""
        sampling = _sampling.get()
        owner = host.current_owner()
        extra = host.extra_data(owner.prompt_id)
        node = self._node_settings(sampling.model, extra) if sampling else {}
        chosen = self._chosen_method(extra)
        if chosen == "none" and node.get("method", "host") == "host":
            self._transport.announce_none(owner, "method")
            return None
        left = host.left_vae(sampling.model) if sampling else None
        vae = None if left is None else host.vae_copy(left)

        def ladder_for(settings: Settings) -> Ladder:
            method = settings.method
            if method == "host":
                method = chosen or "auto"
            found = sources.find(method, latent_format, self._say_once, vae)
            return Ladder([each for each in found if not self._decoders.is_broken(each)])

        if not sources.find("auto", latent_format, self._say_once, vae):
            self._say_once(
                logging.INFO,
                f"No previews for {type(latent_format).__name__} latents:"
                " ComfyUI has neither a decoder nor colour factors for them.",
            )
            self._transport.announce_none(owner, "latents")
            return None
        return Plan(
            owner,
            Asked(self._client_settings(extra), node),
            ladder_for,
            host.preview_size(),
            sampling.steps if sampling else 0,
            host.video(latent_format),
        )

    def _chosen_method(self, extra: Any) -> str | None:
        """As `host.chosen_method`; none, where a pack's menu chose another method before, too."""
        chosen = host.chosen_method(extra)
        if chosen not in (None, "none") and host.method_of_prompt(extra) is None:
            self._was_chosen = True
        return "none" if chosen is None and self._was_chosen else chosen

    def _client_settings(self, extra: Any) -> dict[str, Any]:
        return self._good(*salvaged(extra.get(KEY, {})))

    def _node_settings(self, model: Any, extra: Any) -> dict[str, Any]:
        """What the nodes on a MODEL set: as inputs, or beside the prompt that runs now."""
        settings: dict[str, Any] = {}
        for left in host.left_settings(model):
            settings |= left.settings | self._good(*of_node(extra.get(KEY), left.node_id))
        return settings

    def _good(self, good: dict[str, Any], complaints: list[str]) -> dict[str, Any]:
        for complaint in complaints:
            self._say_once(logging.WARNING, f"Settings sent with a prompt: {complaint}.")
        return good

    def _say_once(self, level: int, line: str) -> None:
        if line not in self._said and len(self._said) < 100:
            self._said.add(line)
            log.log(level, "[SideStream] %s", line)
