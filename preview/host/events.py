"""What the server tells clients of the prompts that run, overheard on its way to them."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROMPTS = 32  # that are remembered
FAILURES = ("execution_interrupted", "execution_error")


@dataclass(slots=True)
class Heard:
    """What was told of one prompt."""

    failed: bool = False
    shown: set[str] = field(default_factory=set)
    """The nodes that showed results of their own."""


class PromptEvents:
    """Remembers which nodes showed a result, and which prompts failed or were interrupted.

    Only `send_sync` of the one server object is wrapped, and given back by `close`. It is called
    by its name on the class, so that what other packs put there is kept, whenever they do.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._prompts: OrderedDict[str, Heard] = OrderedDict()
        self._lock = threading.Lock()
        original = vars(server).get("send_sync")

        @functools.wraps(server.send_sync)
        def send_sync(event: Any, data: Any, *args: Any, **kwargs: Any) -> Any:
            self._hear(event, data)
            if original is not None:  # another pack's, on this object too
                return original(event, data, *args, **kwargs)
            return type(server).send_sync(server, event, data, *args, **kwargs)

        self._original = original
        self._wrapped = server.send_sync = send_sync

    def close(self) -> None:
        """Listen no more. What another pack wrapped around it stays, and passes through."""
        if vars(self._server).get("send_sync") is not self._wrapped:
            return
        if self._original is None:
            del self._server.send_sync
        else:
            self._server.send_sync = self._original

    def failed(self, prompt_id: str) -> bool:
        """Whether the prompt failed or was interrupted."""
        heard = self._prompts.get(prompt_id)
        return heard is not None and heard.failed

    def has_shown(self, prompt_id: str, node_id: str) -> bool:
        """Whether the node showed a result of its own."""
        heard = self._prompts.get(prompt_id)
        return heard is not None and node_id in heard.shown

    def _hear(self, event: Any, data: Any) -> None:
        if event != "executed" and event not in FAILURES:
            return
        prompt_id = data.get("prompt_id") if isinstance(data, Mapping) else None
        if not isinstance(prompt_id, str):
            return
        with self._lock:
            heard = self._prompts.setdefault(prompt_id, Heard())
            if event in FAILURES:
                heard.failed = True
            elif _shows(data.get("output")):
                heard.shown.update(str(data.get(key)) for key in ("node", "display_node"))
            while len(self._prompts) > PROMPTS:
                self._prompts.popitem(last=False)


def _shows(output: Any) -> bool:
    """Whether there is anything in a node's output: some send lists that are empty."""
    return any(output.values()) if isinstance(output, Mapping) else bool(output)
