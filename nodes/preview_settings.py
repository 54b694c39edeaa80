"""The node that says how the samplers behind it preview."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..preview import host
from ..preview.settings import (
    FIELDS,
    INHERITED,
    INHERITED_NUMBER,
    Choice,
    SettingError,
    checked,
    explicit,
)

VAE_TOOLTIP = (
    "Optional: previews are decoded by this VAE, as the final picture will be. It is slower than"
    " TAESD, so at the same budget pictures come less often. Where its memory does not suffice,"
    " the next best method is used."
)


def widgets() -> list[Any]:
    """One optional widget for each setting, so that an API prompt may leave any out.

    Each begins by setting nothing: numbers say so by one below their range.
    """
    made = []
    for name, field in FIELDS.items():
        common = {
            "display_name": field.label,
            "optional": True,
            "tooltip": field.tooltip,
        }
        if isinstance(field, Choice):
            options = [INHERITED, *field.options]
            widget = io.Combo.Input(name, options=options, default=INHERITED, **common)
        else:
            low = INHERITED_NUMBER
            widget = io.Int.Input(name, min=low, max=field.high, default=low, **common)
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
            hidden=[io.Hidden.unique_id],
            # Of two nodes with the same inputs each leaves its own id: ComfyUI must not share
            # their outputs. A node whose inputs stay the same is still cached.
            not_idempotent=True,
            outputs=[io.Model.Output(tooltip="The same model, with preview settings on it.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        every_n_steps: int | None = None,
        max_size: int | None = None,
        quality: int | None = None,
        batch_images: int | None = None,
        method: str | None = None,
        detail: str | None = None,
        device: str | None = None,
        format: str | None = None,
        batch: str | None = None,
    ) -> bool | str:
        # ComfyUI checks ranges, but none says "-1, or from 1", and some versions let any choice
        # of a node like this one pass. None stands for a linked input, or for none at all.
        given = {
            "every_n_steps": every_n_steps,
            "max_size": max_size,
            "quality": quality,
            "batch_images": batch_images,
            "method": method,
            "detail": detail,
            "device": device,
            "format": format,
            "batch": batch,
        }
        try:
            checked(explicit({name: each for name, each in given.items() if each is not None}))
        except SettingError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, model: Any, vae: Any = None, **settings: Any) -> io.NodeOutput:
        """Raises SettingError, for a linked input that nobody could check before."""
        clone = model.clone()
        node_id = str(getattr(cls.hidden, "unique_id", ""))
        host.leave_settings(clone, node_id, checked(explicit(settings)))
        if vae is not None:
            host.leave_vae(clone, vae)
        return io.NodeOutput(clone)
