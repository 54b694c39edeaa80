"""Who shares previews on the watch page, and with which key.

Each of ComfyUI's users has a switch and a key; without `--multi-user` there is one user. Sharing is
off by default. The switches and keys are stored in a file that ComfyUI does not serve.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..plain import in_a_line
from ..settings import SettingError

log = logging.getLogger(__name__)

KEY_BYTES = 16
USERS = 1000  # whose switches are stored


class Share(NamedTuple):
    """A user's switch and key."""

    on: bool
    key: str


class Sharing:
    """The switches and keys of all users. Changed on the event loop, read by any thread."""

    def __init__(self, file: Callable[[], Path]) -> None:
        """`file` is called when it is first needed."""
        self._file = file
        self._read: dict[str, Share] | None = None

    def of(self, user: str) -> Share:
        """The user's switch and key. The key is empty until it is first switched on."""
        return self._all.get(user, Share(False, ""))

    def switch(self, user: str, on: bool) -> Share:
        """Start or stop sharing. The key stays the same. Raises SettingError."""
        return self._set(user, Share(on, self.of(user).key or new_key()))

    def renew(self, user: str) -> Share:
        """Make a new key; the old one is no longer valid. Raises SettingError."""
        return self._set(user, Share(self.of(user).on, new_key()))

    def user_of(self, key: str) -> str | None:
        """The user who shares with this key; None for any other key, and while sharing is off.

        Takes the same time however much of the key is right.
        """
        given, found = key.encode(errors="replace"), None
        for user, share in self._all.items():
            is_right = hmac.compare_digest(share.key.encode(), given)
            if is_right and share.on and share.key:
                found = user
        return found

    @property
    def _all(self) -> dict[str, Share]:
        if self._read is None:
            self._read = self._stored()
        return self._read

    def _stored(self) -> dict[str, Share]:
        try:
            entries = json.loads(self._file().read_text("utf-8")).items()
            return {str(user): Share(one["on"] is True, str(one["key"])) for user, one in entries}
        except FileNotFoundError:
            return {}
        except Exception as error:
            log.warning(
                "[SideStream] The sharing settings cannot be read (%s); nobody shares previews.",
                in_a_line(error),
            )
            return {}

    def _set(self, user: str, share: Share) -> Share:
        changed = {**self._all, user: share}
        if len(changed) > USERS:
            raise SettingError(f"at most {USERS} users can share")
        try:
            self._store(changed)
        except OSError as error:
            raise SettingError(f"it could not be stored: {in_a_line(error)}") from error
        self._read = changed
        return share

    def _store(self, shares: dict[str, Share]) -> None:
        """Write the file, readable only by the server's own account."""
        text = json.dumps({user: share._asdict() for user, share in shares.items()}, indent=1)
        file = self._file()
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, new = tempfile.mkstemp(dir=file.parent, prefix=file.name)  # readable by nobody else
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as writing:
                writing.write(text)
            os.replace(new, file)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise


def new_key() -> str:
    """A random key, in characters that are valid in an address."""
    return secrets.token_urlsafe(KEY_BYTES)
