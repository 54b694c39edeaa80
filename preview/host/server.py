"""ComfyUI's server: its routes, its queue, and its websockets as `transport.Wire`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket as sockets
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management

from ..records import Socket
from .unmade import Unmade


def _instance() -> Any:
    """The server; None if there is none, as in tools that import packs."""
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)


def unexpected_server() -> str | None:
    """What is different about the server; None if nothing is."""
    return "there is no server" if _instance() is None else None


def routes() -> Any:
    """The table to which packs add their routes; None without a server."""
    return getattr(_instance(), "routes", None)


def prompts_of(client_id: str) -> set[str]:
    """The prompts of a client that run or wait in the queue."""
    server = _instance()
    if server is None:
        return set()
    queue = server.prompt_queue
    with queue.mutex:  # or a prompt that is about to run might be in neither list
        items = [*queue.currently_running.values(), *queue.queue]
    by_data = ((item[1], item[3]) for item in items if isinstance(item[3], Mapping))
    return {prompt_id for prompt_id, data in by_data if data.get("client_id") == client_id}


def user_of(request: Any) -> str:
    """ComfyUI's user who made a request. Raises KeyError for an unknown one."""
    return str(_instance().user_manager.get_request_user_id(request))


def register(current: object) -> None:
    """Remember what answers the routes, for the lifetime of the server."""
    _instance().sidestream = current


def registered() -> Any:
    """What `register` remembered; None before."""
    return getattr(_instance(), "sidestream", None)


PROMPTS = 32  # to remember
FAILURES = ("execution_interrupted", "execution_error")
BLOCKED = "ExecutionBlocked"
"""An error's type where a node blocked those behind it, and the prompt goes on."""


@dataclass(slots=True)
class Heard:
    """What was sent about one prompt."""

    failed: bool = False
    shown: set[str] = field(default_factory=set)
    """The nodes that showed a result."""


class PromptEvents:
    """Remembers which nodes showed a result, and which prompts failed or were interrupted.

    It wraps `send_sync` of the server object, not of the class, and `close` undoes that. The method
    of the class is looked up at each call, so that other packs may replace it at any time.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._prompts: OrderedDict[str, Heard] = OrderedDict()
        self._lock = threading.Lock()
        original = vars(server).get("send_sync")

        @functools.wraps(server.send_sync)
        def send_sync(event: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
            preview = data[0] if type(data) is tuple and data else data
            if isinstance(preview, Unmade) and preview.passed_on() is None:
                return None  # from packs with a progress bar of their own
            self._hear(event, data)
            if original is not None:  # another pack's, on the same object
                return original(event, data, *args, **kwargs)
            return type(server).send_sync(server, event, data, *args, **kwargs)

        self._original = original
        self._wrapped = server.send_sync = send_sync

    def close(self) -> None:
        """Stop listening. If another pack has wrapped it since, it only passes calls through."""
        if vars(self._server).get("send_sync") is not self._wrapped:
            return
        if self._original is None:
            del self._server.send_sync
        else:
            self._server.send_sync = self._original

    def failed(self, prompt_id: str) -> bool:
        """Whether the prompt failed or was interrupted."""
        heard = self._prompts.get(prompt_id)
        return heard is not None and heard.failed

    def has_shown(self, prompt_id: str, node_id: str) -> bool:
        """Whether the node showed a result."""
        heard = self._prompts.get(prompt_id)
        return heard is not None and node_id in heard.shown

    def _hear(self, event: Any, data: Any) -> None:
        if event != "executed" and event not in FAILURES:
            return
        prompt_id = data.get("prompt_id") if isinstance(data, Mapping) else None
        if not isinstance(prompt_id, str) or data.get("exception_type") == BLOCKED:
            return
        with self._lock:
            heard = self._prompts.setdefault(prompt_id, Heard())
            if event in FAILURES:
                heard.failed = True
            elif _shows(data.get("output")):
                heard.shown.update(str(data.get(key)) for key in ("node", "display_node"))
            while len(self._prompts) > PROMPTS:
                self._prompts.popitem(last=False)


def _shows(output: Any) -> bool:
    """Whether a node's output shows anything: some send empty lists."""
    return any(output.values()) if isinstance(output, Mapping) else bool(output)


UNSENT = 32 * 1024  # bytes of a connection that may wait in the system for a slow network


class Server:
    """ComfyUI's server as `transport.Wire`."""

    def __init__(self) -> None:
        self._server = _instance()
        self._events = PromptEvents(self._server)
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio only keeps weak references

    def close(self) -> None:
        """Undo the changes to the server."""
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
        # Imported here: if it is missing, the routes still work, and say so.
        from comfy_execution.progress import NodeState, get_progress_state

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
        # An interrupt affects the prompt that is being executed.
        interrupted = comfy.model_management.processing_interrupted()
        return not (interrupted and self._is_executed(prompt_id))

    def _is_executed(self, prompt_id: str | None) -> bool:
        running = list(self._server.prompt_queue.currently_running.values())
        return any(item[1] == prompt_id for item in running)

    def is_idle(self) -> bool:
        return not self._server.prompt_queue.currently_running

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        # run_coroutine_threadsafe would also make a future, for which nobody here waits. The server
        # may be shutting down: its loop may be closed, or end before it gets to this.
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
        # It is as the client sent it, which may be any JSON.
        flags = self._server.sockets_metadata.get(sid, {}).get("feature_flags")
        return isinstance(flags, Mapping) and flags.get("supports_preview_metadata") is True


class Unbegun:
    """A coroutine on its way to a loop. If it never gets there, it is closed without a warning."""

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
    """Limit what the system buffers for a connection, if it supports that.

    By default it buffers megabytes, so what a slow client sees would be many seconds old.
    """
    option = getattr(sockets, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        with contextlib.suppress(AttributeError, OSError):
            raw = connection.get_extra_info("socket")
            raw.setsockopt(sockets.IPPROTO_TCP, option, UNSENT)
