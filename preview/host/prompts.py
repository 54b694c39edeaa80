"""The prompt that runs: whose it is, its node, and how far that has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

import nodes

from ..runs import Owner
from .installation import author
from .progress import newest_total


def current_owner() -> Owner:
    """Who is sampling on this thread, as ComfyUI's own progress hook sees it."""
    server = PromptServer.instance
    context = get_executing_context()
    prompt_id = context.prompt_id if context else getattr(server, "last_prompt_id", None)
    node_id = context.node_id if context else server.last_node_id
    if node_id is None:
        return Owner(prompt_id, client_id=server.client_id)
    graph = get_progress_state().dynprompt
    return Owner(
        prompt_id,
        node_id,
        graph.get_display_node_id(node_id),
        graph.get_parent_node_id(node_id),
        graph.get_real_node_id(node_id),
        server.client_id,
    )


def extra_data(prompt_id: str | None) -> Mapping[str, Any]:
    """What the client sent with the running prompt `prompt_id`."""
    for item in list(PromptServer.instance.prompt_queue.currently_running.values()):
        if item[1] == prompt_id and isinstance(item[3], Mapping):
            return item[3]
    return {}


def announced_steps(owner: Owner) -> int:
    """How many steps the node's progress says there are; 0 where it has not said so yet.

    What an earlier sampling of the node said last may still stand there.
    """
    newest = newest_total()
    if newest:
        return newest
    entry = get_progress_state().nodes.get(owner.node_id)
    return int(entry["max"]) if entry is not None and entry["max"] > 1 else 0


def preview_switch(pack: str) -> dict[str, Any] | None:
    """The node of the running prompt by which `pack` was told to show previews its own way.

    That is one of its nodes with a switch about previews that is on.
    """
    graph = get_progress_state().dynprompt
    for node_id in graph.all_node_ids():
        node = graph.get_node(node_id)
        kind = nodes.NODE_CLASS_MAPPINGS.get(node.get("class_type"))
        if kind is None or author(kind) != pack:
            continue
        for option, value in node.get("inputs", {}).items():
            if value is True and "preview" in option:
                title = nodes.NODE_DISPLAY_NAME_MAPPINGS.get(node["class_type"])
                return {"node_id": node_id, "title": title or node["class_type"], "option": option}
    return None
