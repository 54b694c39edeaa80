"""All modules wired together: what runs in ComfyUI from its start to its end."""

from __future__ import annotations

import atexit
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from . import host
from .capture.clients import Clients
from .capture.recordings import Frames, Recordings, frames_of, limit_of
from .capture.runs import Runs
from .decoders.cache import DecoderCache
from .deliver import routes
from .deliver.sharing import Sharing
from .deliver.transport import Transport
from .deliver.watchers import Watchers
from .plain import plain
from .render.engines import Engines
from .report import Warnings, report
from .settings import DEFAULTS, FIELDS, PRESETS, SettingError

log = logging.getLogger(__name__)

VERSION = "0.2.0"


class Pack:
    """Everything that SideStream keeps in a running ComfyUI."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._warnings = Warnings()
        self._decoders = DecoderCache()
        self._provider: Any = None
        self._engines: Engines | None = None
        self._server: Any = None
        self._recordings = Recordings()
        self._runs = Runs(
            lambda run: self._transport.announce(run, "start"),
            lambda run: self._transport.announce(run, "end"),
            Clients(host.server.prompts_of),
        )
        self._sharing = Sharing(lambda: host.installation.private_file("sharing.json"))
        self._watchers = Watchers(
            self._sharing,
            self._runs.progress,
            lambda run: self._transport.live(run),
            self._notify,
            host.server.keep_queue_short,
        )

    def install(self) -> None:
        """Install the provider. If that is impossible, `problem` says why, and nothing changes."""
        self._warnings.listen()
        try:
            host.check()
            from .capture.provider import Provider  # derives from a class that `check` verifies

            self._server = host.server.Server()
            self._transport = Transport(self._server, self._notify, self._watchers)
            self._engines = Engines(self._decoders, self._transport)
            self._provider = Provider(
                self._decoders, self._engines, self._transport, self._runs, self._recordings
            )
            self._provider.install()
        except Exception as error:
            self.problem = plain(str(error) or type(error).__name__)
            self._provider = None
            log.warning(
                "[SideStream] ComfyUI %s is incompatible, so previews are left to it: %s.",
                host.version(),
                self.problem,
            )

    def close(self) -> None:
        """Undo `install`, and stop all threads."""
        self._warnings.close()
        self._watchers.close()
        if self._provider is not None:
            self._provider.uninstall()
        if self._engines is not None:
            self._engines.close()
        if self._server is not None:
            self._server.close()

    def status(self) -> dict[str, Any]:
        """For `GET /sidestream/status`."""
        engines = [] if self._engines is None else self._engines.all()
        return {
            "version": VERSION,
            "comfyui": host.version(),
            "provider": {
                "installed": self._provider is not None,
                "problem": self.problem,
                "in_charge": "ComfyUI" if self._provider is None else self._provider.in_charge(),
                "around": "" if self._provider is None else self._provider.around(),
            },
            "devices": [engine.status() for engine in engines],
            "decoders": self._decoders.names(),
            "refused": self._decoders.broken(),
            "counters": self._runs.counters(),
        }

    def report(self) -> str:
        """For `GET /sidestream/report`."""
        return report(self.status(), self._warnings)

    def settings(self) -> dict[str, Any]:
        """For `GET /sidestream/settings`."""
        return {
            "fields": {name: field.describe() for name, field in FIELDS.items()},
            "presets": PRESETS,
            "defaults": DEFAULTS.as_dict(),
            "preview_size": host.installation.preview_size(),
        }

    def change(self, client_id: str, live: dict[str, Any]) -> None:
        """For `POST /sidestream/live`: change the client's runs, and those that it has queued."""
        self._runs.change(client_id, live)

    def pause(self, client_id: str, paused: bool) -> None:
        """For `POST /sidestream/pause`: stop or resume the client's previews."""
        self._runs.pause(client_id, paused)

    def finish(self, client_id: str, run: str) -> None:
        """For `POST /sidestream/finish`: end a run's sampling here. Raises SettingError."""
        self._runs.finish(client_id, run)

    def client(self, client_id: str) -> dict[str, Any]:
        """For `GET /sidestream/client`: the client's changes and pause, and its runs."""
        return self._runs.state(client_id)

    def frames(
        self, node_id: str, fields: dict[str, Any], model: Any, tell: Callable[[int, int], None]
    ) -> Frames:
        """For the node 'Side-Stream Frames' with that id: its output. See `frames_of`."""
        recording = None
        with contextlib.suppress(Exception):  # an incompatible graph; the sampling was not kept
            graph = host.prompts.running_graph()
            upstream = host.prompts.upstream_signatures(graph, node_id, "latent")
            recording = self._recordings.find(upstream, host.prompts.list_index(), model)
        return frames_of(recording, limit_of(fields), tell)

    def sound(self, secret: str) -> bytes | None:
        """For `GET /sidestream/sound`: the WAV file whose secret only its client was told."""
        return None if self._engines is None else self._transport.sounds.get(secret)

    def sharing(self, request: Any) -> dict[str, Any]:
        """For `GET /sidestream/sharing`: the requesting user's switch and key."""
        user = self._user(request)
        share = self._sharing.of(user)
        return {
            "user": user,
            "on": share.on,
            "key": share.key,
            "watchers": self._watchers.count(user),
            "network_address": host.installation.network_address(),
        }

    def share(self, request: Any, on: bool) -> None:
        """For `POST /sidestream/sharing`: start or stop sharing. Raises SettingError."""
        user = self._user(request)
        self._sharing.switch(user, on)
        if not on:
            self._watchers.disconnect(user)
        state = "shared with whoever has the watch page's address" if on else "no longer shared"
        log.info("[SideStream] Previews are %s.", state)

    def renew(self, request: Any) -> None:
        """For `POST /sidestream/sharing`: a new key, which all watchers need."""
        user = self._user(request)
        self._sharing.renew(user)
        self._watchers.disconnect(user)

    async def watch(self, request: Any) -> Any:
        """For `GET /sidestream/watch`."""
        return await self._watchers.answer(request)

    def _user(self, request: Any) -> str:
        try:
            return host.server.user_of(request)
        except KeyError as error:
            raise SettingError("ComfyUI does not know this user") from error

    def _notify(self) -> None:
        if self._engines is not None:
            self._engines.notify()


def start() -> Pack:
    """Make and install the pack, replacing one that was loaded before."""
    pack = Pack()
    before, table = host.server.registered(), host.server.routes()
    if before is None and table is not None:  # else `install` says what is missing
        current = routes.Current(pack)
        routes.add_to(table, current)
        host.server.register(current)
    elif before is not None:
        before.pack.close()
        # Otherwise each pack that was loaded would wait for its worker when the process ends.
        atexit.unregister(before.pack.close)
        before.pack = pack
    pack.install()
    atexit.register(pack.close)
    return pack
