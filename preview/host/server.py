"""ComfyUI's server, as far as the pack's own routes need it."""

from __future__ import annotations

from typing import Any


def _instance() -> Any:
    """The server; None where there is none: in tools that import packs, for one."""
    try:
        from server import PromptServer
    except ImportError:
        return None
    return getattr(PromptServer, "instance", None)


def unexpected() -> str | None:
    """What is different about the server; None where nothing is."""
    return "there is no server" if _instance() is None else None


def routes() -> Any:
    """The table to which packs add their routes; None without a server."""
    return getattr(_instance(), "routes", None)


def prompts_of(client_id: str) -> set[str]:
    """The prompts of a client that run or wait in the queue."""
    server = _instance()
    if server is None:
        return set()
    queue = server.prompt_queue
    with queue.mutex:  # else one could be on its way from the waiting to the running ones
        items = [*queue.currently_running.values(), *queue.queue]
    return {item[1] for item in items if item[3].get("client_id") == client_id}


def register(current: object) -> None:
    """Remember who answers the routes, for as long as the server lives."""
    _instance().sidestream = current


def registered() -> Any:
    """What `register` remembered; None before."""
    return getattr(_instance(), "sidestream", None)
