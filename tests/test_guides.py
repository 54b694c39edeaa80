"""Guides and references in a latent are not shown: ComfyUI's own nodes put them there, and say
what is left when they are cut off."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from sidestream.tests.stage import all_told, demo_conditioning, with_settings

WIDTH, HEIGHT = 64, 32  # pixels of Wan's
STEPS = 3

Execute = Callable[..., Any]


class Vae:
    """Encodes a picture as its mean in every channel, as many frames as a real one makes."""

    def __init__(self, channels: int, frames_each: int, scale: int) -> None:
        self.channels, self.latent_channels = channels, channels
        self.downscale_index_formula = (frames_each, scale, scale)
        self.scale, self.frames_each = scale, frames_each

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        frames = pixels[:: self.frames_each].mean(dim=-1)[:, :: self.scale, :: self.scale]
        return frames.expand(1, self.channels, *frames.shape).clone() + 0.1


class Case(NamedTuple):
    """A video with more frames than it will have."""

    latent_format: str
    latent: dict[str, Any]
    positive: Any
    negative: Any
    cut_off: Callable[[torch.Tensor], torch.Tensor]
    """What ComfyUI's node leaves of it."""
    frames: int
    """That the video has."""
    model: str = "BaseModel"


def executed(stage: Any, module: str, node: str, **arguments: Any) -> tuple[Any, ...]:
    result = getattr(stage.comfy(f"comfy_extras.{module}"), node).execute(**arguments)
    return result.args  # type: ignore[no-any-return]


def picture(frames: int = 1, value: float = 0.9) -> torch.Tensor:
    return torch.full((frames, HEIGHT, WIDTH, 3), value)


def ltxv(stage: Any, images: list[tuple[int, int]]) -> Case:
    """Guides of so many pictures at these frames."""
    latent = {"samples": torch.zeros(1, 128, 5, 2, 3)}
    positive = negative = demo_conditioning()
    for frames, place in images:
        positive, negative, latent = executed(
            stage, "nodes_lt", "LTXVAddGuide", positive=positive, negative=negative,
            vae=Vae(128, 8, 32), latent=latent, image=picture(frames), frame_idx=place,
            strength=1.0,
        )  # fmt: skip

    def cropped(x0: torch.Tensor) -> torch.Tensor:
        given = {"positive": positive, "negative": negative, "latent": {"samples": x0}}
        _, _, left = executed(stage, "nodes_lt", "LTXVCropGuides", **given)
        return left["samples"]  # type: ignore[no-any-return]

    return Case("LTXV", latent, positive, negative, cropped, frames=5)


def wan(stage: Any, node: str, model: str = "BaseModel", **more: Any) -> Case:
    """A node for Wan 2.1's latents that says how many frames are to be trimmed."""
    conditioning = demo_conditioning()
    positive, negative, latent, trimmed, *_ = executed(
        stage, "nodes_wan", node, positive=conditioning, negative=conditioning,
        vae=Vae(16, 4, 8), width=WIDTH, height=HEIGHT, length=13, batch_size=1, **more,
    )  # fmt: skip

    def cut_off(x0: torch.Tensor) -> torch.Tensor:
        given = {"samples": {"samples": x0}, "trim_amount": trimmed}
        return executed(stage, "nodes_wan", "TrimVideoLatent", **given)[0]["samples"]  # type: ignore[no-any-return]

    return Case("Wan21", latent, positive, negative, cut_off, 4, model)


def animate(stage: Any, **more: Any) -> Case:
    more = {"continue_motion_max_frames": 5, "video_frame_offset": 0} | more
    return wan(stage, "WanAnimateToVideo", "WAN22_Animate", **more)


CASES: dict[str, Callable[[Any], Case]] = {
    "one guide": lambda stage: ltxv(stage, [(1, 0)]),
    "guides": lambda stage: ltxv(stage, [(1, 0), (9, 8), (1, -1)]),
    "no guides": lambda stage: ltxv(stage, []),
    "VACE with a reference": lambda stage: wan(
        stage, "WanVaceToVideo", strength=1.0, reference_image=picture()
    ),
    "VACE that keeps its first frames": lambda stage: wan(
        stage, "WanVaceToVideo", strength=1.0, control_video=picture(13),
        control_masks=torch.zeros(13, HEIGHT, WIDTH),
    ),
    "Animate": lambda stage: animate(stage, reference_image=picture()),
    "Animate with poses and two references": lambda stage: animate(
        stage, reference_image=picture(5), pose_video=picture(13)
    ),
    "Animate that continues": lambda stage: animate(
        stage, continue_motion=picture(5), pose_video=picture(13)
    ),
}  # fmt: skip


class Seen(NamedTuple):
    x0: torch.Tensor
    shown: torch.Tensor


@pytest.fixture
def seen(pack: Any, monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """What samplers give, and what is shown of it."""
    from sidestream.preview.capture.previewer import Previewer

    found: list[Seen] = []
    shows = Previewer._picture_of

    def picture_of(previewer: Any, x0: Any) -> torch.Tensor:
        shown = shows(previewer, x0)
        found.append(Seen(x0.clone(), shown.clone()))
        return shown

    monkeypatch.setattr(Previewer, "_picture_of", picture_of)
    return found


def sampled(stage: Any, case: Case) -> None:
    """By ComfyUI's KSampler, and a model whose guesses are the soft signs of what it is given."""
    model = stage.demo_model()
    model.model.diffusion_model.forward = lambda x, *_, **__: torch.tanh(x)
    model.model.latent_format = getattr(stage.comfy("comfy.latent_formats"), case.latent_format)()
    kind = type(model.model)
    model.model.__class__ = type(case.model, (kind,), {})
    model = with_settings(model, method="latent2rgb", video_frames=0)
    stage.comfy.nodes.KSampler().sample(
        model, 1, STEPS, 1.0, "euler", "normal", case.positive, case.negative, case.latent
    )
    stage.wait_for_frames()


@pytest.mark.parametrize("made", CASES.values(), ids=CASES)
def test_what_is_shown_is_what_comfyuis_nodes_leave(
    stage, pack, client, told, seen, made, monkeypatch
):
    from sidestream.preview.host import sampling

    asked = []
    found = sampling.hidden_frames
    monkeypatch.setattr(
        sampling, "hidden_frames", lambda *args: asked.append(args) or found(*args)
    )
    case = made(stage)
    with stage.node():
        sampled(stage, case)
        assert all_told(pack)
    assert len(seen) == STEPS
    assert len(asked) == 1
    for x0, shown in seen:
        assert x0.shape == case.latent["samples"].shape
        assert torch.equal(shown, case.cut_off(x0))
        assert shown.shape[2] == case.frames
    animations = [f.sidestream["animation"] for f in client.frames if "animation" in f.sidestream]
    assert animations[-1]["frames"] == seen[-1].shown.shape[2]


def test_keyframes_that_are_made_with_the_video_are_not_shown_before_its_guides(stage, pack):
    from sidestream.preview.host.sampling import Hidden, hidden_frames

    places = torch.zeros(1, 3, 2 * 6, 2)
    made = {"first_latent_frame": 5, "num_keyframes": 3, "tokens_per_frame": 6}

    def of(frames: int, **cond: Any) -> Hidden:
        guider = types.SimpleNamespace(
            conds={"positive": [cond]}, model_patcher=types.SimpleNamespace(model=object())
        )
        return hidden_frames(guider, (1, 128, frames, 2, 3))

    assert of(7, keyframe_idxs=places) == Hidden(7, 0, 2)
    # The model has no latent format: VACE's references are asked for last.
    assert of(10, keyframe_idxs=places, generated_keyframes=made) == Hidden(10, 0, 5)
    assert of(11, keyframe_idxs=places, generated_keyframes=made) == Hidden(11, 0, 2)


@pytest.mark.parametrize(
    ("conds", "shape"),
    [
        ({"positive": [{"keyframe_idxs": "a"}]}, (1, 128, 5, 2, 3)),
        ({"positive": [{"keyframe_idxs": torch.zeros(1, 3, 30)}]}, (1, 128, 5, 2, 3)),  # all of it
        ({"positive": [{"keyframe_idxs": torch.zeros(1, 3, 6)}]}, (1, 128, 2, 3)),
        ({"positive": None}, (1, 128, 5, 2, 3)),
        (None, (1, 128, 5, 2, 3)),
        ({}, ()),
    ],
    ids=["text", "all", "no frames", "none", "no conds", "no shape"],
)
def test_i6_whatever_stands_in_their_places_hides_nothing(stage, pack, conds, shape):
    from sidestream.preview.host.sampling import hidden_frames

    guider = types.SimpleNamespace(conds=conds, model_patcher=types.SimpleNamespace(model=None))
    latent = torch.randn(shape or (1, 128, 5, 2, 3))
    assert torch.equal(hidden_frames(guider, shape).cut_off(latent), latent)
    assert torch.equal(hidden_frames(None, shape).cut_off(latent), latent)
