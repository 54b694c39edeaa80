"""Integration with ComfyUI's `latent_preview`: which previewer a sampler gets.

`get_previewer` is replaced; `prepare_callback` is wrapped to learn the MODEL, the steps and the end
of sampling. Previewers of other packs, and their wrappers around ours, are not touched.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from .. import host
from ..decoders.cache import DecoderCache
from ..decoders.protocols import Source
from ..decoders.sound import SoundSource
from ..deliver.transport import Transport
from ..plain import in_a_line, plain
from ..records import NodeContext
from ..render.engines import Engines
from ..render.recording import Limit, Recording
from ..settings import KEY, SOUND, Settings, accepts, of_node, salvaged
from . import sources
from .previewer import Previewer
from .recordings import NODE, Recordings, limit_of
from .runs import Run, Runs, RunSpec, SettingsLayers

log = logging.getLogger(__name__)

LONGEST_LINE = 400
"""The most characters of a log line that contains text from outside."""


@dataclass
class Sampling:
    """The arguments of `prepare_callback`, and the resulting previewer."""

    model: Any
    steps: int
    asked: bool = False
    """Whether the call for a previewer reached SideStream."""
    previewer: Previewer | None = None


_sampling: ContextVar[Sampling | None] = ContextVar("sidestream_sampling", default=None)


class SideStreamPreviewer(Previewer, host.sampling.LatentPreviewer):
    """What a sampler gets instead of ComfyUI's previewer."""

    # Packs that suppress previews patch all classes that define this method.
    decode_latent_to_preview_image = Previewer.decode_latent_to_preview_image


_DECODES = SideStreamPreviewer.decode_latent_to_preview_image


class Provider:
    """Installs itself into `latent_preview` and makes the previewers."""

    def __init__(
        self,
        decoders: DecoderCache,
        engines: Engines,
        transport: Transport,
        book: Runs,
        recordings: Recordings,
    ) -> None:
        self._decoders = decoders
        self._engines = engines
        self._transport = transport
        self._runs = book
        self._recordings = recordings
        self._said: set[str] = set()
        self._complaints: set[str] = set()
        self._active = False
        self._theirs = ""
        """Whose pictures the last sampler showed, if they were not ours."""
        self._replaced: dict[str, tuple[Any, Any]] = {}
        self._progress: Any = None
        self._method: Any = None

    def install(self) -> None:
        """Replace ComfyUI's functions. Raises host.UnknownHost."""
        host.check()
        self._active = True
        self._progress = host.prompts.install_progress()
        self._method = host.installation.watch_method()
        self._replace("get_previewer", self._get_previewer)
        self._replace("prepare_callback", self._prepare_callback)

    def uninstall(self) -> None:
        """Restore the functions; if another pack wraps ours, ours only passes calls through."""
        self._active = False
        if self._progress is not None:
            host.prompts.uninstall_progress(self._progress)
            self._progress = None
            host.installation.unwatch_method(self._method)
        for name, (original, ours) in self._replaced.items():
            if getattr(host.sampling.latent_preview, name) is ours:
                setattr(host.sampling.latent_preview, name, original)
        self._replaced.clear()

    def in_charge(self) -> str:
        """Whose pictures the last sampler showed, for people to read."""
        return (self._theirs or "SideStream") if self._active else "ComfyUI"

    def around(self) -> str:
        """The pack that was loaded later and is asked for previewers first; "" if there is none."""
        current = host.sampling.latent_preview.get_previewer
        if not self._active or current is self._replaced["get_previewer"][1]:
            return ""
        return host.installation.author(current)

    def _replace(self, name: str, method: Callable[..., Any]) -> None:
        original = getattr(host.sampling.latent_preview, name)

        @functools.wraps(original)
        def ours(*args: Any, **kwargs: Any) -> Any:
            return method(original, *args, **kwargs)

        ours.__module__ = __name__
        self._replaced[name] = (original, ours)
        setattr(host.sampling.latent_preview, name, ours)

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
        if previewer is None or callback is None:  # as another pack's wrapper may give
            if not sampling.asked:
                self._theirs = self.around() or host.installation.author(original)
            return callback
        host.sampling.watch_sampling(model, previewer)
        return previewer.with_step_tracking(callback, self._asks)

    def _asks(self, run: Run, asked: bool) -> None:
        """Note whether a sampler with a previewer of ours asks it for pictures."""
        if asked:
            self._theirs = ""
            return
        decodes = SideStreamPreviewer.decode_latent_to_preview_image
        if decodes is _DECODES:  # a wrapper around the previewer makes its own pictures
            self._theirs = self.around() or "another pack"
            return
        self._theirs = who = host.installation.author(decodes)
        self._say_once(logging.INFO, f"{who} suppresses this sampler's previews.")
        where = host.prompts.preview_switch(who)
        self._transport.announce_none(run.context, "suppressed", who=who, where=where)

    def _get_previewer(
        self,
        get_previewer: Callable[..., Any],
        device: Any,
        latent_format: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        original = functools.cache(
            functools.partial(get_previewer, device, latent_format, *args, **kwargs)
        )
        if not self._active:
            return original()
        sampling = _sampling.get()
        if sampling is not None:
            sampling.asked = True
        try:
            theirs = self._their_previewer(get_previewer, original)
            if theirs is not None:
                self._theirs = self._author(theirs)
                return theirs
            spec = self._run_spec(latent_format)
            if spec is None:
                return original()
            own = functools.partial(host.sampling.own_previewer, original, latent_format)
            start = functools.partial(self._run, spec, latent_format)
            scale = host.models.picture_scale(latent_format)
            views = host.models.shows_views(latent_format)
            previewer = SideStreamPreviewer(
                start,
                self._engines,
                self._transport,
                own,
                scale,
                device,
                views,
                host.models.is_sound(latent_format),
            )
            if spec.no_sound:
                self._transport.send_no_sound(previewer.run, spec.no_sound)
        except Exception as error:
            log.warning(
                "[SideStream] Previews could not be set up (%s); ComfyUI's own are used instead.",
                in_a_line(error),
                exc_info=log.isEnabledFor(logging.DEBUG),
            )
            return original()
        if sampling is not None:
            sampling.previewer = previewer
            current = host.sampling.latent_preview.get_previewer
            previewer.is_direct = current is self._replaced["get_previewer"][1]
        else:
            self._theirs = ""
        return previewer

    def _run(self, spec: RunSpec, latent_format: Any) -> Run:
        """A run by `spec`; of a previewer that a pack keeps, by one for the node that executes."""
        if host.prompts.is_elsewhere(spec.context):
            there = self._run_spec(latent_format)
            if there is None:  # it is to have no previews
                context = host.prompts.current_context()
                there = RunSpec(context, spec.layers, lambda settings: [], spec.default_size)
            spec = there
        return self._runs.start(spec)

    def _author(self, theirs: Any) -> str:
        """Whose previewer it is, or who changed ComfyUI's."""
        if not host.sampling.is_own_previewer(theirs):
            return host.installation.author(type(theirs))
        return host.installation.author(host.sampling.overriding_method())

    def _their_previewer(
        self, get_previewer: Callable[..., Any], original: Callable[[], Any]
    ) -> Any:
        """Another pack's previewer, or ComfyUI's own if another pack has changed it, or None."""
        overridden = host.sampling.overriding_method() is not None
        if host.sampling.is_own_function(get_previewer, "get_previewer") and not overridden:
            return None
        theirs = self._contained(original)
        return theirs if overridden or not host.sampling.is_own_previewer(theirs) else None

    def _contained(self, original: Callable[[], Any]) -> Any:
        """What other packs return; None if they, or ComfyUI, fail."""
        try:
            return original()
        except Exception as error:
            self._say_once(
                logging.WARNING,
                f"Another pack's previewer failed ({in_a_line(error)}); using SideStream's.",
            )
            return None

    def _run_spec(self, latent_format: Any) -> RunSpec | None:
        """How to preview this sampling; None to leave it to ComfyUI."""
        sampling = _sampling.get()
        context = host.prompts.current_context()
        recording = self._recording(context, None if sampling is None else sampling.model)
        extra = host.prompts.extra_data(context.prompt_id)
        node = self._node_settings(sampling.model, extra) if sampling else {}
        chosen = host.installation.chosen_method(extra)
        if chosen == "none" and node.get("method", "host") == "host":
            self._transport.announce_none(context, "method")
            return None
        left = host.models.attached_vae(sampling.model) if sampling else None

        def sources_for(settings: Settings) -> list[Source]:
            method = settings.method
            if method == "host":
                method = chosen or "auto"
            # On the sampler's thread, and only if it is wanted: a copy takes memory.
            vae = host.models.vae_copy(left) if left is not None and method == "auto" else None
            return sources.find(method, latent_format, self._say_once, vae)

        others = sources.find("auto", latent_format, self._say_once)
        if not others and (left is None or host.models.vae_copy(left) is None):
            self._say_once(
                logging.INFO,
                f"{type(latent_format).__name__} latents have no previews:"
                " ComfyUI has neither a decoder nor colour factors for them.",
            )
            needed = sources.missing_decoder(latent_format)
            more = {} if needed is None else {"missing_decoder": needed.wire()}
            self._transport.announce_none(context, "latents", **more)
            return None
        sound, no_sound = self._sound(sampling, latent_format, extra)
        # With Latent2RGB chosen in ComfyUI, no other decoder is needed.
        missing = None if chosen == "latent2rgb" else sources.missing_decoder(latent_format)
        return RunSpec(
            context,
            SettingsLayers(self._good(*salvaged(extra.get(KEY, {})), "sent with a prompt"), node),
            sources_for,
            host.installation.preview_size(),
            _whole(sampling.steps) if sampling else 0,
            host.models.video(latent_format),
            self._decoders.is_broken,
            missing,
            recording,
            sound,
            no_sound,
        )

    def _recording(self, context: NodeContext, model: Any) -> Recording | None:
        """The recording of this sampling, if a node of its prompt wants one."""
        if context.node_id is None:
            return None
        try:
            graph = host.prompts.running_graph()
            takers = host.prompts.nodes_of_class(graph, NODE)
            if not takers:
                self._recordings.clear()
                return None
            own = host.prompts.signatures(graph, context.node_id)
            signatures = list(own.values())
            limits = [
                limit_of(host.prompts.inputs_of(graph, taker))
                for taker in takers
                if not set(signatures).isdisjoint(
                    host.prompts.upstream_signatures(graph, taker, "latent", like=own)
                )
            ]
            if not limits:
                return None
            place = (context.prompt_id, context.node_id, host.prompts.list_index())
            frames, megabytes = (max(each) for each in zip(*limits, strict=True))
            return self._recordings.begin(place, signatures, Limit(frames, megabytes), model)
        except Exception as error:  # an incompatible graph
            reason = in_a_line(error)
            self._say_once(logging.WARNING, f"Side-Stream Frames cannot read the graph ({reason}).")
            return None

    def _sound(
        self, sampling: Sampling | None, latent_format: Any, extra: Any
    ) -> tuple[SoundSource | None, str]:
        """What decodes a sampling's sound, or why it cannot be decoded although it is wanted."""
        if sampling is None or not accepts(extra.get(KEY), SOUND):
            return None, ""
        vae = host.models.attached_vae(sampling.model, host.models.SOUND_VAE_KEY)
        if vae is None:
            return None, ""
        if not host.models.has_sound(latent_format):
            name = type(latent_format).__name__
            line = f"The VAE for sound is ignored: {name} latents have none."
            self._say_once(logging.WARNING, line)
            return None, "latents"
        try:
            return sources.sound(vae, latent_format, sampling.model), ""
        except host.models.CannotDecode as error:
            line = f"This VAE cannot decode sound previews ({plain(error)})."
            self._say_once(logging.WARNING, line)
            return None, error.why

    def _node_settings(self, model: Any, extra: Any) -> dict[str, Any]:
        """What the nodes on a MODEL set, as inputs or in the running prompt's extra data."""
        settings: dict[str, Any] = {}
        for left in host.models.attached_settings(model):
            settings |= self._good(*salvaged(left.settings), "attached to a MODEL")
            settings |= self._good(*of_node(extra.get(KEY), left.node_id), "sent with a prompt")
        return settings

    def _good(self, good: dict[str, Any], complaints: list[str], whence: str) -> dict[str, Any]:
        """The good settings. Complaints about the others are limited separately."""
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
    """`number` as an int, whatever a sampler counts with; 0 if it is not a number."""
    try:
        return int(number)
    except Exception:
        return 0
