"""What clients asked for: pauses and live changes reach the runs that they are meant for."""

from __future__ import annotations

from sidestream.preview import records
from sidestream.preview.capture.clients import KEPT, Clients
from sidestream.preview.capture.runs import Run, Runs
from sidestream.preview.records import NodeContext
from sidestream.tests.helpers import FakeSource, start_run

NOW = 1000.0


class Queue:
    """ComfyUI's queue, as far as one client's prompts are in it."""

    def __init__(self, *prompts: str) -> None:
        self.prompts = list(prompts)
        self.clients = Clients(lambda client_id: self.prompts if client_id == "c" else ())
        self.book = Runs(lambda run: None, lambda run: None, self.clients)

    def start(self, prompt: str, client_id: str = "c") -> Run:
        context = NodeContext(prompt, "1", client_id=client_id)
        run = start_run(self.book, FakeSource(), context=context)
        run.at(1, 20)
        return run


def test_a_run_of_a_paused_client_starts_paused_and_counts_its_steps():
    queue = Queue("p")
    queue.book.pause("c", True)
    run, other = queue.start("p"), queue.start("q", "another")
    assert run.paused
    assert not run.wants(NOW)
    assert other.wants(NOW)
    run.at(7, 20)
    assert run.step == 7
    queue.book.pause("c", False)
    assert run.wants(NOW)
    assert run.settings.method == "host"


def test_a_pause_stops_the_run_that_is_going_on():
    queue = Queue("p")
    run = queue.start("p")
    assert run.wants(NOW)
    queue.book.pause("c", True)
    assert not run.wants(NOW)
    assert queue.book.state("c")["paused"]
    assert not queue.book.state("another")["paused"]


def test_a_live_change_holds_for_the_prompts_that_were_there_and_for_no_later_one():
    queue = Queue("running", "waiting")
    run = queue.start("running")
    queue.book.change("c", {"quality": 11})
    assert run.settings.quality == 11
    assert queue.start("running").settings.quality == 11  # its second sampler
    queue.prompts = ["waiting", "later"]
    assert queue.start("waiting").settings.quality == 11
    assert queue.start("later").settings.quality == 85
    assert queue.book.state("c")["live"] == {"quality": 11}
    queue.prompts = ["later"]
    assert queue.book.state("c")["live"] == {}


def test_a_change_is_taken_back_by_none():
    queue = Queue("p")
    run = queue.start("p")
    queue.book.change("c", {"quality": 11, "throttle_ms": 50})
    queue.book.change("c", {"quality": None})
    assert (run.settings.quality, run.settings.throttle_ms) == (85, 50)
    assert queue.start("p").settings.quality == 85
    queue.book.change("c", {"throttle_ms": None})
    assert run.settings.throttle_ms == 0  # as its node has it
    assert queue.book.state("c")["live"] == {}


def test_the_state_of_a_client_has_the_runs_that_go_on(monkeypatch):
    queue = Queue("p")
    run = queue.start("p")
    queue.start("q", "another")
    began = run.execution.began_at
    monkeypatch.setattr(records, "now", lambda: began + 2.5)
    [told] = queue.book.state("c")["runs"]
    assert told["running_ms"] == 2500
    assert (told["run"], told["node_id"], told["prompt_id"]) == (run.id, "1", "p")
    assert told["settings"] == run.settings.as_dict()
    run.end()
    assert queue.book.state("c")["runs"] == []


def test_what_is_remembered_is_bounded_and_ends_with_its_reason():
    clients = Clients(lambda client_id: ["p"])
    for number in range(3 * KEPT):
        clients.pause(f"c{number}", True)
        clients.change(f"c{number}", {"quality": 5})
    assert len(clients._known) == KEPT
    assert clients.paused(f"c{3 * KEPT - 1}")
    assert not clients.paused("c0")
    for number in range(3 * KEPT):
        clients.change(f"c{number}", {"quality": None})
        clients.pause(f"c{number}", False)
    assert len(clients._known) == 0


def test_a_client_without_prompts_leaves_nothing_behind_by_a_change():
    clients = Clients(lambda client_id: ())
    clients.change("c", {"quality": 5})
    assert len(clients._known) == 0
    assert clients.state("c") == {"paused": False, "prompts": 0, "live": {}}
