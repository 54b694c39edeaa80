"""The watch page's connections: each one gets the newest preview of the user whose key it has.

A page sends the key as its first message, so that no logged address contains it. It then receives
text messages, JSON with the progress, and binary messages, each a picture's file.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMsgType, web

from ..records import Encoded, Run
from .sharing import Sharing

MOST = 16
"""The most watchers at a time, of all users together."""
UNKNOWN = 16
"""The most connections at a time that have not sent a key."""
LONGEST_KEY = 200
SECONDS_FOR_KEY = 10.0
TICK = 0.25
"""Seconds between two checks of the progress."""
SILENCE = 15.0
"""Seconds after which the progress is sent again, so that the page notices a lost connection."""
SECONDS_TO_CLOSE = 1.0

REFUSED = 4401
"""Close code: the key is invalid, or its user does not share."""
FULL = 4429
"""Close code: there are too many watchers."""

Progress = dict[str, Any]


@dataclass(eq=False, slots=True)
class Watcher:
    """A page that sent a valid key. A lock guards `waiting`, which the worker also uses."""

    user: str
    socket: web.WebSocketResponse
    transport: asyncio.Transport | None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    something_new: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: Encoded | None = None
    newest: tuple[int, int] = (0, 0)
    """The run and number of the newest frame that it was given."""

    def wake(self) -> None:
        """May be called on any thread."""
        with contextlib.suppress(RuntimeError):  # the server has ended
            self.loop.call_soon_threadsafe(self.something_new.set)


class Watchers:
    """Hands frames to watch pages: the newest one, one at a time, as already encoded.

    A page that does not read holds one frame in flight and one that waits.
    """

    def __init__(
        self,
        sharing: Sharing,
        progress: Callable[[str], Progress],
        is_live: Callable[[Run], bool],
        on_free: Callable[[], None],
        prepare: Callable[[Any], None],
    ) -> None:
        """`progress` gives that of a user's newest run; `prepare` gets each new connection."""
        self._sharing = sharing
        self._progress = progress
        self._is_live = is_live
        self._on_free = on_free
        self._prepare = prepare
        self._all: tuple[Watcher, ...] = ()  # replaced as a whole, so that any thread may read it
        self._unknown = 0
        self._ending: set[asyncio.Task[None]] = set()  # asyncio only keeps weak references
        self._last: dict[str, bytes] = {}
        """The last picture of each user who shares, for new watchers. It does not hold a run."""
        self._lock = threading.Lock()

    # For the transport, on the sampler's and the workers' threads

    def watched(self, run: Run) -> bool:
        """Whether anybody watches a run."""
        return any(watcher.user == run.context.user for watcher in self._all)

    def ready(self, run: Run) -> bool:
        """Whether any watcher of the run has no frame waiting."""
        return any(one.user == run.context.user and one.waiting is None for one in self._all)

    def show(self, frame: Encoded) -> bool:
        """Leave a still for all who may see it, replacing a waiting one; False if nobody may."""
        run = frame.label.run
        user, moment = run.context.user, (run.number, frame.label.seq)
        if user is None or frame.info.animation is not None or not self._sharing.of(user).on:
            return False
        self._last[user] = frame.data
        shown = False
        for watcher in self._all:
            if watcher.user != user:
                continue
            with self._lock:
                if moment < watcher.newest:
                    continue
                watcher.newest, watcher.waiting = moment, frame
            watcher.wake()
            shown = True
        return shown

    # For the routes, on the event loop

    def count(self, user: str) -> int:
        """The number of a user's watchers."""
        return sum(watcher.user == user for watcher in self._all)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """`GET /sidestream/watch`: a websocket, until either side closes it."""
        if self._unknown >= UNKNOWN:
            raise web.HTTPServiceUnavailable
        # Without compression, which makes pictures no smaller and keeps the event loop busy.
        socket = web.WebSocketResponse(
            timeout=SECONDS_TO_CLOSE, heartbeat=30, max_msg_size=4 * LONGEST_KEY, compress=False
        )
        self._unknown += 1
        try:
            await socket.prepare(request)
            user = self._sharing.user_of(await first_text(socket))
        finally:
            self._unknown -= 1
        if user is None or len(self._all) >= MOST:
            await socket.close(code=REFUSED if user is None else FULL)
            return socket
        await self._serve(Watcher(user, socket, request.transport))
        return socket

    def disconnect(self, user: str) -> None:
        """Show nothing more to this user's current watchers, and close their connections."""
        self._last.pop(user, None)
        for watcher in [one for one in self._all if one.user == user]:
            self._leave(watcher)
            ending = watcher.loop.create_task(end(watcher))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def close(self) -> None:
        """Close all connections, from any thread."""
        for watcher in self._all:
            with contextlib.suppress(RuntimeError):
                watcher.loop.call_soon_threadsafe(self.disconnect, watcher.user)

    async def _serve(self, watcher: Watcher) -> None:
        self._prepare(watcher.socket)
        self._all = (*self._all, watcher)
        sending = asyncio.ensure_future(self._send(watcher))
        try:
            async for _ in watcher.socket:
                pass  # nothing is expected of a page after its key
        finally:
            self._leave(watcher)
            sending.cancel()

    def _leave(self, watcher: Watcher) -> None:
        self._all = tuple(one for one in self._all if one is not watcher)
        watcher.wake()

    async def _send(self, watcher: Watcher) -> None:
        """Send what is new and wait for more, until the watcher leaves."""
        told, at, picture = None, 0.0, self._last.get(watcher.user)
        with contextlib.suppress(ConnectionError, RuntimeError):  # closed, or about to be
            while watcher in self._all:
                watcher.something_new.clear()
                progress, now = self._progress(watcher.user), time.monotonic()
                if progress != told or now - at > SILENCE:
                    told, at = progress, now
                    await watcher.socket.send_json(progress)
                picture = self._take(watcher) or picture
                if picture is not None:
                    await watcher.socket.send_bytes(picture)
                    picture = None
                else:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(watcher.something_new.wait(), TICK)

    def _take(self, watcher: Watcher) -> bytes | None:
        """The waiting picture, if it may still be shown."""
        if watcher not in self._all:
            return None
        with self._lock:
            frame, watcher.waiting = watcher.waiting, None
        if frame is None:
            return None
        self._on_free()
        return frame.data if self._is_live(frame.label.run) else None


async def first_text(socket: web.WebSocketResponse) -> str:
    """The first message, if it is text and arrives in time; otherwise ""."""
    with contextlib.suppress(asyncio.TimeoutError):
        message = await asyncio.wait_for(socket.receive(), SECONDS_FOR_KEY)
        if message.type is WSMsgType.TEXT and len(message.data) <= LONGEST_KEY:
            return str(message.data)
    return ""


async def end(watcher: Watcher) -> None:
    """Tell a page that its key is refused, and cut the connection even if it does not respond."""
    with contextlib.suppress(Exception):
        await asyncio.wait_for(watcher.socket.close(code=REFUSED), SECONDS_TO_CLOSE)
    if watcher.transport is not None:
        watcher.transport.abort()
