"""The watch page's connection in a real ComfyUI: nothing without the key, nothing of others.

I8 private, I5 bounded: who watches slows nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import aiohttp
import numpy as np
import psutil
import pytest
from sidestream.preview.deliver.watchers import FULL, MOST, REFUSED, UNKNOWN
from sidestream.tests.graphs import demo_graph, insert, settled
from sidestream.tests.helpers import wait_until
from sidestream.tests.pictures import decoded
from sidestream.tests.sockets import RawSocket
from sidestream.tools.comfy_client import ComfyClient
from sidestream.tools.local import opened

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import Run
    from sidestream.tools.server import RunningHost

PREVIEWS = {"method": "latent2rgb", "throttle_ms": 0, "budget": 0}
OURS = {"sidestream": {"user": "default"}}
"""What ComfyUI's page sends with a prompt, where there is one user."""


class Watch:
    """A watch page without the page: what it was sent, and how its connection ended."""

    def __init__(self, url: str, first: str | bytes | None, **headers: str) -> None:
        """Connect and send the `first` message."""
        self.pictures: list[bytes] = []
        self.progress: list[dict[str, Any]] = []
        self.code: int | None = None
        """The close code, once it is closed."""
        self._leave = asyncio.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        arguments = (url.replace("http", "ws") + "/api/sidestream/watch", first, headers)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(*arguments)))
        self._thread.start()
        assert self._ready.wait(30)
        if self._error is not None:
            raise self._error

    async def _run(self, url: str, first: str | bytes | None, headers: dict[str, str]) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            async with aiohttp.ClientSession() as session:
                socket = await session.ws_connect(url, headers=headers)
                if isinstance(first, bytes):
                    await socket.send_bytes(first)
                elif first is not None:
                    await socket.send_str(first)
                self._ready.set()
                reading = asyncio.ensure_future(self._read(socket))
                leaving = asyncio.ensure_future(self._leave.wait())
                await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
                leaving.cancel()
                await socket.close()
        except BaseException as error:
            self._error = error
        self._ready.set()

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                self.pictures.append(message.data)
            else:
                self.progress.append(json.loads(message.data))
        self.code = socket.close_code

    @property
    def is_open(self) -> bool:
        """Whether it was let in."""
        return bool(self.progress) and self.code is None

    def ends(self) -> int | None:
        """The close code, for which it waits."""
        wait_until(lambda: self.code is not None)
        return self.code

    def has_all_of(self, seen: Run) -> bool:
        """Whether it has the last picture that a client saw of a run, and knows of its end."""
        if not self.pictures or self.progress[-1] != {"run": None}:
            return False
        return np.array_equal(decoded(self.pictures[-1]), decoded(seen.frames[-1].image))

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has ended by itself
            self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(10)


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Any) -> ComfyClient:
    return connect(running)


@pytest.fixture
def key(client: ComfyClient) -> Iterator[str]:
    """Of the one user, who shares during the test."""
    yield client.post("/sidestream/sharing", {"on": True})["key"]
    client.post("/sidestream/sharing", {"on": False})


Watching = Callable[..., Watch]


@pytest.fixture
def watch(running: RunningHost) -> Iterator[Watching]:
    """Call it with a key for a watcher."""
    opened_ones: list[Watch] = []

    def start(first: str | bytes | None, *, enters: bool = True, **headers: str) -> Watch:
        opened_ones.append(Watch(running.url, first, **headers))
        if enters:
            assert wait_until(lambda: opened_ones[-1].is_open)
        return opened_ones[-1]

    yield start
    for one in opened_ones:
        one.close()


def a_graph(steps: int = 10, seconds: float = 0.05, **settings: Any) -> dict[str, Any]:
    return settled(demo_graph({**PREVIEWS, **settings}, steps=steps, seconds=seconds))


def until_interrupted() -> dict[str, Any]:
    return a_graph(steps=2000)


def counted(client: ComfyClient) -> int:
    return int(client.get("/sidestream/sharing")["watchers"])


# Never without the key


def test_i8_nothing_is_shared_by_default(comfy_host, connect):
    running = comfy_host(fresh=True)
    client = connect(running)
    told = client.get("/sidestream/sharing")
    assert (told["on"], told["key"], told["watchers"]) == (False, "", 0)
    client.queue(a_graph(steps=40), OURS)
    for first in ("", told["key"], "default", "None", "null"):
        one = Watch(running.url, first)
        assert (one.ends(), one.pictures, one.progress) == (REFUSED, [], [])
        one.close()
    assert not list(running.base_dir.rglob("sharing.json"))


def test_i8_who_has_the_key_sees_what_the_client_sees(client, watch, key):
    one = watch(key)
    seen = client.run(a_graph(format="png"), OURS)
    # The last step's always; the same file, but for the label, which tells of prompt and seed.
    assert wait_until(lambda: one.has_all_of(seen))
    assert len(one.pictures) >= 5
    assert not any(b"sidestream" in picture for picture in one.pictures)
    assert b"sidestream" in seen.frames[-1].image
    run = seen.frames[-1].sidestream["run"]
    steps = [told["step"] for told in one.progress if told["run"] == run]
    assert steps == sorted(steps)
    assert len(steps) >= 5
    assert {told["total_steps"] for told in one.progress if told["run"]} == {10}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: "",
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key.swapcase(),
        lambda key: f" {key}",
        lambda key: key.encode(),
        lambda key: key * 9,  # longer than any
        lambda key: "\N{GRINNING FACE}",
        lambda key: json.dumps({"key": key}),
    ],
)
def test_i8_nothing_but_the_key_opens_it(client, watch, key, spoil):
    one = watch(spoil(key), enters=False)
    client.run(a_graph(steps=4), OURS)
    assert one.ends() in (REFUSED, aiohttp.WSCloseCode.MESSAGE_TOO_BIG)
    assert (one.pictures, one.progress) == ([], [])


def test_i8_a_renewed_key_ends_the_old_ones_connections_at_once(client, watch, key):
    old = watch(key)
    prompt_id = client.queue(until_interrupted(), OURS)
    assert wait_until(lambda: len(old.pictures) > 3)
    new_key = client.post("/sidestream/sharing", {"renew": True})["key"]
    assert new_key != key
    assert old.ends() == REFUSED
    seen = len(old.pictures)
    assert watch(key, enters=False).ends() == REFUSED
    new = watch(new_key)
    assert wait_until(lambda: len(new.pictures) > 3)
    assert len(old.pictures) == seen
    client.interrupt()
    assert client.collect(prompt_id).outcome == "interrupted"


def test_i8_switched_off_in_mid_run_it_shows_nothing_more_and_on_again_by_the_same_key(
    client, watch, key
):
    one = watch(key)
    prompt_id = client.queue(until_interrupted(), OURS)
    assert wait_until(lambda: len(one.pictures) > 3)
    client.post("/sidestream/sharing", {"on": False})
    assert one.ends() == REFUSED
    assert watch(key, enters=False).ends() == REFUSED
    assert client.post("/sidestream/sharing", {"on": True})["key"] == key
    again = watch(key)
    assert wait_until(lambda: len(again.pictures) > 3)
    client.interrupt()
    assert client.collect(prompt_id).outcome == "interrupted"


@pytest.mark.parametrize(
    "extra", [None, {"sidestream": {"user": "somebody"}}, {"sidestream": {"user": ["default"]}}]
)
def test_i8_a_prompt_that_is_not_the_users_is_not_shown(client, watch, key, extra):
    one = watch(key)
    seen = client.run(a_graph(), extra)
    assert len(seen.frames) >= 5
    assert client.run(a_graph(steps=3), OURS).outcome == "success"
    assert wait_until(lambda: len(one.pictures) > 0)
    assert len(one.pictures) <= 3
    assert {told.get("total_steps") for told in one.progress} <= {None, 3}


def test_i8_the_key_stays_where_it_belongs(running, client, watch, key):
    watch(key)
    client.run(a_graph(steps=3), OURS)
    assert watch("wrong", enters=False).ends() == REFUSED
    assert key not in running.log_text
    assert key not in client.get_bytes("/sidestream/report").decode()
    assert key not in json.dumps(client.get("/history"))
    assert key not in json.dumps(client.get("/sidestream/status"))
    [file] = running.base_dir.rglob("sharing.json")
    assert json.loads(file.read_text("utf-8"))["default"]["key"] == key
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    up = "%2e%2e%2f__sidestream%2fsharing.json"
    for path in (up, "sharing.json", "__sidestream%2fsharing.json"):
        with pytest.raises(urllib.error.HTTPError):
            opened(urllib.request.Request(f"{running.url}/userdata/{path}"), timeout=10)


def test_i8_another_sites_page_is_turned_away(running, client, watch, key):
    def ask(path: str, body: dict[str, Any] | None, **headers: str) -> int:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(running.url + path, data, headers)
        try:
            with opened(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    foreign = {"Origin": "https://elsewhere.example"}
    as_json = {"Content-Type": "application/json"}
    with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
        watch(key, enters=False, **foreign)
    assert ask("/sidestream/sharing", None, **foreign) == 403
    assert ask("/sidestream/sharing", {"renew": True}, **foreign, **as_json) == 403
    # What a form may send without being asked first.
    assert ask("/sidestream/sharing", {"on": False}, **{"Content-Type": "text/plain"}) == 415
    told = client.get("/sidestream/sharing")
    assert (told["on"], told["key"]) == (True, key)
    assert watch(key, Origin=running.url).is_open


def test_i8_with_several_users_each_shares_their_own(comfy_host, connect):
    running = comfy_host("--multi-user", fresh=True)

    def ask(path: str, body: Any, user: str = "") -> Any:
        headers = {"Content-Type": "application/json", **({"comfy-user": user} if user else {})}
        data = None if body is None else json.dumps(body).encode()
        with opened(urllib.request.Request(running.url + path, data, headers), timeout=10) as got:
            return json.load(got)

    ann, bob = (ask("/users", {"username": name}) for name in ("ann", "bob"))
    key = ask("/sidestream/sharing", {"on": True}, ann)["key"]
    assert ask("/sidestream/sharing", None, bob) == {
        **ask("/sidestream/sharing", None, ann), "user": bob, "on": False, "key": ""
    }  # fmt: skip
    for stranger in ("", "nobody"):
        with pytest.raises(urllib.error.HTTPError):
            ask("/sidestream/sharing", None, stranger)
    keys = [key, ask("/sidestream/sharing", {"on": True}, bob)["key"]]
    client = connect(running)
    of_ann, of_bob = (Watch(running.url, one) for one in keys)
    shown = client.run(a_graph(steps=4), {"sidestream": {"user": bob}})
    assert wait_until(lambda: of_bob.has_all_of(shown))  # nothing is on its way
    assert of_ann.pictures == []
    seen = len(of_bob.pictures)
    client.run(a_graph(steps=4), {"sidestream": {"user": ann}})
    assert wait_until(lambda: len(of_ann.pictures) > 0)
    ask("/sidestream/sharing", {"on": False}, ann)
    assert of_ann.ends() == REFUSED
    assert (of_bob.is_open, len(of_bob.pictures)) == (True, seen)
    for one in (of_ann, of_bob):
        one.close()


# Who watches slows nobody


def test_i5_a_watcher_that_stops_reading_costs_nobody_anything(running, client, watch, key):
    quick = watch(key)
    process = psutil.Process(running.process.pid)
    client.run(a_graph(steps=50, seconds=0.01), OURS)
    with RawSocket(running.url, watch=key) as slow:
        assert wait_until(lambda: counted(client) == 2)
        before, shown = process.memory_info().rss, len(quick.pictures)
        seen = client.run(a_graph(steps=400, seconds=0.01, format="png"), OURS)
        assert len(seen.frames) == 400
        assert len(quick.pictures) - shown > 100
        assert process.memory_info().rss - before < 50 * 2**20
        owed = len(slow.read_all())
        # What the system keeps for the network, and one in flight, of some hundred.
        assert owed < 20 * len(seen.frames[-1].image)
    assert wait_until(lambda: counted(client) == 1)


def test_i5_there_are_so_many_watchers_and_no_more(running, client, watch, key):
    assert wait_until(lambda: counted(client) == 0)  # those of the tests before are gone
    many = [watch(key) for _ in range(MOST)]
    assert counted(client) == MOST
    assert watch(key, enters=False).ends() == FULL
    seen = client.run(a_graph(), OURS)
    assert len(seen.frames) > 3
    assert all(wait_until(lambda one=one: len(one.pictures) > 3) for one in many)
    many.pop().close()
    assert wait_until(lambda: counted(client) == MOST - 1)
    assert watch(key).is_open


def test_i5_connections_that_say_nothing_are_few_and_end(running, client, watch):
    silent = [watch(None, enters=False) for _ in range(UNKNOWN)]
    with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
        watch(None, enters=False)
    assert [one.ends() for one in silent] == [REFUSED] * UNKNOWN
    assert watch("wrong", enters=False).ends() == REFUSED


def test_a_run_is_shown_though_its_page_is_closed(running, client, connect, watch, key):
    one = watch(key)
    with ComfyClient(running.url) as page:
        prompt_id = page.queue(until_interrupted(), OURS)
        assert wait_until(lambda: len(one.pictures) > 2)
    shown = len(one.pictures)
    assert wait_until(lambda: len(one.pictures) > shown + 5)
    client.interrupt()
    assert wait_until(lambda: bool(client.history(prompt_id)))
    assert wait_until(lambda: one.progress[-1] == {"run": None})


def test_i7_after_an_interrupt_nothing_more_is_shown(client, watch, key):
    one = watch(key)
    prompt_id = client.queue(until_interrupted(), OURS)
    assert wait_until(lambda: len(one.pictures) > 2)
    client.interrupt()
    assert client.collect(prompt_id).outcome == "interrupted"
    assert wait_until(lambda: one.progress[-1] == {"run": None})  # after all that was on its way
    shown = len(one.pictures)
    time.sleep(0.5)
    assert len(one.pictures) == shown
    assert one.progress[-1] == {"run": None}


def test_one_who_comes_late_sees_the_last_picture_and_how_far_the_run_is(client, watch, key):
    seen = client.run(a_graph(steps=3, seconds=0.05), OURS)
    # Its own pictures are held back, however late the watcher comes.
    prompt = demo_graph(PREVIEWS, steps=2000, seconds=0.05)
    insert(prompt, "9", "ProbeSampling", name="held back", decoder_seconds=60.0)
    prompt_id = client.queue(prompt, OURS)
    assert wait_until(lambda: client.get("/queue")["queue_running"] != [])
    one = watch(key)
    assert wait_until(lambda: bool(one.pictures))
    assert np.array_equal(decoded(one.pictures[0]), decoded(seen.frames[-1].image))
    assert wait_until(lambda: one.progress[-1].get("step", 0) >= 1)
    assert one.progress[-1]["total_steps"] == 2000
    client.interrupt()
    client.post("/probe/release", {})
    assert client.collect(prompt_id).outcome == "interrupted"
    client.post("/sidestream/sharing", {"on": False})
    client.post("/sidestream/sharing", {"on": True})
    again = watch(key)
    assert not wait_until(lambda: bool(again.pictures), 0.5)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1", None),
        ("localhost", None),
        ("::1,127.0.0.2", None),
        ("127.0.0.1, 192.168.1.2", "192.168.1.2"),
        ("::1,fd00::2", "[fd00::2]"),
        ("0.0.0.0,::", "10.1.2.3"),
    ],
)
def test_the_address_for_other_devices_is_there_where_comfyui_listens_to_them(
    comfy, monkeypatch, listen, address
):
    from sidestream.preview.host import installation

    monkeypatch.setattr(comfy("comfy.cli_args").args, "listen", listen)
    monkeypatch.setattr(installation, "_own_address", lambda: "10.1.2.3")
    assert installation.network_address() == address
