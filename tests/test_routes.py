"""The routes: JSON in, JSON out; what is wrong is refused by name, and changes nothing."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from sidestream.preview.deliver.routes import MAX_BODY, Current, add_to, read_live
from sidestream.preview.records import NodeContext
from sidestream.preview.settings import FIELDS, SettingError, checked
from sidestream.tests.helpers import FakeSource, a_book, start_run

LIVE = "/sidestream/live"
PAUSE = "/sidestream/pause"
FINISH = "/sidestream/finish"
AS_JSON = {"Content-Type": "application/json"}


@dataclass
class FakePack:
    """Answers as the pack does, and remembers what it was told."""

    name: str = "first"
    changes: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    pauses: list[tuple[str, bool]] = field(default_factory=list)
    finishes: list[tuple[str, str]] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return {"name": self.name}

    def report(self) -> str:
        return f"about {self.name}"

    def settings(self) -> dict[str, Any]:
        return {"fields": list(FIELDS)}

    def change(self, client_id: str, live: dict[str, Any]) -> None:
        self.changes.append((client_id, live))

    def pause(self, client_id: str, paused: bool) -> None:
        self.pauses.append((client_id, paused))

    def finish(self, client_id: str, run: str) -> None:
        self.finishes.append((client_id, run))

    def client(self, client_id: str) -> dict[str, Any]:
        return {"of": client_id}


def serve(
    pack: FakePack, ask: Callable[[TestClient, Current], Awaitable[Any]], *middlewares: Any
) -> Any:
    """What `ask` returns of a real server on loopback."""

    async def session() -> Any:
        current, table = Current(pack), web.RouteTableDef()
        app = web.Application(middlewares=middlewares)
        add_to(table, current)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as client:
            return await ask(client, current)

    return asyncio.run(session())


def post(body: bytes | Any, route: str = LIVE) -> tuple[int, dict[str, Any], FakePack]:
    """Status and JSON of the answer to a body, and the pack that it was for."""
    pack = FakePack()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def ask(client: TestClient, current: Current) -> tuple[int, Any]:
        async with client.post(route, data=data, headers=AS_JSON) as response:
            return response.status, await response.json()

    status, answer = serve(pack, ask)
    return status, answer, pack


def test_get_routes_answer_json():
    async def ask(client: TestClient, current: Current) -> list[Any]:
        paths = ("/sidestream/status", "/sidestream/settings")
        return [await (await client.get(path)).json() for path in paths]

    assert serve(FakePack(), ask) == [{"name": "first"}, {"fields": list(FIELDS)}]


def test_the_report_is_plain_text():
    async def ask(client: TestClient, current: Current) -> tuple[str, str]:
        async with client.get("/sidestream/report") as response:
            return response.content_type, await response.text()

    assert serve(FakePack(), ask) == ("text/plain", "about first")


def test_a_pack_that_was_loaded_anew_answers_the_same_routes():
    async def ask(client: TestClient, current: Current) -> Any:
        current.pack = FakePack("second")
        return await (await client.get("/sidestream/status")).json()

    assert serve(FakePack(), ask) == {"name": "second"}


def test_good_changes_reach_the_pack():
    status, answer, pack = post({"client_id": "c", "throttle_ms": 5.0, "method": "off"})
    assert (status, answer) == (200, {"of": "c"})
    assert pack.changes == [("c", {"throttle_ms": 5, "method": "off"})]


def test_null_takes_a_change_back():
    status, _, pack = post({"client_id": "c", "throttle_ms": None, "quality": 7})
    assert status == 200
    assert pack.changes == [("c", {"throttle_ms": None, "quality": 7})]
    status, answer, pack = post({"client_id": "c", "throttle": None})
    assert status == 400
    assert "'throttle' is not a setting" in answer["error"]


@pytest.mark.parametrize("paused", [True, False])
def test_a_client_is_paused_and_resumed(paused):
    status, answer, pack = post({"client_id": "c", "paused": paused}, PAUSE)
    assert (status, answer) == (200, {"of": "c"})
    assert pack.pauses == [("c", paused)]


def test_a_client_finishes_its_run():
    status, answer, pack = post({"client_id": "c", "run": "r"}, FINISH)
    assert (status, answer) == (200, {"of": "c"})
    assert pack.finishes == [("c", "r")]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"client_id": "c"}, "run must be the id of a run"),
        ({"client_id": "c", "run": 1}, "run must be the id of a run"),
        ({"client_id": "c", "run": ""}, "run must be the id of a run"),
        ({"run": "r"}, "client_id must be a string of 1 to 200 characters"),
        ({"client_id": "c", "run": "r", "step": 3}, "'step' is unknown; known keys"),
        ([], "must be an object with client_id and run"),
    ],
)
def test_a_bad_finish_gives_400_with_the_field_and_finishes_nothing(body, part):
    status, answer, pack = post(body, FINISH)
    assert status == 400
    assert part in answer["error"]
    assert pack.finishes == []


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"client_id": "c"}, "paused must be true or false"),
        ({"client_id": "c", "paused": 1}, "paused must be true or false"),
        ({"client_id": "c", "paused": None}, "paused must be true or false"),
        ({"paused": True}, "client_id must be a string of 1 to 200 characters"),
        ({"client_id": "", "paused": True}, "client_id must be a string of 1 to 200 characters"),
        ({"client_id": "c", "paused": True, "method": "off"}, "'method' is unknown"),
        ([], "must be an object with client_id and paused"),
        (b"{", "must be JSON"),
    ],
)
def test_a_bad_pause_gives_400_with_the_field_and_changes_nothing(body, part):
    status, answer, pack = post(body, PAUSE)
    assert status == 400
    assert part in answer["error"]
    assert pack.pauses == []


def test_a_client_asks_for_its_own_state_by_its_id():
    async def ask(client: TestClient, current: Current) -> list[Any]:
        answers = []
        for query in ("?client_id=c", "", "?client_id=" + "c" * 201):
            async with client.get("/sidestream/client" + query) as response:
                answers.append((response.status, await response.json()))
        return answers

    found, *refused = serve(FakePack(), ask)
    assert found == (200, {"of": "c"})
    assert [status for status, _ in refused] == [400, 400]
    assert all("client_id" in answer["error"] for _, answer in refused)


@pytest.mark.parametrize(
    ("field_and_value", "parts"),
    [
        ({"throttle_ms": -1}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": 60_001}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": "100"}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": True}, ["throttle_ms", "from 0 to 60000"]),
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
        head = f"POST {LIVE} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**9}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        writer.write(head.encode() + b" " * (MAX_BODY + 1))
        try:
            return await asyncio.wait_for(reader.readline(), 10)
        finally:
            writer.close()

    assert serve(FakePack(), ask).startswith(b"HTTP/1.1 400")


# Strangers


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_what_a_page_of_another_site_can_send_unasked_is_refused(kind):
    async def ask(client: TestClient, current: Current) -> int:
        body = b'{"client_id": "c", "quality": 5}'
        async with client.post(LIVE, data=body, headers={"Content-Type": kind}) as response:
            assert "application/json" in (await response.json())["error"]
            return response.status

    pack = FakePack()
    assert serve(pack, ask) == 415
    assert pack.changes == []


def test_nor_can_it_pause():
    async def ask(client: TestClient, current: Current) -> int:
        async with client.post(PAUSE, data='{"client_id": "c", "paused": true}') as response:
            return response.status

    pack = FakePack()
    assert serve(pack, ask) == 415
    assert pack.pauses == []


def test_under_comfyui_a_request_from_another_site_is_refused(comfy):
    async def ask(client: TestClient, current: Current) -> list[int]:
        statuses = []
        for origin in ("http://somewhere.example", f"http://{client.host}:{client.port}"):
            headers = {**AS_JSON, "Origin": origin}
            async with client.post(LIVE, data=b'{"client_id": "c"}', headers=headers) as response:
                statuses.append(response.status)
        return statuses

    pack = FakePack()
    assert serve(pack, ask, comfy.server.create_origin_only_middleware()) == [403, 200]
    assert len(pack.changes) == 1


@pytest.mark.parametrize("body", [b"no gzip at all", gzip.compress(b" " * 50_000_000)])
def test_a_compressed_body_that_is_broken_or_vast_gives_400(body):
    async def ask(client: TestClient, current: Current) -> int:
        reader, writer = await asyncio.open_connection(client.host, client.port)
        head = f"POST {LIVE} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        try:
            return int((await asyncio.wait_for(reader.readline(), 10)).split()[1])
        finally:
            writer.close()

    assert serve(FakePack(), ask) == 400


# Anything at all


names = st.sampled_from(list(FIELDS))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | names, inner),
)
changes = st.dictionaries(names, values).map(lambda live: {**live, "client_id": "c"})
good = st.fixed_dictionaries(
    {"client_id": st.just("mine") | st.text()},
    optional={
        "throttle_ms": st.integers(0, 60_000),
        "quality": st.integers(1, 100),
        "format": st.sampled_from(FIELDS["format"].options),
        "paused": st.booleans(),
        "run": st.text(),
    },
)
deep = st.integers(1, MAX_BODY).map(lambda depth: b"[" * depth + b"]" * depth)
bodies = st.binary() | deep | (values | changes | good).map(lambda each: json.dumps(each).encode())


@given(bodies)
def test_no_body_gets_through_unchecked_or_fails_otherwise_than_by_refusal(body):
    try:
        client_id, live = read_live(body)
    except SettingError:
        return
    assert isinstance(client_id, str)
    given = {name: value for name, value in live.items() if value is not None}
    assert checked(given) == given
    assert set(live) <= set(FIELDS)


@dataclass
class TwoClients(FakePack):
    """Holds a run of `mine` and one of `victim`, as the pack does."""

    def __post_init__(self) -> None:
        book = a_book()
        self.book = book
        self.mine, self.victims = (
            start_run(book, FakeSource(), context=NodeContext("p-" + name, "1", client_id=name))
            for name in ("mine", "the-victims-own-id")
        )

    def status(self) -> dict[str, Any]:
        return self.book.counters()

    def change(self, client_id: str, live: dict[str, Any]) -> None:
        self.book.change(client_id, live)

    def pause(self, client_id: str, paused: bool) -> None:
        self.book.pause(client_id, paused)

    def finish(self, client_id: str, run: str) -> None:
        self.book.finish(client_id, run)

    def client(self, client_id: str) -> dict[str, Any]:
        return self.book.state(client_id)


paths = st.sampled_from(
    [LIVE, PAUSE, FINISH, "/sidestream/client", "/sidestream/status", "/sidestream/settings"]
)
kinds = st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", "x"])
origins = st.sampled_from([None, "null", "http://somewhere.example", "\N{SNOWMAN}"])
queries = st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=3)
methods = st.sampled_from(["POST"] * 3 + ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
requests = st.tuples(methods, paths, queries, kinds, origins, bodies)


@settings(max_examples=20)
@given(st.lists(requests, min_size=1, max_size=30))
def test_i8_no_request_fails_the_server_or_reads_or_changes_what_is_anothers(asked):
    pack = TwoClients()
    before = pack.victims.settings

    async def ask(client: TestClient, current: Current) -> None:
        for method, path, query, kind, origin, body in asked:
            headers = {"Content-Type": kind} | ({} if origin is None else {"Origin": origin})
            async with client.request(
                method, path, params=query, headers=headers, data=body
            ) as response:
                assert response.status in (200, 400, 405, 415)
                assert b"victim" not in await response.read()

    serve(pack, ask)
    assert pack.victims.settings is before
    assert not pack.victims.paused
    assert not pack.victims.finish_requested
    assert checked(pack.mine.settings.as_dict()) == pack.mine.settings.as_dict()
