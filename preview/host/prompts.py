"""The prompt that runs: whose it is, its node, and how far that has come."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

import comfy.utils
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

import nodes

from ..records import NodeContext
from ..settings import KEY, USER
from .installation import author


def current_context() -> NodeContext:
    """Who is sampling on this thread, as ComfyUI's own progress hook sees it."""
    server = PromptServer.instance
    context = get_executing_context()
    prompt_id = context.prompt_id if context else getattr(server, "last_prompt_id", None)
    node_id = context.node_id if context else server.last_node_id
    user = _user(prompt_id)
    if node_id is None:
        return NodeContext(prompt_id, client_id=server.client_id, user=user)
    graph = get_progress_state().dynprompt
    return NodeContext(
        prompt_id,
        node_id,
        graph.get_display_node_id(node_id),
        graph.get_parent_node_id(node_id),
        graph.get_real_node_id(node_id),
        server.client_id,
        _seed(graph, node_id),
        user,
    )


def list_index() -> int:
    """Which call of the node at work this is, where it is called for each item of a list."""
    context = get_executing_context()
    return (context.list_index or 0) if context is not None else 0


def _user(prompt_id: str | None) -> str | None:
    """Whose prompt it is, where its client said so."""
    sent = extra_data(prompt_id).get(KEY)
    user = sent.get(USER) if isinstance(sent, Mapping) else None
    return user if isinstance(user, str) else None


SEEDS = ("seed", "noise_seed", "noise", "value")
"""Inputs of samplers, and of what they take their noise from."""


def _seed(graph: Any, node_id: str, depth: int = 4) -> int | None:
    """The seed that a node has, or what it takes its noise from."""
    inputs = graph.get_node(node_id)["inputs"] if depth and graph.has_node(node_id) else {}
    for name in SEEDS:
        value = inputs.get(name)
        if isinstance(value, list) and value and isinstance(value[0], str):
            value = _seed(graph, value[0], depth - 1)
        if type(value) is int:
            return value
    return None


def extra_data(prompt_id: str | None) -> Mapping[str, Any]:
    """What the client sent with the running prompt `prompt_id`."""
    for item in list(PromptServer.instance.prompt_queue.currently_running.values()):
        if item[1] == prompt_id and isinstance(item[3], Mapping):
            return item[3]
    return {}


def announced_steps(context: NodeContext) -> int:
    """How many steps the node's progress says there are; 0 where it has not said so yet.

    What an earlier sampling of the node said last may still stand there.
    """
    newest = newest_total()
    if newest:
        return newest
    entry = get_progress_state().nodes.get(context.node_id)
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


_here = threading.local()
"""What is known on each thread of the node that it executes."""


def expect_progress() -> None:
    """A picture of this step is on its way: its progress is to be told, on this thread, now."""
    _here.shown = True


def newest_total() -> int:
    """Of how many steps the newest progress bar of the node at work here tells; 0 without one."""
    total = getattr(_here, "total", 0) if getattr(_here, "node", None) == _node() else 0
    return total if total > 1 else 0


def _node() -> Any:
    context = get_executing_context()
    return None if context is None else (context.prompt_id, context.node_id)


def _note_total(bar: Any) -> None:
    try:
        _here.node, _here.total = _node(), int(bar.total)
    except Exception:  # whatever a bar counts with
        _here.total = 0


def install_progress() -> Any:
    """Let `ProgressBar` tell such steps. Returns what `uninstall_progress` needs."""
    kind = comfy.utils.ProgressBar
    make, update = kind.__init__, kind.update_absolute

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _note_total(self)

    @functools.wraps(update)
    def update_absolute(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_here, "shown", False):
            _here.shown = False
            if hasattr(self, "_last_sent_value"):
                self._last_sent_value = -1  # as if it were the first, which always passes
        try:
            return update(self, *args, **kwargs)
        finally:
            _note_total(self)

    kind.__init__, kind.update_absolute = __init__, update_absolute
    return {"__init__": (make, __init__), "update_absolute": (update, update_absolute)}


def uninstall_progress(installed: Any) -> None:
    """Give ComfyUI's functions back, unless another pack has wrapped ours."""
    for name, (original, ours) in installed.items():
        if getattr(comfy.utils.ProgressBar, name) is ours:
            setattr(comfy.utils.ProgressBar, name, original)
