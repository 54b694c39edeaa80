"""The node that sets how the samplers after it preview."""

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
    "Optional. Decodes previews with this VAE, as for the final image. It is slower than TAESD, so"
    " within the same budget previews come less often. If memory runs short, the next best method"
    " is used."
)

AUDIO_VAE_TOOLTIP = (
    "Optional. For models that make sound, alone or with a video: decodes its first seconds with"
    " this VAE, to be heard in the Live Preview panel. Takes up to a fifth of the budget."
)


def widgets() -> list[Any]:
    """An optional widget for each setting, so that an API prompt may omit any.

    By default each inherits the user's settings; a number does so at -1.
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
        # A key that older pages ignore.
        widget.extra_dict = {"advanced": True} if field.advanced else {}
        made.append(widget)
    return made


class SideStreamPreview(io.ComfyNode):
    """Attaches settings to a copy of the MODEL, where the provider finds them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SideStreamPreview",
            display_name="Side-Stream Preview",
            category="SideStream",
            description=(
                "Sets how samplers that use this MODEL show live previews: how often, how large,"
                " and with which decoder. The result, other branches and later prompts stay the"
                " same."
            ),
            inputs=[
                io.Model.Input("model", tooltip="Model to sample with."),
                *widgets(),
                io.Vae.Input("vae", optional=True, tooltip=VAE_TOOLTIP),
                io.Vae.Input("audio_vae", optional=True, tooltip=AUDIO_VAE_TOOLTIP),
            ],
            hidden=[io.Hidden.unique_id],
            # Two nodes with the same inputs attach different ids, so ComfyUI must not share their
            # outputs. A node whose inputs stay the same is still cached.
            not_idempotent=True,
            outputs=[io.Model.Output(tooltip="The same model, with preview settings attached.")],
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
        step_zero: str | None = None,
    ) -> bool | str:
        # The settings that ComfyUI cannot check: no range means "-1, or from 1", and some versions
        # don't check choices. None stands for a linked or missing input.
        given = {name: value for name, value in locals().items() if name in FIELDS}
        try:
            checked(explicit({name: each for name, each in given.items() if each is not None}))
        except SettingError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model: Any, vae: Any = None, audio_vae: Any = None, **settings: Any
    ) -> io.NodeOutput:
        """Raises SettingError for an invalid linked input, which cannot be checked earlier."""
        clone = model.clone()
        node_id = str(getattr(cls.hidden, "unique_id", ""))
        host.models.attach_settings(clone, node_id, checked(explicit(settings)))
        for each in (vae, audio_vae):
            if each is not None:  # for either input, the VAE itself tells what it decodes to
                host.models.attach_vae(clone, each)
        return io.NodeOutput(clone)
