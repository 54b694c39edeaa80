"""A proxy in front of ComfyUI that can serve it below a folder, and whose connections can break."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType, web

# What belongs to one connection, or to the body as it was sent.
HOP = {"host", "connection", "content-encoding", "content-length", "transfer-encoding", "origin"}


class Proxy:
    """Serves everything of `target` below `folder`, and nothing outside of it."""

    def __init__(self, target: str, folder: str) -> None:
        self.target = target
        self._folder = folder
        self._broken = False
        self._sockets: set[web.WebSocketResponse] = set()
        self._loop = asyncio.new_event_loop()
        self.outside: list[str] = []
        """Paths outside the folder that somebody asked for."""

    def start(self) -> str:
        """Returns the address of the folder."""
        ready: list[int] = []
        listening = threading.Event()
        threading.Thread(target=self._serve, args=(ready, listening), daemon=True).start()
        listening.wait(10)
        return f"http://127.0.0.1:{ready[0]}{self._folder}"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    def set_broken(self, broken: bool) -> None:
        """Cut all sockets and refuse everything, or let it pass again."""
        asyncio.run_coroutine_threadsafe(self._set_broken(broken), self._loop).result(10)

    async def _set_broken(self, broken: bool) -> None:
        self._broken = broken
        for socket in list(self._sockets) if broken else []:
            if socket._req and socket._req.transport:
                socket._req.transport.abort()  # without a word, as a network does

    def _serve(self, ready: list[int], listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open(ready))
        listening.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())

    async def _open(self, ready: list[int]) -> None:
        self._session = ClientSession(auto_decompress=True)
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        ready.append(self._runner.addresses[0][1])

    async def _close(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._broken:
            if request.transport:
                request.transport.abort()
            raise web.HTTPBadGateway
        path = request.rel_url.raw_path
        if not path.startswith(self._folder + "/"):
            self.outside.append(path)
            raise web.HTTPNotFound
        address = self.target + str(request.rel_url)[len(self._folder) :]
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._join(request, address)
        async with self._session.request(
            request.method, address, headers=headers, data=await request.read(), allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _join(self, request: web.Request, address: str) -> web.WebSocketResponse:
        page = web.WebSocketResponse(max_msg_size=0)
        await page.prepare(request)
        self._sockets.add(page)
        with suppress(ClientError):
            async with self._session.ws_connect(address, max_msg_size=0) as server:
                ways = {asyncio.create_task(_pass_on(page, server)), asyncio.create_task(_pass_on(server, page))}
                _, others = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in others:
                    way.cancel()
        self._sockets.discard(page)
        return page


async def _pass_on(
    source: web.WebSocketResponse | ClientWebSocketResponse, target: web.WebSocketResponse | ClientWebSocketResponse
) -> None:
    with suppress(ConnectionError, RuntimeError):
        async for message in source:
            data: Any = message.data
            if message.type is WSMsgType.TEXT:
                await target.send_str(data)
            elif message.type is WSMsgType.BINARY:
                await target.send_bytes(data)


@contextmanager
def proxy(target: str, folder: str = "") -> Iterator[tuple[Proxy, str]]:
    """A proxy and the address of its folder."""
    one = Proxy(target, folder)
    try:
        yield one, one.start()
    finally:
        one.stop()
