"""Frames of a video's latent that are no frames of the video: guides, keyframes and references.

Some nodes put them before or behind the video, sample all as one, and another node cuts them off
afterwards. How many there are is in what the sampler is conditioned on, and is found once a run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

REFERENCE_FIRST = {"WAN22_Animate", "WAN_Animate2"}
"""ComfyUI's models whose latents begin with the reference picture."""


class Hidden(NamedTuple):
    """What of a latent [B, C, T, h, w] with so many frames is not the video."""

    frames: int = 0
    before: int = 0
    after: int = 0

    def cut_off(self, latent: torch.Tensor) -> torch.Tensor:
        """A view of `latent` without it; any other latent is left as it is."""
        of_these = latent.ndim == 5 and latent.shape[2] == self.frames
        if not of_these or not 0 < self.before + self.after < self.frames:
            return latent
        return latent[:, :, self.before : self.frames - self.after]


def hidden_frames(guider: Any, shape: Sequence[int]) -> Hidden:
    """What is not the video in latents of that `shape`, which `guider` samples. Raises nothing."""
    if len(shape) != 5:
        return Hidden()
    _, _, frames, height, width = shape
    before = after = 0
    with contextlib.suppress(Exception):  # whatever other packs put in their places
        model = guider.model_patcher.model
        is_reference_first = any(kind.__name__ in REFERENCE_FIRST for kind in type(model).__mro__)
        for cond in _conditions(guider):
            after = max(after, _keyframes(cond, frames, height * width))
            if is_reference_first:
                before = max(before, _poses_begin(cond, frames))
            before = max(before, _references(cond, model.latent_format))
    return Hidden(frames, before, after)


def _conditions(guider: Any) -> Iterator[Mapping[str, Any]]:
    for conditions in guider.conds.values():
        yield from conditions


def _keyframes(cond: Mapping[str, Any], frames: int, tokens_each: int) -> int:
    """Frames that LTX-Video's nodes append: the guides, and keyframes that are made with the video.

    ComfyUI keeps a position for each number of the guides' latents: [B, 3, tokens, ...].
    """
    places = cond.get("keyframe_idxs")
    guides = 0 if places is None else places.shape[2] // tokens_each
    made = cond.get("generated_keyframes")
    if isinstance(made, Mapping):
        slots = made["num_keyframes"]
        if made["first_latent_frame"] + slots + guides == frames:
            return int(slots + guides)
    return int(guides)


def _poses_begin(cond: Mapping[str, Any], frames: int) -> int:
    """Where the video begins whose poses are given; without any, behind one reference."""
    poses = cond.get("pose_video_latent")
    return 1 if poses is None else int(frames - poses.shape[2])


def _references(cond: Mapping[str, Any], latent_format: Any) -> int:
    """Frames before those that VACE controls: what changes in them is nothing at all.

    Control frames are latents of what stays and of what changes, [B, 2 C, T, h, w].
    """
    most = 0
    for control in cond.get("vace_frames") or ():
        if control.device.type != "cpu":  # to look at its numbers one would have to wait
            continue
        changing = control.chunk(2, dim=1)[1]
        nothing = latent_format.process_out(torch.zeros_like(changing[:, :, :1]))
        same = [torch.equal(frame, nothing) for frame in changing.split(1, dim=2)]
        most = max(most, (*same, False).index(False))
    return most
