"""Sounds that wait to be fetched by their clients.

A sound has several hundred KB, and most are never listened to. So a client is only told that there
is one, and fetches it when somebody wants to hear it, at an address that nobody else knows.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

RUNS = 8
"""Runs whose newest sound is kept."""


class Shelf:
    """The newest sound of each of the last few runs."""

    def __init__(self) -> None:
        self._sounds: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, run: str, data: bytes) -> str:
        """Keep the newest sound of a run; returns the secret with which to fetch it."""
        secret = os.urandom(16).hex()
        with self._lock:
            self._sounds[run] = (secret, data)
            self._sounds.move_to_end(run)
            while len(self._sounds) > RUNS:
                self._sounds.popitem(last=False)
        return secret

    def get(self, secret: str) -> bytes | None:
        """The sound with that secret; None if it is no longer kept."""
        with self._lock:
            return next((data for known, data in self._sounds.values() if known == secret), None)
