"""The node that says how the samplers behind it preview."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..preview import host
from ..preview.settings import FIELDS, KEY, Choice, SettingError, checked

VAE_TOOLTIP = (
    "Optional: previews are decoded by this VAE, as the final picture will be. It is slower than"
    " TAESD, so at the same budget pictures come less often. Where its memory does not suffice,"
    " the next best method is used."
)


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
            inputs=[
                io.Model.Input("model", tooltip="The model to sample with."),
                *widgets(),
                io.Vae.Input("vae", optional=True, tooltip=VAE_TOOLTIP),
            ],
            outputs=[io.Model.Output(tooltip="The same model, with preview settings on it.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        max_size: int | None = None,
        method: str | None = None,
        detail: str | None = None,
        device: str | None = None,
        format: str | None = None,
        batch: str | None = None,
    ) -> bool | str:
        # ComfyUI checks ranges, but none says "0 or from 64", and some versions let any choice
        # of a node like this one pass. None stands for a linked input, or for none at all.
        given = {
            "max_size": max_size,
            "method": method,
            "detail": detail,
            "device": device,
            "format": format,
            "batch": batch,
        }
        try:
            checked({name: value for name, value in given.items() if value is not None})
        except SettingError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model: Any, vae: Any = None, **settings: Any) -> io.NodeOutput:
        """Raises SettingError, for a linked input that nobody could check before."""
        clone = model.clone()
        before = clone.model_options.get(KEY, {})
        clone.model_options[KEY] = {**before, **checked(settings)}
        if vae is not None:
            host.leave_vae(clone, vae)
        return io.NodeOutput(clone)
