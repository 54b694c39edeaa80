"""The prompt that runs: whose it is, its node, and how far that has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

import nodes

from ..runs import Owner


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
        _is_output(graph, node_id),
    )


def _is_output(graph: Any, node_id: str) -> bool:
    """Whether it is an output node: what it shows in the end is its result."""
    kind = nodes.NODE_CLASS_MAPPINGS.get(graph.get_node(node_id).get("class_type"))
    return bool(getattr(kind, "OUTPUT_NODE", False))


def extra_data(prompt_id: str | None) -> Mapping[str, Any]:
    """What the client sent with the running prompt `prompt_id`."""
    for item in list(PromptServer.instance.prompt_queue.currently_running.values()):
        if item[1] == prompt_id and isinstance(item[3], Mapping):
            return item[3]
    return {}


def announced_steps(owner: Owner) -> int:
    """How many steps the node's progress says there are; 0 where it has not said so yet."""
    entry = get_progress_state().nodes.get(owner.node_id)
    return int(entry["max"]) if entry is not None and entry["max"] > 1 else 0
