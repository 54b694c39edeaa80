"""Sends frames over ComfyUI's websocket: to whom, in which form, one at a time.

`Wire` is what it needs from the server; `host.server.Server` is the real one.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from .. import records
from ..plain import in_a_line
from ..records import Encoded, NodeContext, Run, Socket, Sound
from .messages import (
    legacy_message,
    metadata_message,
    no_sound_message,
    run_message,
    sound_message,
    told_of,
)
from .shelf import Shelf

log = logging.getLogger(__name__)

PREVIEW_IMAGE = 1
PREVIEW_IMAGE_WITH_METADATA = 4

WHY_NONE = ("method", "latents", "suppressed")
"""The method none was chosen; the latents' format is unknown; another pack suppresses previews."""

WHY_NO_SOUND = ("unknown", "thread", "latents", "memory", "failed")
"""The VAE's family is unknown; its decoder may only run on the sampler's thread; it does not decode
the model's latents; there is too little memory at the moment; something else failed."""

LATE_SECONDS = 30.0
"""How long after its sampling a frame may still arrive: its decoder may have to be loaded first."""

NOTES = 8  # announcements in flight to one socket; further ones are dropped


class Wire(Protocol):
    """The server's side of the websocket."""

    def sockets(self, client_id: str | None) -> list[Socket]:
        """The connections of a client; all connections for None."""

    def connected(self, client_id: str | None) -> bool:
        """Whether a client is connected; any client for None. Called in the sampler's callback."""

    def is_running(self, prompt_id: str | None, node_id: str | None) -> bool:
        """Whether that node of that prompt is running and has not been interrupted."""

    def may_show_late(self, prompt_id: str | None, node_id: str | None) -> bool:
        """Whether that node, which is no longer running, may still show a preview.

        Not if it shows a result of its own, or if its prompt failed or was interrupted.
        """

    def is_idle(self) -> bool:
        """Whether no prompt is being executed."""

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine` on the server's event loop, from any thread."""

    async def send_bytes(self, event: int, data: bytes, socket: Socket) -> bool:
        """Send a binary event; returns when the socket took it. False if that was replaced."""

    async def send_json(self, event: str, data: dict[str, Any], socket: Socket) -> bool:
        """Send a JSON event; returns when the socket took it. False if that was replaced."""


class Audience(Protocol):
    """Others with whom a user shares previews; see `watchers.Watchers`."""

    def watched(self, run: Run) -> bool:
        """Whether any of them watches a run. Called in the sampler's callback."""

    def ready(self, run: Run) -> bool:
        """Whether one of them has taken the last frame."""

    def show(self, frame: Encoded) -> bool:
        """Show a frame; returns whether anybody sees it."""


class Transport:
    """Sends frames to the client that queued their prompt.

    A socket is given a frame only after it took the previous one, so a client that does not read
    holds up one frame, and nobody else. What others took meanwhile it is owed: the newest of each
    node, so that no client of several lacks the last step.
    """

    def __init__(
        self, wire: Wire, on_free: Callable[[], None], audience: Audience | None = None
    ) -> None:
        self._wire = wire
        self._on_free = on_free
        self.sounds = Shelf()
        self._audience = audience or Nobody()
        self._newest: OrderedDict[Place, Moment] = OrderedDict()
        self._busy: set[object] = set()
        self._owed: dict[object, OrderedDict[Place, Encoded]] = {}
        self._notes: Counter[object] = Counter()
        self._lock = threading.RLock()  # a run may end, and be announced, while it is held

    def watched(self, run: Run) -> bool:
        return self._wire.connected(run.context.client_id) or self._audience.watched(run)

    def ready(self, run: Run) -> bool:
        sockets = self._wire.sockets(run.context.client_id)
        # If nobody is left, the frame is dropped at once, which needs no socket.
        return (
            any(socket.connection not in self._busy for socket in sockets)
            or self._audience.ready(run)
            or not (sockets or self._audience.watched(run))
        )

    def animates(self, run: Run) -> bool:
        """Whether a client of the run supports WebP, the format of animated frames."""
        return any(socket.metadata for socket in self._wire.sockets(run.context.client_id))

    def live(self, run: Run) -> bool:
        """Whether frames of `run` may still be shown: it did not fail, and is not superseded."""
        context = run.context
        newest_run, _ = self._newest.get((context.client_id, context.shown_on), NEVER)
        return newest_run <= run.number and self.may_sound(run)

    def may_sound(self, run: Run) -> bool:
        """Whether sounds of `run` may still be sent: it did not fail, or end long ago."""
        if run.aborted:
            return False
        is_at_work = self.at_work(run)
        if is_at_work and not run.ended:
            return True
        # A node that has shown its result still counts as running while ComfyUI puts that away.
        if not is_at_work and run.ended_for(records.now()) > LATE_SECONDS:
            return False
        context = run.context
        nodes = {context.node_id, context.shown_on}
        return all(self._wire.may_show_late(context.prompt_id, node) for node in nodes)

    def at_work(self, run: Run) -> bool:
        """Whether the node of `run` is still running, and may sample again."""
        return self._wire.is_running(run.context.prompt_id, run.context.node_id)

    def quiet(self) -> bool:
        return self._wire.is_idle()

    def format(self, run: Run) -> str:
        """The picture format for a run: the requested one, or JPEG if a client lacks WebP."""
        wanted = run.settings.format
        if wanted == "webp" and not all(
            s.metadata for s in self._wire.sockets(run.context.client_id)
        ):
            return "jpeg"
        return wanted

    def send(self, frame: Encoded) -> None:
        """Send an encoded frame. Closes it when every free socket of its client has taken it."""
        shown = self._audience.show(frame)
        with self._lock:
            sockets = [
                socket
                for socket in self._wire.sockets(frame.label.run.context.client_id)
                if socket.metadata or frame.info.animation is None
            ]
            free = [socket for socket in sockets if socket.connection not in self._busy]
            if free or shown:  # else it is lost to all
                for socket in sockets:
                    if socket not in free:
                        self._owe(frame, socket)
            self._busy.update(socket.connection for socket in free)
        if not free:
            frame.label.close(records.SENT if shown else records.BUSY)
            return
        delivery = Delivery(frame, len(free))
        for socket in free:
            self._wire.start(self._deliver(frame, socket, delivery.done))

    def _owe(self, frame: Encoded, socket: Socket) -> None:
        owed = self._owed.setdefault(socket.connection, OrderedDict())
        place = place_of(frame, socket)
        owed[place] = frame
        owed.move_to_end(place)
        if len(owed) > OWED:
            owed.popitem(last=False)

    def _next_owed(self, socket: Socket) -> Encoded | None:
        """What a socket is given next; if nothing, it is free."""
        with self._lock:
            owed = self._owed.get(socket.connection)
            if owed:
                return owed.popitem(last=False)[1]
            self._owed.pop(socket.connection, None)
            self._busy.discard(socket.connection)
            return None

    def announce(self, run: Run, state: str) -> None:
        """Tell the run's client its `state` (`start`, `sampling` or `end`) and its counters."""
        self._note(run.context.client_id, "sidestream.run", run_message(run, state))

    def announce_none(self, context: NodeContext, why: str, **more: Any) -> None:
        """Tell a client that its sampler has no previews: `why` is one of `WHY_NONE`."""
        told = context.wire() | {"state": "none", "why": why} | more
        self._note(context.client_id, "sidestream.run", told)

    def send_sound(self, sound: Sound) -> None:
        """Tell the run's client that there is a sound, and keep that to be fetched."""
        run = sound.label.run
        secret = self.sounds.put(run.id, sound.data)
        self._note(run.context.client_id, "sidestream.sound", sound_message(sound, secret))

    def send_no_sound(self, run: Run, why: str) -> None:
        """Tell the run's client why there is no sound: one of `WHY_NO_SOUND`."""
        self._note(run.context.client_id, "sidestream.sound", no_sound_message(run, why))

    def _note(self, client_id: str | None, event: str, data: dict[str, Any]) -> None:
        for socket in self._wire.sockets(client_id):
            with self._lock:
                if not socket.metadata or self._notes[socket.connection] >= NOTES:
                    continue
                self._notes[socket.connection] += 1
            self._wire.start(self._tell(event, data, socket))

    async def _tell(self, event: str, data: dict[str, Any], socket: Socket) -> None:
        try:
            await self._wire.send_json(event, data, socket)
        except Exception as error:
            what = "A sound" if event == "sidestream.sound" else "The start or end of a run"
            log.warning(
                "[SideStream] %s could not be sent (%s) and is lost.", what, in_a_line(error)
            )
        finally:
            with self._lock:
                self._notes[socket.connection] -= 1
                self._notes += Counter()  # drops those at zero

    def _is_newest(self, frame: Encoded, socket: Socket) -> bool:
        """Whether `frame` may be shown, and no newer one was, by another device for example."""
        run = frame.label.run
        newest = self._newest.get(place_of(frame, socket), NEVER)
        return self.live(run) and (run.number, frame.label.seq) >= newest

    def _remember(self, frame: Encoded, socket: Socket) -> None:
        place = place_of(frame, socket)
        self._newest[place] = (frame.label.run.number, frame.label.seq)
        self._newest.move_to_end(place)
        while len(self._newest) > PLACES:
            self._newest.popitem(last=False)

    async def _deliver(
        self, frame: Encoded, socket: Socket, done: Callable[[bool], None] | None = None
    ) -> None:
        run = frame.label.run
        sent = False
        try:
            if self._is_newest(frame, socket):
                self._remember(frame, socket)
                told = told_of(frame, records.now())
                if socket.metadata:
                    event, message = PREVIEW_IMAGE_WITH_METADATA, metadata_message(frame, told)
                else:
                    event, message = PREVIEW_IMAGE, legacy_message(frame, told)
                sent = await self._wire.send_bytes(event, message, socket)
        except Exception as error:
            if not run.warned_of_loss:
                run.warned_of_loss = True
                log.warning(
                    "[SideStream] A preview could not be sent (%s) and is lost.", in_a_line(error)
                )
        finally:
            owed = self._next_owed(socket)
            if done is not None:
                done(sent)
            self._on_free()
        # Not when the server ends. It does not count: others have it, or are about to.
        if owed is not None:
            self._wire.start(self._deliver(owed, socket))


class Nobody:
    """The audience if nothing is shared."""

    def watched(self, run: Run) -> bool:
        return False

    def ready(self, run: Run) -> bool:
        return False

    def show(self, frame: Encoded) -> bool:
        return False


Place = tuple[str | None, str | None]
"""Where pictures are shown: a client and a node of its graph."""

Moment = tuple[int, int]
"""The order of pictures: the number of the run, then the number within the run."""

NEVER: Moment = (0, 0)
PLACES = 256
OWED = 4
"""Frames for which a socket that has not taken the last one may wait."""


def place_of(frame: Encoded, socket: Socket) -> Place:
    """Where a client that has that socket shows a frame."""
    return socket.id, frame.label.run.context.shown_on


class Delivery:
    """A frame on its way to several sockets. Only used on the event loop."""

    def __init__(self, frame: Encoded, sockets: int) -> None:
        self.frame = frame
        self._left = sockets
        self._sent = False

    def done(self, sent: bool) -> None:
        self._left -= 1
        self._sent = self._sent or sent
        if self._left == 0:
            self.frame.label.close(records.SENT if self._sent else records.LATE)
