"""The running prompt's graph: what a node's output is made from, however often it was cached.

A `graph` is ComfyUI's `DynamicPrompt`, or anything with its methods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from comfy_execution.progress import get_progress_state

import nodes

MOST_NODES = 2000
"""Nodes that are looked at, of a graph that may be anybody's."""


def running() -> Any:
    """The graph of the prompt that is executed."""
    return get_progress_state().dynprompt


def of_class(graph: Any, class_type: str) -> list[str]:
    """The ids of the graph's nodes of a class."""
    return [each for each in graph.all_node_ids() if _node(graph, each)["class_type"] == class_type]


def inputs(graph: Any, node_id: str) -> dict[str, Any]:
    """A node's inputs as the prompt has them: links and values."""
    return dict(_node(graph, node_id).get("inputs") or {})


def upstream(graph: Any, node_id: str, name: str) -> Iterator[str]:
    """The nodes that an input comes from, the nearest first."""
    link = inputs(graph, node_id).get(name)
    found = dict.fromkeys([str(link[0])] if link is not None and _is_link(link) else [])
    for each in _growing(found):
        if graph.has_node(each) and len(found) < MOST_NODES:
            yield each
            found |= dict.fromkeys(_sources(graph, each))


def upstream_signatures(graph: Any, node_id: str, name: str) -> Iterator[str]:
    """The signatures of the nodes that an input comes from, the nearest first."""
    for each in upstream(graph, node_id, name):
        yield signature(graph, each)


def signatures(graph: Any, node_id: str) -> list[str]:
    """What the node's output depends on, as text that is equal where ComfyUI's cache has it.

    Then that of the node which it was made by at run time, as part of a graph, and so on.
    """
    found: list[str] = []
    at: str | None = node_id
    while at is not None and len(found) < MOST_NODES:
        found.append(signature(graph, at))
        at = graph.get_parent_node_id(at)
    return found


def signature(graph: Any, node_id: str) -> str:
    """What the output of one node depends on: its class and inputs, and those of all before it."""
    numbers = {node_id: 0}
    told: list[Any] = []
    for each in _growing(numbers):
        if not graph.has_node(each) or len(numbers) > MOST_NODES:
            told.append(each)
            continue
        node = _node(graph, each)
        for source in _sources(graph, each):
            numbers.setdefault(source, len(numbers))
        values = {
            name: ["", numbers[value[0]], value[1]] if _is_link(value) else value
            for name, value in inputs(graph, each).items()
        }
        kind = node["class_type"]
        told.append([kind, node.get("is_changed"), each if _has_identity(kind) else "", values])
    text = json.dumps(told, sort_keys=True, default=_by_identity)
    return hashlib.sha256(text.encode()).hexdigest()


def _node(graph: Any, node_id: str) -> Any:
    return graph.get_node(node_id)


def _growing(found: dict[str, Any]) -> Iterator[str]:
    """The keys of `found`, also those that are added meanwhile."""
    at = 0
    while at < len(found):
        yield from list(found)[at : (at := len(found))]


def _sources(graph: Any, node_id: str) -> Iterable[str]:
    values = inputs(graph, node_id)
    return [values[name][0] for name in sorted(values) if _is_link(values[name])]


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _has_identity(class_type: str) -> bool:
    """Whether equal nodes of a class have outputs of their own."""
    kind = nodes.NODE_CLASS_MAPPINGS.get(class_type)
    return bool(getattr(kind, "NOT_IDEMPOTENT", False))


def _by_identity(value: object) -> str:
    """What a graph that was made at run time may hold."""
    return f"{type(value).__name__} {id(value)}"
