"""The routes: JSON in, JSON out; what is wrong is refused by name, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from sidestream.preview.routes import MAX_BODY, Current, add_to, read_live
from sidestream.preview.settings import FIELDS, SettingError, checked

LIVE = "/sidestream/live"


@dataclass
class FakePack:
    """Answers as the pack does, and remembers what it was told."""

    name: str = "first"
    changes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return {"name": self.name}

    def settings(self) -> dict[str, Any]:
        return {"fields": list(FIELDS)}

    def change(self, client_id: str, live: dict[str, Any]) -> int:
        self.changes.append((client_id, live))
        return 2


def serve(pack: FakePack, ask: Callable[[TestClient, Current], Awaitable[Any]]) -> Any:
    """What `ask` returns of a real server on loopback."""

    async def session() -> Any:
        current, table, app = Current(pack), web.RouteTableDef(), web.Application()
        add_to(table, current)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as client:
            return await ask(client, current)

    return asyncio.run(session())


def post(body: bytes | Any) -> tuple[int, dict[str, Any], FakePack]:
    """Status and JSON of the answer to a body, and the pack that it was for."""
    pack = FakePack()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def ask(client: TestClient, current: Current) -> tuple[int, Any]:
        async with client.post(LIVE, data=data) as response:
            return response.status, await response.json()

    status, answer = serve(pack, ask)
    return status, answer, pack


def test_get_routes_answer_json():
    async def ask(client: TestClient, current: Current) -> list[Any]:
        paths = ("/sidestream/status", "/sidestream/settings")
        return [await (await client.get(path)).json() for path in paths]

    assert serve(FakePack(), ask) == [{"name": "first"}, {"fields": list(FIELDS)}]


def test_a_pack_that_was_loaded_anew_answers_the_same_routes():
    async def ask(client: TestClient, current: Current) -> Any:
        current.pack = FakePack("second")
        return await (await client.get("/sidestream/status")).json()

    assert serve(FakePack(), ask) == {"name": "second"}


def test_good_changes_reach_the_pack():
    status, answer, pack = post({"client_id": "c", "throttle_ms": 5.0, "method": "off"})
    assert (status, answer) == (200, {"runs": 2})
    assert pack.changes == [("c", {"throttle_ms": 5, "method": "off"})]


@pytest.mark.parametrize(
    ("field_and_value", "parts"),
    [
        ({"throttle_ms": -1}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": 60_001}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": "100"}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": True}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": None}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": float("nan")}, ["throttle_ms", "from 0 to 60000"]),
        ({"every_n_steps": 0}, ["every_n_steps", "from 1 to 1000"]),
        ({"budget": 101}, ["budget", "from 0 to 100"]),
        ({"max_size": 63}, ["max_size", "0 or a whole number from 64 to 2048"]),
        ({"quality": 0}, ["quality", "from 1 to 100"]),
        ({"method": "best"}, ["method", "host, auto, taesd, latent2rgb, off"]),
        ({"format": ["jpeg"]}, ["format", "jpeg, webp, png"]),
        ({"throttle": 5}, ["'throttle'", "throttle_ms, every_n_steps, method"]),
    ],
)
def test_a_bad_value_gives_400_with_field_and_range_and_changes_nothing(field_and_value, parts):
    status, answer, pack = post({"client_id": "c", "quality": 50, **field_and_value})
    assert status == 400
    assert answer.keys() == {"error"}
    assert all(part in answer["error"] for part in parts)
    assert pack.changes == []


@pytest.mark.parametrize("client_id", ["", 7, None, "c" * 201, ["c"]])
def test_without_a_proper_client_id_nothing_changes(client_id):
    status, answer, pack = post({"quality": 50, "client_id": client_id})
    assert status == 400
    assert "client_id must be a string of 1 to 200 characters" in answer["error"]
    assert pack.changes == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"quality=5", b"\xff\xfe", b"[" * 16_000, b"1" * 5000, b'{"a": 1}{}']
)
def test_a_body_that_is_no_json_gives_400(body):
    status, answer, pack = post(body)
    assert status == 400
    assert "must be JSON" in answer["error"] or "must be an object" in answer["error"]
    assert pack.changes == []


@pytest.mark.parametrize("body", [[], "text", 5, None, [{"client_id": "c"}]])
def test_a_body_that_is_no_object_gives_400(body):
    status, answer, pack = post(body)
    assert status == 400
    assert "must be an object with client_id and any of throttle_ms" in answer["error"]
    assert pack.changes == []


def test_a_body_up_to_the_limit_is_read_and_a_larger_one_refused():
    def padded(length: int) -> bytes:
        return b'{"client_id": "c"}'.ljust(length)

    assert post(padded(MAX_BODY))[0] == 200
    status, answer, pack = post(padded(MAX_BODY + 1))
    assert status == 400
    assert f"at most {MAX_BODY} bytes" in answer["error"]
    assert pack.changes == []


def test_a_huge_body_is_refused_before_it_has_come():
    async def ask(client: TestClient, current: Current) -> bytes:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        head = f"POST {LIVE} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**9}\r\n\r\n"
        writer.write(head.encode() + b" " * (MAX_BODY + 1))
        try:
            return await asyncio.wait_for(reader.readline(), 10)
        finally:
            writer.close()

    assert serve(FakePack(), ask).startswith(b"HTTP/1.1 400")


names = st.sampled_from(list(FIELDS))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | names, inner),
)
changes = st.dictionaries(names, values).map(lambda live: {**live, "client_id": "c"})


@settings(deadline=None)
@given(st.binary() | (values | changes).map(lambda value: json.dumps(value).encode()))
def test_no_body_gets_through_unchecked_or_fails_otherwise_than_by_refusal(body):
    try:
        client_id, live = read_live(body)
    except SettingError:
        return
    assert isinstance(client_id, str)
    assert checked(live) == live
