"""What each client requested while its prompts run or wait: a pause, or changed settings.

A client need not be connected: it may be away for a moment while its prompts continue.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = 100
"""The number of clients to remember. If there are more, the least recently active are dropped."""


@dataclass(slots=True)
class Client:
    """What is remembered of one client."""

    paused: bool = False
    live: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Changed settings, by the id of the prompt to which they apply."""

    @property
    def has_nothing(self) -> bool:
        return not self.paused and not self.live


class Clients:
    """Remembers a live change for the prompts that it applies to, and a pause until it ends."""

    def __init__(self, prompts_of: Callable[[str], Collection[str]] = lambda client_id: ()) -> None:
        self._prompts_of = prompts_of
        self._known: OrderedDict[str, Client] = OrderedDict()
        self._lock = threading.Lock()

    def pause(self, client_id: str, paused: bool) -> None:
        """Stop or resume the previews of a client."""
        with self._lock:
            self._of(client_id).paused = paused
            self._forget()

    def paused(self, client_id: str | None) -> bool:
        """Whether a client's previews are stopped."""
        with self._lock:
            client = self._known.get(client_id or "")
            return client is not None and client.paused

    def change(self, client_id: str, changes: Mapping[str, Any]) -> None:
        """Remember changed settings for the client's prompts that currently run or wait.

        None as a value undoes a change.
        """
        prompts = self._prompts_of(client_id)
        with self._lock:
            client = self._of(client_id)
            client.live = {prompt: client.live.get(prompt, {}) for prompt in prompts}
            for live in client.live.values():
                overlay(live, changes)
            client.live = {prompt: live for prompt, live in client.live.items() if live}
            self._forget()

    def live(self, client_id: str | None, prompt_id: str | None) -> dict[str, Any]:
        """The changes that apply to a prompt."""
        with self._lock:
            client = self._known.get(client_id or "")
            return {} if client is None else dict(client.live.get(prompt_id or "", {}))

    def state(self, client_id: str) -> dict[str, Any]:
        """For the client: whether it is paused, its number of prompts, and its changes to them."""
        prompts = self._prompts_of(client_id)
        with self._lock:
            client = self._known.get(client_id, Client())
            client.live = {name: live for name, live in client.live.items() if name in prompts}
            live: dict[str, Any] = {}
            for changes in client.live.values():
                live |= changes
            return {"paused": client.paused, "prompts": len(prompts), "live": live}

    def _of(self, client_id: str) -> Client:
        client = self._known.setdefault(client_id, Client())
        self._known.move_to_end(client_id)
        return client

    def _forget(self) -> None:
        for client_id in [name for name, client in self._known.items() if client.has_nothing]:
            del self._known[client_id]
        while len(self._known) > KEPT:
            self._known.popitem(last=False)


def overlay(settings: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Apply `changes` to `settings`; None removes an entry."""
    for name, value in changes.items():
        if value is None:
            settings.pop(name, None)
        else:
            settings[name] = value
