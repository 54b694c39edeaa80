"""Saved workflows as the page reads them: into the prompt that it would queue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
"""A choice that brings inputs of its own, in newer ComfyUIs."""
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC}
NOTES = {"MarkdownNote", "Note"}

Types = Mapping[str, Mapping[str, Any]]
"""Inputs of a node, as INPUT_TYPES and /object_info give them."""


def to_prompt(workflow: Mapping[str, Any], types_of: Callable[[str], Types]) -> dict[str, Any]:
    """The API prompt of a workflow. Fails where widget values do not fit the nodes' inputs."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        types = types_of(node["type"])
        optional = types.get("optional", {})
        inputs = {i["name"]: links[i["link"]] for i in node["inputs"] if i["link"] is not None}
        unknown = set(inputs) - set(types["required"]) - set(optional)
        assert not unknown, f"{node['type']} has no {unknown}"
        values = iter(node["widgets_values"])
        linked = {i["name"] for i in node["inputs"] if "widget" in i and i["name"] in inputs}
        left = list({**types["required"], **optional}.items())
        while left:
            name, (kind, *options) = left.pop(0)
            if name in linked:
                next(values)  # the page keeps the widget's own
            if name in inputs or not (isinstance(kind, list) or kind in WIDGETS):
                continue
            # The page fills widgets in their order. What the list does not reach keeps its default.
            if (value := next(values, None)) is None:
                assert name in optional, f"{node['type']} lacks {name}"
                break
            inputs[name] = value
            if kind == DYNAMIC:
                [chosen] = [one["inputs"] for one in options[0]["options"] if one["key"] == value]
                own = {**chosen.get("required", {}), **chosen.get("optional", {})}
                left = [(f"{name}.{of_choice}", told) for of_choice, told in own.items()] + left
            if options and options[0].get("control_after_generate"):
                assert next(values) == "increment"  # the page's own widget
        assert next(values, None) is None, f"{node['type']} has a widget value too many"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt
