"""The wire: bytes as design.md has them, back-pressure, I7 timely, I8 private."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from sidestream.preview import records
from sidestream.preview.capture.runs import Run, Runs
from sidestream.preview.deliver import encode
from sidestream.preview.deliver.transport import Transport
from sidestream.preview.records import Encoded, Info, NodeContext, Socket
from sidestream.tests.helpers import FakeSource, a_book, start_run, wait_until
from sidestream.tests.pictures import label_of

PICTURE = b"\xff\xd8 a picture \xff\xd9"
OWN_KEYS = {
    *("run", "stage", "seq", "step", "total_steps", "width", "height", "decoder"),
    *("captured_to_sent_ms", "ready_to_sent_ms", "decode_ms", "dropped", "outcomes"),
}


class Sent(NamedTuple):
    client: str
    event: int | str
    data: Any


@dataclass(eq=False)
class Connection:
    """One client's end of the websocket."""

    reads: asyncio.Event = field(default_factory=asyncio.Event)
    raises: bool = False


@dataclass
class FakeWire:
    """The server's side of the websocket, on a real event loop in a thread of its own."""

    clients: dict[str, Socket] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    running: bool = True
    late: bool = False
    started: int = 0

    def __post_init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def connect(self, client: str, metadata: bool = True, reads: bool = True) -> Connection:
        connection = Connection()
        if reads:
            connection.reads.set()
        self.clients[client] = Socket(client, connection, metadata)
        return connection

    def resume(self, connection: Connection) -> None:
        """Let a client that did not read take what is sent to it."""
        self.loop.call_soon_threadsafe(connection.reads.set)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """The event loop has no time for what comes meanwhile."""
        has_time = threading.Event()
        self.loop.call_soon_threadsafe(has_time.wait, 10)
        yield
        has_time.set()

    def to(self, client: str, event: int | str | None = None) -> list[Sent]:
        return [s for s in self.sent if s.client == client and event in (None, s.event)]

    def steps(self, client: str) -> list[int]:
        """The labels of the frames that a client has."""
        return [header(sent.data)[0]["sidestream"]["step"] for sent in self.to(client, 4)]

    def settle(self) -> None:
        """Return when all that could run on the loop has run."""
        for _ in range(3):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), self.loop).result(5)

    def cancel(self) -> None:
        async def cancel_all() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(cancel_all(), self.loop).result(5)
        self.settle()

    def close(self) -> None:
        self.cancel()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()

    # What the transport asks for

    def sockets(self, client_id: str | None) -> list[Socket]:
        return [s for s in list(self.clients.values()) if client_id in (None, s.id)]

    def connected(self, client_id: str | None) -> bool:
        return bool(self.sockets(client_id))

    def is_running(self, prompt_id: str | None, node_id: str | None) -> bool:
        return self.running

    def may_show_late(self, prompt_id: str | None, node_id: str | None) -> bool:
        return self.late

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.started += 1
        asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    async def send_bytes(self, event: int, data: bytes, socket: Socket) -> bool:
        if self.clients.get(socket.id) != socket:
            return False
        await self._take(socket, event, data)
        return True

    async def send_json(self, event: str, data: dict[str, Any], socket: Socket) -> bool:
        await self._take(socket, event, json.loads(json.dumps(data)))
        return True

    async def _take(self, socket: Socket, event: int | str, data: Any) -> None:
        connection = socket.connection
        assert isinstance(connection, Connection)
        assert asyncio.get_running_loop() is self.loop
        await connection.reads.wait()
        if connection.raises:
            raise ConnectionResetError("the client is gone")
        self.sent.append(Sent(socket.id, event, data))


def header(message: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the picture of an event 4."""
    (length,) = struct.unpack_from(">I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def with_comment(label: dict[str, Any]) -> bytes:
    """`PICTURE` with the label in a COM segment."""
    comment = json.dumps({"sidestream": label}, separators=(",", ":")).encode()
    size = (len(comment) + 2).to_bytes(2, "big")
    return PICTURE[:2] + b"\xff\xfe" + size + comment + PICTURE[2:]


def encoded_frame(
    run: Run, step: int = 1, kind: str = "image/jpeg", file: bytes = PICTURE
) -> Encoded:
    """A frame as it comes from the encoder."""
    run.at(step, 20)
    info = Info((512, 384), "latent2rgb", 0.0, decode_ms=1.23456)
    return Encoded(run.capture(records.now()), info, file, kind)


def a_run(
    client: str | None = "c", book: Runs | None = None, node: str = "1", **settings: Any
) -> Run:
    context = NodeContext("p", f"{node}:3", node, node, "3", client)
    return start_run(book or a_book(), FakeSource(), context=context, **settings)


@pytest.fixture
def wire() -> Iterator[FakeWire]:
    made = FakeWire()
    yield made
    made.close()


@pytest.fixture
def transport(wire: FakeWire) -> Transport:
    return Transport(wire, lambda: None)


# The bytes


def test_the_bytes_of_event_4(wire, transport):
    wire.connect("c")
    run = a_run()
    transport.send(encoded_frame(run, step=7))
    assert wait_until(lambda: run.outcomes.sent == 1)
    [sent] = wire.to("c", 4)
    data, picture = header(sent.data)
    own = data.pop("sidestream")
    assert picture == with_comment({"prompt_id": "p", "node_id": "1:3"} | own)
    assert data == {
        "node_id": "1:3",
        "prompt_id": "p",
        "display_node_id": "1",
        "parent_node_id": "1",
        "real_node_id": "3",
        "image_type": "image/jpeg",
    }
    assert own.keys() == OWN_KEYS
    assert 0 <= own.pop("captured_to_sent_ms") < 5000
    assert own.pop("ready_to_sent_ms") >= 0
    assert own == {
        "run": run.id,
        "stage": 1,
        "seq": 1,
        "step": 7,
        "total_steps": 20,
        "width": 512,
        "height": 384,
        "decoder": "latent2rgb",
        "decode_ms": 1.23,
        "dropped": 0,
        "outcomes": {},
    }


@pytest.mark.parametrize(("kind", "number"), [("jpeg", 1), ("png", 2)])
def test_the_bytes_of_event_1(wire, transport, kind, number):
    wire.connect("old", metadata=False)
    run = a_run("old")
    file = encode.encoded(np.zeros((8, 8, 3), np.uint8), (8, 8), kind, 85)
    transport.send(encoded_frame(run, step=3, kind=f"image/{kind}", file=file))
    assert wait_until(lambda: run.outcomes.sent == 1)
    # Nothing but the picture: such a client knows none of SideStream's events.
    [(client, event, data)] = wire.sent
    assert (client, event, data[:4]) == ("old", 1, struct.pack(">I", number))
    assert label_of(data[4:])["step"] == 3


@pytest.mark.parametrize("state", ["start", "end"])
def test_start_and_end_of_a_run_are_told_with_its_counters(wire, transport, state):
    wire.connect("c")
    wire.connect("other")
    wire.connect("old", metadata=False)
    run = a_run()
    encoded_frame(run).label.close(records.SENT)
    encoded_frame(run).label.close(records.LATE)
    transport.announce(run, state)
    wire.settle()
    [sent] = wire.sent
    assert (sent.client, sent.event) == ("c", "sidestream.run")
    assert sent.data == run.context.wire() | {
        "run": run.id,
        "stage": 1,
        "state": state,
        "total_steps": 20,
        "sent": 1,
        "dropped": 1,
        "outcomes": {"sent": 1, "late": 1},
        "settings": run.settings.as_dict(),
        "live": {},
        "paused": False,
        "can_finish": False,
    }


def test_a_sampler_without_previews_is_told_with_the_reason(wire, transport):
    wire.connect("c")
    wire.connect("other")
    context = a_run().context
    transport.announce_none(context, "latents")
    wire.settle()
    expected = context.wire() | {"state": "none", "why": "latents"}
    assert wire.sent == [Sent("c", "sidestream.run", expected)]


def test_clients_that_know_no_webp_get_jpeg(wire, transport):
    wire.connect("new")
    wire.connect("old", metadata=False)
    assert transport.format(a_run("new", format="webp")) == "webp"
    assert transport.format(a_run("old", format="webp")) == "jpeg"
    assert transport.format(a_run(None, format="webp")) == "jpeg"
    assert transport.format(a_run("old", format="png")) == "png"


# I8: to whom


def test_i8_a_frame_goes_to_the_client_that_queued_and_to_nobody_else(wire, transport):
    for client in ("a", "b", "c"):
        wire.connect(client)
    wire.connect("old", metadata=False)
    run = a_run("b")
    transport.send(encoded_frame(run))
    assert wait_until(lambda: run.outcomes.sent == 1)
    wire.settle()
    assert {sent.client for sent in wire.sent} == {"b"}


def test_a_frame_of_nobodys_prompt_goes_to_everybody_in_their_own_form(wire, transport):
    wire.connect("new")
    wire.connect("old", metadata=False)
    run = a_run(client=None)
    transport.send(encoded_frame(run))
    assert wait_until(lambda: run.outcomes.sent == 1)
    assert len(wire.to("new", 4)) == len(wire.to("old", 1)) == 1
    assert run.outcomes == {records.SENT: 1}


def test_i8_a_client_that_is_gone_leaves_its_frames_to_nobody(wire, transport):
    wire.connect("other")
    run = a_run("gone")
    assert not transport.watched(run)
    assert transport.ready(run)  # so that the worker takes it out of the mailbox and drops it
    transport.send(encoded_frame(run))
    wire.settle()
    assert wire.sent == []
    assert (run.outcomes.dropped, run.open_frames) == (1, 0)


# I5: back-pressure


def test_i5_a_client_that_does_not_read_has_one_frame_in_flight(wire, transport):
    connection = wire.connect("c", reads=False)
    run = a_run()
    assert transport.ready(run)
    transport.send(encoded_frame(run, step=1))
    assert not transport.ready(run)
    for step in range(2, 100):
        transport.send(encoded_frame(run, step=step))
    wire.settle()
    assert wire.sent == []
    assert wire.started == 1
    assert run.outcomes == {records.BUSY: 98}
    wire.resume(connection)
    assert wait_until(lambda: run.outcomes.sent == 1)
    assert transport.ready(run)
    transport.send(encoded_frame(run, step=100))
    assert wait_until(lambda: run.outcomes.sent == 2)
    assert wire.steps("c") == [1, 100]


def test_i5_a_client_that_does_not_read_costs_the_others_nothing(wire, transport):
    wire.connect("stuck", reads=False)
    wire.connect("quick")
    stuck, quick = a_run("stuck"), a_run("quick")
    transport.send(encoded_frame(stuck))
    for step in range(1, 21):
        assert transport.ready(quick)
        transport.send(encoded_frame(quick, step=step))
        assert wait_until(lambda step=step: quick.outcomes.sent == step)
    assert wire.steps("quick") == list(range(1, 21))
    assert stuck.outcomes.sent == 0


def test_i5_of_everybodys_frames_a_stuck_client_misses_some_and_the_others_none(wire, transport):
    """The last one it gets, too, once it reads (I14)."""
    connection = wire.connect("stuck", reads=False)
    wire.connect("quick")
    run = a_run(client=None)
    for step in range(1, 11):
        assert transport.ready(run)
        transport.send(encoded_frame(run, step=step))
        assert wait_until(lambda step=step: len(wire.steps("quick")) == step)
        wire.settle()
    wire.resume(connection)
    assert wait_until(lambda: run.outcomes.sent == 10)
    assert wire.steps("quick") == list(range(1, 11))
    assert wait_until(lambda: len(wire.steps("stuck")) == 2)
    assert wire.steps("stuck") == [1, 10]
    assert run.open_frames == 0
    transport.send(encoded_frame(run, step=11))
    assert wait_until(lambda: wire.steps("stuck")[2:] == [11])  # it is free again


def test_i14_a_client_that_reads_late_is_owed_the_newest_of_each_node_and_no_older_ones(
    wire, transport
):
    wire.late = True
    connection = wire.connect("late", reads=False)
    wire.connect("quick")
    book = a_book()
    runs = [a_run(None, book, str(number)) for number in range(7)]
    for number, run in enumerate(runs):
        for step in (1, 2):
            transport.send(encoded_frame(run, step=10 * number + step))
            wire.settle()
    transport.send(encoded_frame(a_run(None, book, "6"), step=71))
    wire.settle()
    assert wire.steps("late") == []
    wire.resume(connection)
    assert wait_until(lambda: len(wire.steps("late")) == 5)
    wire.settle()
    # The first was under way; of what came later, four are kept.
    assert wire.steps("late") == [1, 32, 42, 52, 71]


def test_i7_a_frame_is_open_until_its_free_clients_have_it_whoever_was_owed_it(wire, transport):
    first, second = (wire.connect(name, reads=False) for name in ("first", "second"))
    run = a_run(client=None)
    transport.send(encoded_frame(run, step=1))
    wire.resume(second)
    assert wait_until(lambda: wire.steps("second") == [1])
    wire.settle()
    second.reads.clear()
    transport.send(encoded_frame(run, step=2))
    wire.settle()
    wire.resume(first)
    assert wait_until(lambda: wire.steps("first") == [1, 2])
    wire.settle()
    assert run.open_frames == 1
    wire.resume(second)
    assert wait_until(lambda: run.outcomes == {records.SENT: 2})


def test_nothing_is_owed_when_the_server_ends(wire, transport):
    wire.connect("stuck", reads=False)
    wire.connect("quick")
    run = a_run(client=None)
    for step in (1, 2):
        transport.send(encoded_frame(run, step=step))
        wire.settle()
    started = wire.started
    wire.cancel()
    assert wire.started == started


def test_i14_a_client_is_owed_what_only_watchers_took(wire):
    transport = Transport(wire, lambda: None, FakeAudience())
    connection = wire.connect("c", reads=False)
    run = a_run()
    for step in (1, 2, 3):
        transport.send(encoded_frame(run, step=step))
        wire.settle()
    assert run.outcomes == {records.SENT: 2}
    wire.resume(connection)
    assert wait_until(lambda: wire.steps("c") == [1, 3])
    assert wait_until(lambda: run.open_frames == 0)


def test_i5_what_waits_for_a_stuck_client_does_not_grow_with_runs(wire, transport):
    wire.connect("c", reads=False)
    transport.send(encoded_frame(a_run()))
    for _ in range(200):
        run = a_run()
        transport.announce(run, "start")
        transport.announce(run, "end")
    wire.settle()
    assert wire.started < 20


def test_the_worker_is_told_when_a_socket_is_free(wire):
    told = []
    transport = Transport(wire, lambda: told.append(transport.ready(run)))
    connection = wire.connect("c", reads=False)
    run = a_run()
    transport.send(encoded_frame(run))
    wire.settle()
    assert told == []
    wire.resume(connection)
    assert wait_until(lambda: told == [True])


# I6: what fails


def test_i6_a_connection_that_raises_costs_its_frame_only(wire, transport, caplog):
    connection = wire.connect("c")
    connection.raises = True
    run = a_run()
    transport.send(encoded_frame(run, step=1))
    assert wait_until(lambda: run.open_frames == 0 and run.outcomes == {records.LATE: 1})
    assert len(caplog.records) == 1
    connection.raises = False
    assert transport.ready(run)
    transport.send(encoded_frame(run, step=2))
    assert wait_until(lambda: wire.steps("c") == [2])


def test_i6_a_connection_that_raises_may_be_told_of_runs_again(wire, transport, caplog):
    connection = wire.connect("c")
    connection.raises = True
    for _ in range(20):
        transport.announce(a_run(), "start")
        wire.settle()
    assert "could not be sent" in caplog.text
    connection.raises = False
    transport.announce(a_run(), "start")
    assert wait_until(lambda: [s.data["state"] for s in wire.to("c")] == ["start"])


def test_i6_a_connection_that_raises_keeps_no_frame_from_the_others(wire, transport):
    wire.connect("broken").raises = True
    wire.connect("fine")
    run = a_run(client=None)
    transport.send(encoded_frame(run))
    assert wait_until(lambda: run.open_frames == 0 and run.outcomes == {records.SENT: 1})
    assert wire.steps("fine") == [1]


def test_a_client_that_connects_anew_is_not_held_up_by_its_old_connection(wire, transport):
    wire.connect("c", reads=False)
    run = a_run()
    transport.send(encoded_frame(run, step=1))
    assert not transport.ready(run)
    wire.connect("c")
    assert transport.ready(run)
    transport.send(encoded_frame(run, step=2))
    assert wait_until(lambda: wire.steps("c") == [2])


# I7: when


def test_i7_a_run_that_ended_well_may_still_show_its_last_frames(wire, transport, monkeypatch):
    wire.connect("c")
    wire.running, wire.late = False, True
    run = a_run()
    run.end()
    assert transport.live(run)
    transport.send(encoded_frame(run, step=20))
    assert wait_until(lambda: wire.steps("c") == [20])
    monkeypatch.setattr(records, "now", lambda: time.monotonic() + 31)
    assert not transport.live(run)


def test_i7_a_node_that_has_shown_its_result_may_still_count_as_running(wire, transport):
    wire.connect("c")
    wire.running, wire.late = True, False
    run = a_run()
    assert transport.live(run)  # it samples on
    run.end()
    assert not transport.live(run)
    wire.late = True  # it has shown none yet, however long it goes on
    assert transport.live(run)


def test_i7_nothing_is_shown_after_something_newer_on_its_node(wire, transport):
    wire.connect("c")
    wire.late = True
    book = a_book()
    old, new = (start_run(book, FakeSource()) for _ in range(2))
    transport.send(encoded_frame(new, step=1))
    assert wait_until(lambda: new.outcomes.sent == 1)
    assert not transport.live(old)
    transport.send(encoded_frame(old, step=20))
    assert wait_until(lambda: old.outcomes == {records.LATE: 1})
    other_node = start_run(book, FakeSource(), context=NodeContext("p", "2", client_id="c"))
    transport.send(encoded_frame(other_node, step=3))
    assert wait_until(lambda: other_node.outcomes.sent == 1)


def test_i7_nodes_made_at_run_time_that_are_shown_on_one_node_are_one_place(wire, transport):
    """As those of a loop: an earlier turn's late frame does not cover a later turn's."""
    wire.connect("c")
    wire.late = True
    book = a_book()
    old, new = (
        start_run(book, FakeSource(), context=NodeContext("p", node, "7", "7", "7", "c"))
        for node in ("7.0.0.3", "7.1.0.3")
    )
    transport.send(encoded_frame(new, step=1))
    assert wait_until(lambda: new.outcomes.sent == 1)
    transport.send(encoded_frame(old, step=20))
    assert wait_until(lambda: old.outcomes == {records.LATE: 1})


@pytest.mark.parametrize("node", ["7", "7.0.0.3"])
def test_i7_no_late_frame_covers_a_result_on_the_node_that_shows_it(wire, transport, node):
    wire.connect("c")
    context = NodeContext("p", "7.0.0.3", "7", "7", "7", "c")
    run = start_run(a_book(), FakeSource(), context=context)
    run.end()
    wire.may_show_late = lambda prompt_id, node_id: node_id != node
    transport.send(encoded_frame(run, step=20))
    assert wait_until(lambda: run.outcomes == {records.LATE: 1})


def test_i7_of_two_devices_the_slower_ones_older_frame_is_not_shown(wire, transport):
    wire.connect("c")
    run = a_run()
    slow, quick = encoded_frame(run, step=1), encoded_frame(run, step=2)
    transport.send(quick)
    assert wait_until(lambda: run.outcomes.sent == 1)
    transport.send(slow)
    assert wait_until(lambda: run.outcomes == {records.SENT: 1, records.LATE: 1})
    assert wire.steps("c") == [2]


def test_a_frame_for_a_socket_that_was_replaced_does_not_count_as_sent(wire, transport):
    wire.connect("c")
    run = a_run()
    with wire.busy():
        transport.send(encoded_frame(run))
        wire.connect("c")
    assert wait_until(lambda: run.outcomes == {records.LATE: 1})


def test_i7_nothing_is_sent_when_the_node_is_no_longer_at_work(wire, transport):
    wire.connect("c")
    run = a_run()
    wire.running = False
    assert not transport.live(run)
    transport.send(encoded_frame(run))
    assert wait_until(lambda: run.outcomes == {records.LATE: 1})
    assert wire.sent == []
    assert transport.ready(run)


def test_i7_nothing_is_sent_of_a_run_that_was_interrupted(wire, transport):
    wire.connect("c")
    run = a_run()
    run.abort()
    assert not transport.live(run)
    transport.send(encoded_frame(run))
    assert wait_until(lambda: run.outcomes == {records.LATE: 1})
    assert wire.sent == []


def test_i7_an_interrupt_while_the_event_loop_is_busy_keeps_the_picture_back(wire, transport):
    wire.connect("c")
    run = a_run()
    with wire.busy():
        transport.send(encoded_frame(run))
        run.abort()
    assert wait_until(lambda: run.open_frames == 0 and run.outcomes == {records.LATE: 1})
    assert wire.sent == []


# Others who may watch


@dataclass
class FakeAudience:
    """Somebody who watches, or who has not taken the last frame yet, or nobody."""

    there: bool = True
    free: bool = True
    shown: list[Encoded] = field(default_factory=list)

    def watched(self, run: Run) -> bool:
        return self.there

    def ready(self, run: Run) -> bool:
        return self.there and self.free

    def show(self, frame: Encoded) -> bool:
        self.shown.append(frame)
        return self.there


@pytest.mark.parametrize(
    ("client", "audience", "watched", "ready", "outcome"),
    [
        # Whose page is closed, or does not read: who else watches sees it.
        (None, FakeAudience(), True, True, records.SENT),
        (None, FakeAudience(free=False), True, False, records.SENT),
        (None, FakeAudience(there=False), False, True, records.BUSY),
        ("stuck", FakeAudience(), True, True, records.SENT),
        ("stuck", FakeAudience(free=False), True, False, records.SENT),
        ("stuck", FakeAudience(there=False), True, False, records.BUSY),
        # Who reads gets it whatever the others do.
        ("reads", FakeAudience(free=False), True, True, records.SENT),
        ("reads", FakeAudience(there=False), True, True, records.SENT),
    ],
)
def test_a_frame_is_worth_making_for_the_client_or_for_others_who_watch(
    wire, client, audience, watched, ready, outcome
):
    transport = Transport(wire, lambda: None, audience)
    if client:
        wire.connect("c", reads=client == "reads")
    if client == "stuck":
        transport.send(encoded_frame(a_run()))
    run = a_run()
    assert (transport.watched(run), transport.ready(run)) == (watched, ready)
    frame = encoded_frame(run)
    transport.send(frame)
    assert wait_until(lambda: run.outcomes == {outcome: 1})
    assert audience.shown[-1] is frame
