"""ComfyUI's server, as far as the pack's own routes need it."""

from __future__ import annotations

from typing import Any

from server import PromptServer


def unexpected() -> str | None:
    """What is different about the server; None where nothing is."""
    return "there is no server" if getattr(PromptServer, "instance", None) is None else None


def routes() -> Any:
    """The table to which packs add their routes."""
    return PromptServer.instance.routes


def prompts_of(client_id: str) -> set[str]:
    """The prompts of a client that run or wait in the queue."""
    if unexpected() is not None:
        return set()
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:  # else one could be on its way from the waiting to the running ones
        items = [*queue.currently_running.values(), *queue.queue]
    return {item[1] for item in items if item[3].get("client_id") == client_id}


def register(current: object) -> None:
    """Remember who answers the routes, for as long as the server lives."""
    PromptServer.instance.sidestream = current


def registered() -> Any:
    """What `register` remembered; None before."""
    return getattr(PromptServer.instance, "sidestream", None)
