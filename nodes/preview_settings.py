"""The node that says how the samplers behind it preview."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..preview.settings import FIELDS, KEY, Choice, SettingError


def widgets() -> list[Any]:
    """One optional widget for each setting, so that an API prompt may leave any out."""
    made = []
    for name, field in FIELDS.items():
        common = {
            "display_name": field.label,
            "optional": True,
            "default": field.default,
            "tooltip": field.tooltip,
        }
        if isinstance(field, Choice):
            widget = io.Combo.Input(name, options=list(field.options), **common)
        else:
            low = field.describe()["min"]
            widget = io.Int.Input(name, min=low, max=field.high, **common)
        # A key that older pages do not know and pass over.
        widget.extra_dict = {"advanced": True} if field.advanced else {}
        made.append(widget)
    return made


class SideStreamPreview(io.ComfyNode):
    """Leaves settings on a copy of the MODEL, where the provider finds them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStreamPreview",
            display_name="Side-Stream Preview",
            category="SideStream",
            description=(
                "Says how samplers that use this MODEL show their live preview: how often, how"
                " large, by which decoder. Changes nothing else: not the picture, not other"
                " branches, not later prompts."
            ),
            inputs=[io.Model.Input("model", tooltip="The model to sample with."), *widgets()],
            outputs=[io.Model.Output(tooltip="The same model, with preview settings on it.")],
        )

    @classmethod
    def validate_inputs(cls, max_size: int | None = None) -> bool | str:
        # The range of a widget cannot say "0 or from 64". None stands for a linked input.
        try:
            FIELDS["max_size"].check("max_size", 0 if max_size is None else max_size)
        except SettingError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model: Any, **settings: Any) -> io.NodeOutput:
        clone = model.clone()
        before = clone.model_options.get(KEY, {})
        clone.model_options[KEY] = {**before, **settings}
        return io.NodeOutput(clone)
