"""The running prompt: its user, its node, that node's progress, and the graph behind it.

A `graph` is ComfyUI's `DynamicPrompt`, or anything with its methods.
"""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import comfy.utils
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

import nodes

from ..records import NodeContext
from ..settings import KEY, USER
from .installation import author
from .unmade import passed_on


def current_context() -> NodeContext:
    """The node that is sampling on this thread, as ComfyUI's own progress hook determines it."""
    server = PromptServer.instance
    context = get_executing_context()
    prompt_id = context.prompt_id if context else getattr(server, "last_prompt_id", None)
    node_id = context.node_id if context else server.last_node_id
    user = _user(prompt_id)
    if node_id is None:
        return NodeContext(prompt_id, client_id=server.client_id, user=user)
    graph = running_graph()
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
    """Which call of the running node this is, if it is called for each item of a list."""
    context = get_executing_context()
    return (context.list_index or 0) if context is not None else 0


def _user(prompt_id: str | None) -> str | None:
    """Whose prompt it is, if its client said so."""
    sent = extra_data(prompt_id).get(KEY)
    user = sent.get(USER) if isinstance(sent, Mapping) else None
    return user if isinstance(user, str) else None


SEEDS = ("seed", "noise_seed", "noise", "value")
"""Inputs of samplers, and of the nodes that they take their noise from."""


def _seed(graph: Any, node_id: str, depth: int = 4) -> int | None:
    """The seed of a node, or of the node that it takes its noise from."""
    values = graph.get_node(node_id)["inputs"] if depth and graph.has_node(node_id) else {}
    for name in SEEDS:
        value = values.get(name)
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
    """How many steps the node's progress announces; 0 if it has announced none yet.

    It may still be the number of an earlier sampling of the same node.
    """
    newest = newest_total()
    if newest:
        return newest
    entry = get_progress_state().nodes.get(context.node_id)
    return int(entry["max"]) if entry is not None and entry["max"] > 1 else 0


def preview_switch(pack: str) -> dict[str, Any] | None:
    """The node of the running prompt whose switch makes `pack` show previews its own way.

    That is one of the pack's nodes with an option about previews that is on.
    """
    graph = running_graph()
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


# --- progress -----------------------------------------------------------------------------------

_here = threading.local()
"""What each thread knows of the node that it executes."""


def expect_progress() -> None:
    """This step has a picture, so its progress must be sent now, on this thread."""
    _here.shown = True


def newest_total() -> int:
    """The steps of the newest progress bar of the node that runs on this thread; 0 without one."""
    total = getattr(_here, "total", 0) if getattr(_here, "node", None) == _node() else 0
    return total if total > 1 else 0


def is_elsewhere(here: NodeContext) -> bool:
    """Whether this thread executes another node, or prompt, than `here`."""
    return _node() not in (None, (here.prompt_id, here.node_id))


def _node() -> Any:
    context = get_executing_context()
    return None if context is None else (context.prompt_id, context.node_id)


def _note_total(bar: Any) -> None:
    try:
        _here.node, _here.total = _node(), int(bar.total)
    except Exception:  # a bar may count with anything
        _here.total = 0


def install_progress() -> Any:
    """Make `ProgressBar` send the steps that `expect_progress` names.

    Returns what `uninstall_progress` needs.
    """
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
                self._last_sent_value = -1  # as if it were the first, which is always sent
        args = tuple(map(passed_on, args))
        kwargs = {name: passed_on(value) for name, value in kwargs.items()}
        try:
            return update(self, *args, **kwargs)
        finally:
            _note_total(self)

    kind.__init__, kind.update_absolute = __init__, update_absolute
    return {"__init__": (make, __init__), "update_absolute": (update, update_absolute)}


def uninstall_progress(installed: Any) -> None:
    """Restore ComfyUI's functions, unless another pack has wrapped ours."""
    for name, (original, ours) in installed.items():
        if getattr(comfy.utils.ProgressBar, name) is ours:
            setattr(comfy.utils.ProgressBar, name, original)

# --- the graph ----------------------------------------------------------------------------------
#
# What a node's output is made from, so that it is recognised when ComfyUI has it cached.

MOST_NODES = 2000
"""The most nodes to look at: a graph may come from anybody."""


def running_graph() -> Any:
    """The graph of the prompt that is being executed."""
    return get_progress_state().dynprompt


def nodes_of_class(graph: Any, class_type: str) -> list[str]:
    """The ids of the graph's nodes of a class."""
    ids = graph.all_node_ids()
    return [node_id for node_id in ids if graph.get_node(node_id)["class_type"] == class_type]


def inputs_of(graph: Any, node_id: str) -> dict[str, Any]:
    """A node's inputs as in the prompt: links and values."""
    return dict(graph.get_node(node_id).get("inputs") or {})


def upstream_signatures(
    graph: Any, node_id: str, name: str, like: Iterable[str] | None = None
) -> Iterator[str]:
    """The signatures of the nodes that an input depends on, the nearest first.

    Only of those whose classes are among those of the nodes `like`, if these are given: each
    signature takes a walk through all nodes before it.
    """
    link = inputs_of(graph, node_id).get(name)
    found = dict.fromkeys([str(link[0])] if link is not None and _is_link(link) else [])
    kinds = None if like is None else {graph.get_node(each)["class_type"] for each in like}
    for each in _growing(found):
        if graph.has_node(each) and len(found) < MOST_NODES:
            if kinds is None or graph.get_node(each)["class_type"] in kinds:
                yield signature(graph, each)
            found |= dict.fromkeys(_sources(graph, each))


def signatures(graph: Any, node_id: str) -> dict[str, str]:
    """What a node's output depends on, as texts that are equal if ComfyUI's cache would serve it.

    By node: the first is the node itself, the next the one that created it at run time, and so on.
    """
    found: dict[str, str] = {}
    at: str | None = node_id
    while at is not None and len(found) < MOST_NODES:
        found[at] = signature(graph, at)
        at = graph.get_parent_node_id(at)
    return found


def signature(graph: Any, node_id: str) -> str:
    """What one node's output depends on: its class and inputs, and those of all nodes before it."""
    numbers = {node_id: 0}
    told: list[Any] = []
    for each in _growing(numbers):
        if not graph.has_node(each) or len(numbers) > MOST_NODES:
            told.append(each)
            continue
        node = graph.get_node(each)
        for source in _sources(graph, each):
            numbers.setdefault(source, len(numbers))
        values = {
            name: ["", numbers[value[0]], value[1]] if _is_link(value) else value
            for name, value in inputs_of(graph, each).items()
        }
        kind = node["class_type"]
        told.append([kind, node.get("is_changed"), each if _has_identity(kind) else "", values])
    text = json.dumps(told, sort_keys=True, default=_by_identity)
    return hashlib.sha256(text.encode()).hexdigest()


def _growing(found: dict[str, Any]) -> Iterator[str]:
    """The keys of `found`, including those that are added meanwhile."""
    at = 0
    while at < len(found):
        yield from list(found)[at : (at := len(found))]


def _sources(graph: Any, node_id: str) -> Iterable[str]:
    values = inputs_of(graph, node_id)
    return [values[name][0] for name in sorted(values) if _is_link(values[name])]


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _has_identity(class_type: str) -> bool:
    """Whether two equal nodes of a class must not share an output."""
    kind = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    return bool(getattr(kind, "NOT_IDEMPOTENT", False))


def _by_identity(value: object) -> str:
    """For objects, which a graph that was made at run time may hold."""
    return f"{type(value).__name__} {id(value)}"
