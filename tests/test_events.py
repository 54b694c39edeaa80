"""I7 and I10: what the server tells of prompts is overheard, and nobody notices."""

from __future__ import annotations

from typing import Any

import pytest


class Server:
    """As ComfyUI's, as far as it sends."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send_sync(self, event: Any, data: Any, sid: Any = None) -> str:
        self.sent.append((event, data, sid))
        return "as before"


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def events(comfy: Any, server: Server) -> Any:
    from sidestream.preview.host.server import PromptEvents

    return PromptEvents(server)


def test_results_and_failures_are_remembered(server: Server, events: Any) -> None:
    told = {"node": "5:3", "display_node": "5", "prompt_id": "p", "output": {"images": [{}]}}
    assert server.send_sync("executed", told, "c") == "as before"
    server.send_sync("executed", {**told, "node": "9", "display_node": "9", "output": None})
    empty = {**told, "node": "8", "display_node": "8", "output": {"images": []}}
    server.send_sync("executed", empty)
    server.send_sync("execution_interrupted", {"prompt_id": "q"})
    server.send_sync("execution_error", {"prompt_id": "r"}, sid="c")
    for odd in ("status", 4, "executed"):
        server.send_sync(odd, b"bytes")
    shown = [node for node in ("5:3", "5", "9", "8") if events.has_shown("p", node)]
    assert shown == ["5:3", "5"]
    assert [events.failed(prompt) for prompt in "pqr"] == [False, True, True]
    assert server.sent[0] == ("executed", told, "c")
    assert len(server.sent) == 8


def test_a_node_that_blocks_those_behind_it_fails_no_prompt(server: Server, events: Any) -> None:
    """ComfyUI sends the message that comes with it as an error, and goes on."""
    blocked = {"prompt_id": "p", "node_id": "9", "exception_type": "ExecutionBlocked"}
    server.send_sync("execution_error", blocked, "c")
    assert not events.failed("p")
    server.send_sync("execution_error", {**blocked, "exception_type": "ValueError"}, "c")
    assert events.failed("p")


def test_few_prompts_are_remembered(server: Server, events: Any) -> None:
    for number in range(1000):
        server.send_sync("execution_error", {"prompt_id": str(number)})
    assert events.failed("999")
    assert not events.failed("900")


def test_i10_other_packs_changes_are_kept_and_all_is_given_back(
    comfy: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidestream.preview.host.server import PromptEvents

    heard: list[str] = []

    def theirs(self: Server, event: Any, data: Any, sid: Any = None) -> str:
        heard.append(event)
        return "theirs"

    events = PromptEvents(server)
    monkeypatch.setattr(Server, "send_sync", theirs)  # by the class, after us
    assert server.send_sync("executed", {"prompt_id": "p", "node": "1", "output": {"a": 1}}) == (
        "theirs"
    )
    assert heard == ["executed"]
    assert events.has_shown("p", "1")
    events.close()
    assert "send_sync" not in vars(server)


def test_i10_a_wrapper_around_ours_stays_and_goes_through(server: Server, events: Any) -> None:
    ours = server.send_sync
    heard: list[str] = []

    def theirs(event: Any, *rest: Any) -> Any:
        heard.append(event)
        return ours(event, *rest)

    server.send_sync = theirs  # type: ignore[method-assign]
    events.close()
    assert server.send_sync is theirs
    assert server.send_sync("status", {}) == "as before"
    assert heard == ["status"]
