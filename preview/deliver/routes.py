"""The HTTP routes for the page and for API clients: JSON in, JSON out, all under /sidestream/."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from aiohttp import web

from ..settings import FIELDS, SettingError, checked, shown

NOT_KEPT = {"Cache-Control": "no-store"}
MAX_BODY = 16 * 1024  # bytes; a full set of settings is below 1 KB

Handler = Callable[[web.Request], Awaitable[web.Response]]
T = TypeVar("T")


class Answers(Protocol):
    """What answers the routes; see `pack.Pack`."""

    def status(self) -> dict[str, Any]: ...

    def report(self) -> str: ...

    def settings(self) -> dict[str, Any]: ...

    def change(self, client_id: str, live: dict[str, Any]) -> None: ...

    def pause(self, client_id: str, paused: bool) -> None: ...

    def finish(self, client_id: str, run: str) -> None: ...

    def client(self, client_id: str) -> dict[str, Any]: ...

    def sound(self, secret: str) -> bytes | None: ...

    def sharing(self, request: web.Request) -> dict[str, Any]: ...

    def share(self, request: web.Request, on: bool) -> None: ...

    def renew(self, request: web.Request) -> None: ...

    async def watch(self, request: web.Request) -> web.StreamResponse: ...


class Current:
    """The pack that answers at present: the routes remain when the pack is reloaded."""

    def __init__(self, pack: Answers) -> None:
        self.pack = pack


def add_to(table: web.RouteTableDef, current: Current) -> None:
    """Register the routes."""

    @table.get("/sidestream/status")
    async def status(request: web.Request) -> web.Response:
        return web.json_response(current.pack.status())

    @table.get("/sidestream/report")
    async def report(request: web.Request) -> web.Response:
        # It reads folders and queries a driver; the event loop has pictures to send.
        return web.Response(text=await asyncio.to_thread(current.pack.report))

    @table.get("/sidestream/settings")
    async def settings(request: web.Request) -> web.Response:
        return web.json_response(current.pack.settings())

    @table.get("/sidestream/client")
    @refusing
    async def client(request: web.Request) -> web.Response:
        client_id = checked_client(request.query.get("client_id"))
        return web.json_response(current.pack.client(client_id))

    @table.get("/sidestream/sound/{secret}")
    async def sound(request: web.Request) -> web.Response:
        data = current.pack.sound(request.match_info["secret"])
        if data is None:
            return web.json_response({"error": "this sound is no longer available"}, status=404)
        return web.Response(body=data, content_type="audio/wav", headers=NOT_KEPT)

    def add_change(
        name: str,
        read: Callable[[bytes], tuple[str, T]],
        change: Callable[[Answers, str, T], None],
    ) -> None:
        """A route through which a client changes something about its runs."""

        @table.post(f"/sidestream/{name}")
        @refusing
        async def changed(request: web.Request) -> web.Response:
            client_id, value = read(await read_limited(request))
            change(current.pack, client_id, value)
            return web.json_response(current.pack.client(client_id))

    add_change("live", read_live, lambda pack, client_id, live: pack.change(client_id, live))
    add_change("pause", read_pause, lambda pack, client_id, paused: pack.pause(client_id, paused))
    add_change("finish", read_finish, lambda pack, client_id, run: pack.finish(client_id, run))

    @table.get("/sidestream/sharing")
    @refusing
    async def sharing(request: web.Request) -> web.Response:
        return web.json_response(current.pack.sharing(request), headers=NOT_KEPT)

    @table.post("/sidestream/sharing")
    @refusing
    async def share(request: web.Request) -> web.Response:
        on = read_sharing(await read_limited(request))
        if on is None:
            current.pack.renew(request)
        else:
            current.pack.share(request, on)
        return web.json_response(current.pack.sharing(request), headers=NOT_KEPT)

    @table.get("/sidestream/watch")
    async def watch(request: web.Request) -> web.StreamResponse:
        return await current.pack.watch(request)


def refusing(answer: Handler) -> Handler:
    """`answer`, with an error response if it raises SettingError."""

    @functools.wraps(answer)
    async def answered(request: web.Request) -> web.Response:
        try:
            return await answer(request)
        except SettingError as error:
            status = 415 if isinstance(error, WrongType) else 400
            return web.json_response({"error": str(error)}, status=status)

    return answered


class WrongType(SettingError):
    """The body's content type is not JSON."""


async def read_limited(request: web.Request) -> bytes:
    """The body. Raises SettingError if its type is not JSON or it is larger than `MAX_BODY`."""
    # Pages of other sites can make a browser send other types without a preflight request.
    if request.content_type != "application/json":
        raise WrongType("the body must be application/json")
    body = b""
    try:
        while len(body) <= MAX_BODY and not request.content.at_eof():
            body += await request.content.read(MAX_BODY + 1 - len(body))
    except web.RequestPayloadError as error:  # broken compression
        raise SettingError("the body cannot be read") from error
    if len(body) > MAX_BODY:
        raise SettingError(f"the body must be at most {MAX_BODY} bytes")
    return body


def read_live(body: bytes) -> tuple[str, dict[str, Any]]:
    """The client and the checked changes in the body of `POST live`. Raises SettingError.

    None, for JSON's null, takes a change back.
    """
    data = read_object(body, f"client_id and any of {', '.join(FIELDS)}")
    client_id = checked_client(data.pop("client_id", None))
    taken_back = {name: None for name, value in data.items() if value is None and name in FIELDS}
    changes = checked({name: each for name, each in data.items() if name not in taken_back})
    return client_id, {**changes, **taken_back}


def read_pause(body: bytes) -> tuple[str, bool]:
    """The client in the body of `POST pause`, and whether to pause. Raises SettingError."""
    client_id, paused = read_pair(body, "paused")
    if not isinstance(paused, bool):
        raise SettingError("paused must be true or false")
    return client_id, paused


def read_finish(body: bytes) -> tuple[str, str]:
    """The client in the body of `POST finish`, and its run. Raises SettingError."""
    client_id, run = read_pair(body, "run")
    if not isinstance(run, str) or not run:
        raise SettingError("run must be the id of a run")
    return client_id, run


def read_sharing(body: bytes) -> bool | None:
    """What the body of `POST sharing` asks for: on or off, or None for a new key.

    Raises SettingError.
    """
    data = read_object(body, "on or renew")
    if list(data) == ["renew"] and data["renew"] is True:
        return None
    if list(data) != ["on"] or not isinstance(data["on"], bool):
        raise SettingError('the body must be {"on": true}, {"on": false} or {"renew": true}')
    return bool(data["on"])


def read_pair(body: bytes, key: str) -> tuple[str, Any]:
    """The client in a body with one other `key`, and its value. Raises SettingError."""
    data = read_object(body, f"client_id and {key}")
    client_id, value = checked_client(data.pop("client_id", None)), data.pop(key, None)
    for name in data:
        raise SettingError(f"{shown(name)} is unknown; known keys: client_id, {key}")
    return client_id, value


def read_object(body: bytes, keys: str) -> dict[str, Any]:
    """The JSON object in a body. Raises SettingError."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SettingError("the body must be JSON") from error
    if not isinstance(data, dict):
        raise SettingError(f"the body must be an object with {keys}")
    return data


def checked_client(client_id: Any) -> str:
    """The id of a client. Raises SettingError if it cannot be one."""
    if not isinstance(client_id, str) or not 0 < len(client_id) <= 200:
        raise SettingError("client_id must be a string of 1 to 200 characters")
    return client_id
