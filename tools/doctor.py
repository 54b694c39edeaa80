"""What is installed and what is wrong: SideStream's own report, from a ComfyUI that runs or a new
one."""

from __future__ import annotations

import urllib.error
from collections.abc import Callable

from . import server
from .environment import SetupError, say
from .local import opened


def doctor(port: int, start: Callable[[], server.RunningHost]) -> int:
    """Print the report of who listens on `port`, or else of what `start` starts."""
    if not server.is_free(port):
        say(ask(f"http://127.0.0.1:{port}"))
        return 0
    with start() as running:
        say(f"No ComfyUI runs on port {port}. A new one, without other packs, says:\n")
        running.wait_until_ready()
        say(ask(running.url))
    return 0


def ask(url: str) -> str:
    """The report of the ComfyUI at `url`. Raises SetupError where it gives none."""
    try:
        with opened(f"{url}/sidestream/report", timeout=30) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        raise SetupError(
            f"{url} answers without SideStream ({error.code}). The start of ComfyUI's log tells"
            " which packs could not be loaded."
        ) from error
    except (OSError, ValueError) as error:
        raise SetupError(f"{url} does not answer as ComfyUI does: {error}") from error
