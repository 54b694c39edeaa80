"""ComfyUI's websockets, as `transport.Wire`."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import comfy.model_management
from comfy_execution.progress import NodeState, get_progress_state
from server import PromptServer

from ..transport import Socket
from .events import PromptEvents

UNSENT = 32 * 1024  # bytes that a connection may keep waiting for a slow network


class Server:
    """ComfyUI's server as `transport.Wire`."""

    def __init__(self) -> None:
        self._server = PromptServer.instance
        self._events = PromptEvents(self._server)
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio itself may forget them

    def close(self) -> None:
        """Give back what was taken of the server."""
        self._events.close()

    def sockets(self, client_id: str | None) -> list[Socket]:
        connected = self._server.sockets
        if client_id is None:
            found = list(connected.items())
        else:
            connection = connected.get(client_id)
            found = [] if connection is None else [(client_id, connection)]
        return [Socket(sid, connection, self._knows_metadata(sid)) for sid, connection in found]

    def connected(self, client_id: str | None) -> bool:
        connections = self._server.sockets
        return bool(connections) if client_id is None else client_id in connections

    def is_running(self, prompt_id: str | None, node_id: str | None) -> bool:
        progress = get_progress_state()
        entry = progress.nodes.get(node_id)
        return (
            progress.prompt_id == prompt_id
            and entry is not None
            and entry["state"] == NodeState.Running
            and self._is_executed(prompt_id)
            and not comfy.model_management.processing_interrupted()
        )

    def may_show_late(self, prompt_id: str | None, node_id: str | None) -> bool:
        if prompt_id is None or node_id is None or self._events.failed(prompt_id):
            return False
        if self._events.has_shown(prompt_id, node_id):
            return False
        # An interrupt is for the prompt that is being executed.
        interrupted = comfy.model_management.processing_interrupted()
        return not (interrupted and self._is_executed(prompt_id))

    def _is_executed(self, prompt_id: str | None) -> bool:
        running = list(self._server.prompt_queue.currently_running.values())
        return any(item[1] == prompt_id for item in running)

    def is_idle(self) -> bool:
        return not self._server.prompt_queue.currently_running

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # run_coroutine_threadsafe makes a future for the caller too, which nobody here waits for.
        # The server may be going down: its loop is closed, or ends before it comes to this.
        with contextlib.suppress(RuntimeError):
            self._server.loop.call_soon_threadsafe(Unbegun(coroutine, self._begin))

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._server.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def send_bytes(self, event: int, data: bytes, socket: Socket) -> bool:
        if self._server.sockets.get(socket.id) is not socket.connection:
            return False
        keep_queue_short(socket.connection)
        await self._server.send_bytes(event, data, socket.id)
        return True

    async def send_json(self, event: str, data: dict[str, Any], socket: Socket) -> bool:
        if self._server.sockets.get(socket.id) is not socket.connection:
            return False
        await self._server.send_json(event, data, socket.id)
        return True

    def _knows_metadata(self, sid: str) -> bool:
        # As the client sent it: ComfyUI keeps whatever JSON that was.
        flags = self._server.sockets_metadata.get(sid, {}).get("feature_flags")
        return isinstance(flags, Mapping) and flags.get("supports_preview_metadata") is True


class Unbegun:
    """A coroutine on its way to a loop. Where it never arrives it is closed, not complained of."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        begin: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._coroutine: Coroutine[Any, Any, None] | None = coroutine
        self._begin = begin

    def __call__(self) -> None:
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is not None:
            self._begin(coroutine)

    def __del__(self) -> None:
        if self._coroutine is not None:
            self._coroutine.close()


def keep_queue_short(connection: Any) -> None:
    """Let the system keep little that the network has not taken yet, where it can be told so.

    By itself it keeps megabytes, and what a slow client sees would be many seconds old.
    """
    option = getattr(sockets, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with contextlib.suppress(AttributeError, OSError):
            raw = connection.get_extra_info("socket")
            raw.setsockopt(sockets.IPPROTO_TCP, option, UNSENT)
