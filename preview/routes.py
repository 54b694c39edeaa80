"""What the page and API clients can ask: JSON in, JSON out, all under /sidestream/."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Protocol

from aiohttp import web

from .settings import FIELDS, SettingError, checked

MAX_BODY = 16 * 1024  # bytes; a full set of settings is below 1 KB


class Answers(Protocol):
    """Who answers the routes; see `pack.Pack`."""

    def status(self) -> dict[str, Any]: ...

    def report(self) -> str: ...

    def settings(self) -> dict[str, Any]: ...

    def change(self, client_id: str, live: dict[str, Any]) -> int: ...


class Current:
    """The pack that answers at the moment: routes stay when the pack is loaded anew."""

    def __init__(self, pack: Answers) -> None:
        self.pack = pack


def add_to(table: web.RouteTableDef, current: Current) -> None:
    """Register the routes."""

    @table.get("/sidestream/status")
    async def status(request: web.Request) -> web.Response:
        return web.json_response(current.pack.status())

    @table.get("/sidestream/report")
    async def report(request: web.Request) -> web.Response:
        # It looks into folders and asks a driver, while the loop has pictures to send.
        return web.Response(text=await asyncio.to_thread(current.pack.report))

    @table.get("/sidestream/settings")
    async def settings(request: web.Request) -> web.Response:
        return web.json_response(current.pack.settings())

    @table.post("/sidestream/live")
    async def live(request: web.Request) -> web.Response:
        # A page of another site can make a browser send any other type without asking first.
        if request.content_type != "application/json":
            return web.json_response({"error": "the body must be application/json"}, status=415)
        try:
            client_id, changes = read_live(await read_limited(request))
        except SettingError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"runs": current.pack.change(client_id, changes)})


async def read_limited(request: web.Request) -> bytes:
    """The body. Raises SettingError where it is larger than `MAX_BODY`."""
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
    """The client and the checked changes in the body of `POST live`. Raises SettingError."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise SettingError("the body must be JSON") from error
    if not isinstance(data, dict):
        raise SettingError(
            f"the body must be an object with client_id and any of {', '.join(FIELDS)}"
        )
    client_id = data.pop("client_id", None)
    if not isinstance(client_id, str) or not 0 < len(client_id) <= 200:
        raise SettingError("client_id must be a string of 1 to 200 characters")
    return client_id, checked(data)
