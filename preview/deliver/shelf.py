"""Sounds that clients were told of, until they fetch them or a newer one takes their place.

A sound is some hundred KB, and most are never listened to: so a client is told that there is one,
and fetches it when somebody wants to hear it. Its address is a secret that only it was told.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict

RUNS = 8
"""Of which the newest sound is kept."""


class Shelf:
    """The newest sound of each of the last few runs."""

    def __init__(self) -> None:
        self._sounds: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, run: str, data: bytes) -> str:
        """Keep the newest sound of a run; returns the secret by which it is fetched."""
        secret = os.urandom(16).hex()
        with self._lock:
            self._sounds[run] = (secret, data)
            self._sounds.move_to_end(run)
            while len(self._sounds) > RUNS:
                self._sounds.popitem(last=False)
        return secret

    def get(self, secret: str) -> bytes | None:
        """The sound with that secret; None where there is none any more."""
        with self._lock:
            return next((data for known, data in self._sounds.values() if known == secret), None)
