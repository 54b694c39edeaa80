"""The node that passes a sampling's previews on as images, for videos of how a picture emerges."""

from __future__ import annotations

import logging
from typing import Any

import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image

from ..preview import host
from ..preview.capture.recordings import EMPTY, FRAMES, LATE, MEGABYTES, NODE, UNKNOWN, Frames
from ..preview.plain import in_a_line
from ..preview.render.recording import Kept

log = logging.getLogger(__name__)

REASONS = {
    UNKNOWN: "no previews of this latent's sampling are known. It was sampled before this node was"
    " there, or by a sampler that SideStream does not preview. To sample again, change the seed",
    EMPTY: "the sampling had no previews, because their method is off or none, they were paused, or"
    " nothing can show its latents",
    LATE: "not all previews came in time",
}
NO_STEP = -1
"""The step of the black picture if there are no previews."""


def limit_input(name: str, label: str, tooltip: str, numbers: tuple[int, int, int]) -> Any:
    """An optional field, so that an API prompt may omit it."""
    default, least, most = numbers
    return io.Int.Input(
        name,
        display_name=label,
        default=default,
        min=least,
        max=most,
        optional=True,
        tooltip=tooltip,
    )


class SideStreamFrames(io.ComfyNode):
    """Waits until the pictures of a sampling have been made."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id=NODE,
            display_name="Side-Stream Frames",
            category="SideStream",
            description=(
                "Gives the previews of a sampling as images, for a video of how the picture came"
                " about. Of a video: the frames of its last animated preview."
            ),
            inputs=[
                io.Latent.Input(
                    "latent", tooltip="Latent from the sampler. It is passed on as is."
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="Optional. If several samplers lead here: the MODEL of the one to use."
                    " Otherwise the nearest is used.",
                ),
                limit_input(
                    "max_frames",
                    "Max frames",
                    "Maximum number of frames. Of more steps, evenly spread ones are kept, and the"
                    " last.",
                    FRAMES,
                ),
                limit_input(
                    "max_megabytes",
                    "Memory",
                    "Maximum size of the image batch, in megabytes. Of more steps, evenly spread"
                    " ones are kept, and the last.",
                    MEGABYTES,
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The latent, unchanged."),
                io.Image.Output(display_name="frames", tooltip="The previews, in order."),
                io.Int.Output(
                    display_name="steps",
                    is_output_list=True,
                    tooltip="The step of each frame, as a list. 0 is the noise at the start.",
                ),
                io.Float.Output(
                    display_name="fps",
                    tooltip="8 steps a second; of a video its own rate.",
                ),
            ],
        )

    @classmethod
    def execute(cls, latent: Any, model: Any = None, **fields: Any) -> io.NodeOutput:
        """Never fails because of previews: if there are none, it gives one black picture."""
        found = frames(model, fields)
        ui = None
        if found.why:
            log.warning("[SideStream] Side-Stream Frames: %s.", REASONS[found.why])
            ui = {"sidestream_frames": [found.why]}
        if not found.kept:
            return io.NodeOutput(latent, black(latent), [NO_STEP], found.rate, ui=ui)
        steps = [kept.step for kept in found.kept]
        return io.NodeOutput(latent, batch(found.kept), steps, found.rate, ui=ui)


def frames(model: Any, fields: dict[str, Any]) -> Frames:
    """The previews for the running node; none if the pack is not installed."""
    pack = getattr(host.server.registered(), "pack", None)
    if pack is None or pack.problem is not None:
        return Frames([], why=UNKNOWN)
    context = host.prompts.current_context()
    bar = comfy.utils.ProgressBar(1)

    def tell(done: int, total: int) -> None:
        bar.update_absolute(done, total)  # raises if the prompt was interrupted

    found: Frames = pack.frames(str(context.node_id), fields, model, tell)
    return found


def batch(kept: list[Kept]) -> torch.Tensor:
    """Pictures as IMAGE: float32 [N, H, W, 3] from 0 to 1, all in the last one's size."""
    width, height = kept[-1].size
    images = np.empty((len(kept), height, width, 3), np.float32)
    for i, each in enumerate(kept):
        np.divide(fitted(each, (width, height)), np.float32(255), out=images[i])
    return torch.from_numpy(images)


def fitted(kept: Kept, size: tuple[int, int]) -> np.ndarray:
    """A picture, uint8 [H, W, 3], in that width and height; with black bars if necessary."""
    if kept.rgb.shape[1::-1] == size:
        return kept.rgb
    image = Image.fromarray(kept.rgb)
    scale = min(size[0] / kept.size[0], size[1] / kept.size[1])
    width, height = (round(side * scale) for side in kept.size)
    if max(size[0] - width, size[1] - height) < 2:
        width, height = size
    image = image.resize((max(1, width), max(1, height)), Image.Resampling.BILINEAR)
    sheet = Image.new("RGB", size)
    sheet.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return np.asarray(sheet)


def black(latent: Any) -> torch.Tensor:
    """One black IMAGE, with the aspect ratio of the latent's picture if that is known."""
    try:
        height, width = host.sampling.latent_frame(latent["samples"]).shape[-2:]
    except Exception as error:
        log.debug("[SideStream] A latent of an unknown kind (%s).", in_a_line(error))
        height, width = 8, 8
    scale = 512 / max(width, height, 1)
    sides = (max(2, round(side * scale) // 2 * 2) for side in (height, width))
    return torch.zeros(1, *sides, 3)
