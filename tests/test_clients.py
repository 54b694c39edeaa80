"""Clients that do not behave, in a real ComfyUI: I5 bounded, I7 timely, I8 private.

SIDESTREAM_TEST_FRAMES=10000 makes the long form: that many frames. With `-s` it says what it
measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from sidestream.tests.graphs import demo_graph, settled
from sidestream.tests.helpers import wait_until
from sidestream.tests.sockets import RawSocket
from sidestream.tools.comfy_client import ComfyClient, Frame
from sidestream.tools.local import opened

if TYPE_CHECKING:
    from sidestream.tools.server import RunningHost

FRAMES = int(os.environ.get("SIDESTREAM_TEST_FRAMES", "1000"))
PREVIEWS = {"method": "latent2rgb", "throttle_ms": 0, "budget": 0}
STEP = 0.01  # seconds, of prompts whose frames are counted


@pytest.fixture(scope="module")
def running(comfy_host: Any) -> RunningHost:
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Any) -> ComfyClient:
    return connect(running)


def queue_for(client_id: str | None, url: str, prompt: dict[str, Any]) -> str:
    """Queue a prompt as any client, or as none."""
    body = {"prompt": prompt} | ({} if client_id is None else {"client_id": client_id})
    request = urllib.request.Request(f"{url}/prompt", json.dumps(body).encode())
    with opened(request, timeout=30) as answer:
        return str(json.load(answer)["prompt_id"])


def ended_well(client: ComfyClient, prompt_id: str, seconds: float = 180) -> bool:
    """Whether a prompt has succeeded, after waiting for its end.

    Asked over HTTP: ComfyUI's own events wait for the slowest of all clients.
    """
    assert wait_until(lambda: bool(client.history(prompt_id)), seconds, every=0.05)
    return bool(client.history(prompt_id)["status"]["completed"])


def counters(client: ComfyClient) -> dict[str, Any]:
    return dict(client.get("/sidestream/status")["counters"])


def frames_until(client: ComfyClient, enough: Callable[[list[Frame]], bool]) -> list[Frame]:
    """What a client is sent, until it is enough."""
    frames: list[Frame] = []

    def come() -> bool:
        frames.extend(client.listen(0.1).frames)
        return enough(frames)

    assert wait_until(come)
    return frames


@contextlib.contextmanager
def stalled(
    client: ComfyClient, graph: Any, name: str, deflate: bool = False, seconds: float = 0.0
) -> Iterator[None]:
    """Within it a client has queued previews and takes none from the network: all is backed up."""
    with RawSocket(client.url, name, deflate=deflate) as socket:
        prompt_id = queue_for(name, client.url, graph(steps=400, seconds=seconds))
        assert ended_well(client, prompt_id)
        yield
        socket.reset()


# A client that stops reading


@dataclass(frozen=True)
class Host:
    """A ComfyUI with the pack, and what a neutral pack beside it says."""

    running: RunningHost
    client: ComfyClient
    previews: dict[str, Any]
    """Of SideStream's node."""

    def graph(self, **changes: Any) -> dict[str, Any]:
        return demo_graph(self.previews, **changes)

    def megabytes(self) -> float:
        """Memory of the server's process."""
        return float(psutil.Process(self.running.process.pid).memory_info().rss / 2**20)

    def sample(self, frames: int) -> tuple[list[float], float]:
        """Sample so many steps; returns how late each frame was, and the most memory meanwhile.

        In seconds from the sampler's callback to the client, sorted. The prompt is nobody's, so its
        previews go to all clients.
        """
        prompt_id = queue_for(None, self.running.url, self.graph(steps=frames, seconds=STEP))
        most = 0.0

        def of_prompt(sent: list[Frame]) -> list[Frame]:
            return [frame for frame in sent if frame.metadata["prompt_id"] == prompt_id]

        def over() -> bool:
            nonlocal most
            most = max(most, self.megabytes())
            return bool(self.client.history(prompt_id))

        assert wait_until(over, 120 + frames / 10, every=0.2)
        arrived = frames_until(
            self.client,
            lambda sent: any(frame.sidestream["step"] == frames for frame in of_prompt(sent)),
        )
        moments = self.client.get("/clock")  # of this sampling, as none has begun since
        seen = of_prompt(arrived)
        return sorted(f.received_at - moments[f.sidestream["step"] - 1] for f in seen), most


def p95(values: list[float]) -> float:
    return values[int(len(values) * 0.95)] if values else float("inf")


@pytest.mark.timeout(1800)
def test_i5_a_client_that_stops_reading_costs_others_no_frame_no_time_and_the_server_no_memory(
    running, client
):
    host = Host(running, client, PREVIEWS)
    host.sample(100)
    ratios: list[float] = []
    shares: list[float] = []
    while len(ratios) < 3 or ((median(ratios) > 1.5 or median(shares) < 0.5) and len(ratios) < 9):
        # By turns, so that what is close in time is compared: the machine has other work.
        without, _ = host.sample(100)
        with stalled(client, host.graph, f"stalled-{len(ratios)}"):
            before = host.megabytes()
            frames = 100 if ratios else FRAMES
            late, most = host.sample(frames)
        shares.append(len(late) / frames / (len(without) / 100))
        assert most - before < 50
        alone, beside = p95(without), p95(late)
        assert alone > 0
        ratios.append(beside / alone)
        print(
            f"\nSideStream, a client stalled: {len(late)} of {frames} frames at another,"
            f" server's memory {most - before:+.1f} MB; p95 from callback to client {alone:.4f} s"
            f" without, {beside:.4f} s beside it"
        )
    assert median(ratios) <= 1.5
    assert median(shares) > 0.5
    assert wait_until(lambda: counters(client)["active_runs"] == 0)


@pytest.mark.parametrize("deflate", [False, True])
def test_i7_a_client_that_stops_reading_is_owed_few_frames(client, deflate):
    # What lies between server and client when it reads again is how old its pictures will be.
    before = counters(client)["frames"].get("sent", 0)
    graph = partial(demo_graph, PREVIEWS)
    # Slowly: a worker that is slower than the steps would have few frames to send anyway.
    with stalled(client, graph, f"stalled-owed-{deflate}", deflate, seconds=0.02):
        assert counters(client)["frames"]["sent"] - before < 150


# Connections that come and go


def test_i6_a_connection_that_breaks_in_mid_frame_costs_nobody_else_anything(running, client):
    since = len(running.log_text)
    socket = RawSocket(running.url, "breaks")
    prompt_id = queue_for("breaks", running.url, demo_graph(PREVIEWS, steps=60, seconds=STEP))
    while b"JFIF" not in socket.read(512):
        pass
    socket.reset()
    assert ended_well(client, prompt_id)
    seen = client.run(settled(demo_graph(PREVIEWS, steps=20, seconds=0.03)))
    assert len(seen.frames) == 20
    assert wait_until(lambda: counters(client)["active_runs"] == 0)
    assert "Traceback" not in running.log_text[since:]


def test_a_client_that_reconnects_with_its_id_sees_the_rest_of_its_run(running, client, connect):
    with ComfyClient(running.url, client_id="again") as first:
        prompt_id = first.queue(demo_graph(PREVIEWS, steps=2000, seconds=0.03))
        frames_until(first, lambda frames: len(frames) > 0)
    again, seen = connect(running, client_id="again"), []
    for message in again.messages(prompt_id):
        # A frame sent before the client said what it supports has no metadata.
        if isinstance(message, Frame) and message.sidestream:
            seen.append(message.sidestream["step"])
            if len(seen) == 10:
                finish = {"client_id": "again", "run": message.sidestream["run"]}
                again.post("/sidestream/finish", finish)
    assert len(seen) >= 10
    assert seen == sorted(seen)
    assert ended_well(client, prompt_id)


def test_a_client_that_reconnects_is_not_held_up_by_its_old_connection(running, client, connect):
    with stalled(client, lambda **k: demo_graph(PREVIEWS, **k), "twice"):
        again = connect(running, client_id="twice")
        prompt_id = again.queue(settled(demo_graph(PREVIEWS, steps=20, seconds=0.03)))
        assert ended_well(client, prompt_id)
        frames = frames_until(again, lambda seen: bool(seen) and seen[-1].sidestream["step"] == 20)
        labels = [frame.sidestream["step"] for frame in frames]
        assert labels[-20:] == list(range(1, 21))  # maybe behind the last one of its first run
    # ComfyUI forgets the new connection when the old one ends; nothing else may come of it.
    assert ended_well(client, again.queue(demo_graph(PREVIEWS, steps=5, seconds=STEP)))
    assert wait_until(lambda: counters(client)["active_runs"] == 0)


def test_a_prompt_that_nobody_watches_makes_no_frame(running):
    def ask(path: str) -> Any:
        with opened(running.url + path, timeout=30) as answer:
            return json.load(answer)

    def frames_of(client_id: str | None) -> int:
        before = ask("/sidestream/status")["counters"]["frames"]
        prompt_id = queue_for(client_id, running.url, demo_graph(PREVIEWS, steps=10, seconds=STEP))
        assert wait_until(lambda: prompt_id in ask(f"/history/{prompt_id}"), 30)
        assert ask(f"/history/{prompt_id}")[prompt_id]["status"]["completed"]
        assert wait_until(lambda: ask("/sidestream/status")["counters"]["active_runs"] == 0)
        after = ask("/sidestream/status")["counters"]["frames"]
        return sum(after.values()) - sum(before.values())

    # The server may still be taking leave of the clients of the tests before.
    assert wait_until(lambda: frames_of(None) == 0, 20)
    assert frames_of("somebody who is not there") == 0


# Many clients, and strange ones


def test_i8_of_200_clients_the_one_that_queued_gets_its_frames_and_nobody_else_any(running, client):
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(RawSocket(running.url, f"idle-{i}")) for i in range(200)]
        seen = client.run(settled(demo_graph(PREVIEWS, steps=20, seconds=0.03)))
        assert len(seen.frames) == 20
        for other in others:
            got = other.read_all()
            assert b'"status"' in got
            assert b"sidestream" not in got
            assert b"JFIF" not in got


def test_i5_of_everybodys_frames_200_clients_that_do_not_read_keep_none_from_one_that_does(
    running, client
):
    host = Host(running, client, PREVIEWS)
    host.sample(20)
    with contextlib.ExitStack() as stack:
        for i in range(200):
            stack.enter_context(RawSocket(running.url, f"stuck-{i}"))
        before = host.megabytes()
        prompt_id = queue_for(None, running.url, host.graph(steps=100, seconds=0.1))
        assert ended_well(client, prompt_id)
        seen = frames_until(
            client, lambda frames: bool(frames) and frames[-1].sidestream["step"] == 100
        )
        print(
            f"\n200 stuck clients: {len(seen)} of 100 frames at another, server's memory"
            f" {host.megabytes() - before:+.1f} MB"
        )
        assert len(seen) > 30
        assert host.megabytes() - before < 100
    assert wait_until(lambda: counters(client)["active_runs"] == 0)


@pytest.mark.parametrize("features", [[1], "all", None, {"supports_preview_metadata": "yes"}])
def test_i6_a_client_that_announces_nonsense_breaks_nobodys_run(running, client, features):
    with RawSocket(running.url, "odd", features={"type": "feature_flags", "data": features}):
        # Not settled: the odd client reads nothing, and a frame is open until it has taken it.
        queue_for(None, running.url, demo_graph(PREVIEWS, steps=2000, seconds=0.05))
        frames_until(client, lambda frames: len(frames) >= 10)
        client.interrupt()
        prompt = demo_graph(PREVIEWS, steps=4, seconds=0.05)
        assert ended_well(client, queue_for(None, running.url, prompt))
