"""What is installed and what is wrong: SideStream's report, from a running ComfyUI or a new one."""

from __future__ import annotations

import http.client
import urllib.error
from collections.abc import Callable

from . import server
from .environment import SetupError, say
from .local import opened


def doctor(port: int, start: Callable[[], server.RunningHost]) -> int:
    """Print the report of the ComfyUI on `port`, or else of the one that `start` starts."""
    if not server.is_free(port):
        say(ask(f"http://127.0.0.1:{port}"))
        return 0
    with start() as running:
        say(f"No ComfyUI is running on port {port}. A new one, without other packs, reports:\n")
        running.wait_until_ready()
        say(ask(running.url))
    return 0


def ask(url: str) -> str:
    """The report of the ComfyUI at `url`. Raises SetupError if there is none."""
    try:
        with opened(f"{url}/sidestream/report", timeout=30) as response:
            text = response.read().decode()
    except urllib.error.HTTPError as error:
        raise SetupError(
            f"{url} responds, but without SideStream ({error.code}). The start of ComfyUI's log"
            " says which packs could not be loaded."
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise SetupError(f"{url} does not respond like ComfyUI: {error}") from error
    if not text.startswith("SideStream report"):
        raise SetupError(f"{url} is not a ComfyUI with SideStream.")
    return text
