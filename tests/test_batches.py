"""Which images of a batch are shown, and how they lie side by side."""

from __future__ import annotations

import pytest
import torch
from sidestream.preview.capture.batches import STAGED_WHOLE, shown_images, staged
from sidestream.preview.render.job import RenderJob, shown_size
from sidestream.preview.settings import DEFAULTS
from sidestream.tests.helpers import FlatDecoder


@pytest.mark.parametrize(
    ("batch", "changes", "expected"),
    [
        (8, {}, [0]),
        (1, {"batch": "grid"}, [0]),
        (8, {"batch": "grid", "batch_images": 4}, [0, 1, 2, 3]),
        (3, {"batch": "grid"}, [0, 1, 2]),
        (10, {"batch": "spread", "batch_images": 4}, [0, 3, 6, 9]),
        (16, {"batch": "spread", "batch_images": 4}, [0, 5, 10, 15]),
        (3, {"batch": "spread"}, [0, 1, 2]),
        (16, {"batch": "animation"}, list(range(16))),
        (64, {"batch": "animation"}, list(range(0, 64, 2))),
        (64, {"batch": "animation", "video_frames": 0}, list(range(64))),
        (64, {"batch": "animation", "video_frames": 1}, [0]),
    ],
)
def test_the_images_that_are_asked_for(batch, changes, expected):
    assert list(shown_images(batch, DEFAULTS.updated(changes))) == expected


@pytest.mark.parametrize("size", [8, 512])
@pytest.mark.parametrize("choice", ["first", "grid", "spread", "animation"])
def test_what_is_staged_begins_with_what_is_shown(size, choice):
    latent = torch.zeros(20, 4, size, size)
    latent += torch.arange(20.0).view(20, 1, 1, 1)
    settings = DEFAULTS.updated({"batch": choice, "batch_images": 5})
    images = shown_images(20, settings)
    view = staged(latent, images, settings)
    assert [int(image[0, 0, 0]) for image in view[: len(images)]] == list(images)
    assert view.untyped_storage().data_ptr() == latent.untyped_storage().data_ptr()
    assert latent.numel() <= STAGED_WHOLE or len(view) == len(images)


def test_of_a_video_without_animation_only_the_shown_frame_is_staged():
    latent = torch.zeros(1, 16, 33, 60, 104)
    stills = DEFAULTS.updated({"video_frames": 1})
    assert staged(latent, range(1), stills).shape == (1, 16, 1, 60, 104)
    assert staged(latent, range(1), DEFAULTS).shape == latent.shape


@pytest.mark.parametrize(
    ("images", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (5, 3, 2), (9, 3, 3)]
)
def test_images_lie_side_by_side_in_their_order(images, columns, rows):
    decoder = FlatDecoder(scale=4)
    latent = torch.ones(images, 4, 6, 9) * torch.arange(1, images + 1).view(-1, 1, 1, 1) / 10
    picture, _ = RenderJob(decoder, 512, images=images)(latent)
    assert picture.shape == (6 * rows, 9 * columns, 3)
    cells = picture.reshape(rows, 6, columns, 9, 3).movedim(2, 1).reshape(-1, 6, 9, 3)
    grey = [sorted(set(cell.flatten().tolist())) for cell in cells]
    assert grey[:images] == [[round(25.5 * (i + 1))] for i in range(images)]
    assert grey[images:] == [[0]] * (columns * rows - images)


def test_all_images_together_are_no_larger_than_asked_and_keep_their_aspect():
    latents = torch.zeros(5, 4, 128, 64)
    assert shown_size(FlatDecoder(scale=8), latents.shape, 512) == (384, 512)
    assert shown_size(FlatDecoder(scale=8), latents[:1].shape, 512) == (256, 512)
