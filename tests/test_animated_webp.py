"""Which pictures an animation shows and for how long, and the file that it makes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from sidestream.preview.deliver.encode import encoded
from sidestream.preview.deliver.webp import animated_webp, riff_chunk
from sidestream.preview.render.animation import parts

WAN = [range(3, 4), *[range(4)] * 20]  # 21 latent frames, 81 pictures


def shown(plan):
    return [(part.index, picture) for part in plan for picture in part.shown]


def test_all_pictures_at_the_frame_rate():
    plan = parts(WAN, 0, rate=16)
    assert shown(plan) == [(0, 3)] + [(i, p) for i in range(1, 21) for p in range(4)]
    durations = [d for part in plan for d in part.durations]
    assert sum(durations) == 5062  # 81 / 16 s
    assert set(durations) == {62, 63}


def test_some_pictures_evenly_spread_in_the_same_time():
    plan = parts(WAN, 3, rate=16)
    assert shown(plan) == [(0, 3), (7, 2), (14, 1)]  # pictures 0, 27 and 54
    assert [d for part in plan for d in part.durations] == [1688, 1687, 1687]


def test_what_comes_after_the_last_shown_picture_is_not_decoded():
    assert [part.index for part in parts(WAN, 2, rate=16)] == list(range(11))


def test_one_picture_for_each_latent_frame():
    plan = parts([range(1)] * 5, 32, rate=4)
    assert shown(plan) == [(i, 0) for i in range(5)]
    assert [part.durations for part in plan] == [(250,)] * 5


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40).filter(any),
    st.integers(0, 60),
    st.floats(0.5, 120),
)
def test_a_plan_shows_as_many_as_asked_in_order_for_the_whole_time(kept, limit, rate):
    plan = parts([range(4 - n, 4) for n in kept], limit, rate)
    total = sum(kept)
    assert len(shown(plan)) == min(total, limit or total)
    assert shown(plan) == sorted(set(shown(plan)))
    durations = [d for part in plan for d in part.durations]
    assert sum(durations) == round(total * 1000 / rate)
    if len(durations) > 1:
        # Not one stands for two pictures more than another.
        assert max(durations) - min(durations) <= 1000 / rate + 2


@pytest.mark.parametrize("quality", [80, 100])
def test_the_file_plays_every_picture_for_its_time(quality):
    levels = [0, 80, 160, 240]
    stills = [
        encoded(np.full((33, 47, 3), level, np.uint8), (47, 33), "webp", quality)
        for level in levels
    ]
    durations = [40, 62, 63, 1000]
    animation = Image.open(io.BytesIO(animated_webp(stills, durations, (47, 33))))
    assert (animation.size, animation.n_frames, animation.info["loop"]) == ((47, 33), 4, 0)
    played = []
    for frame in ImageSequence.Iterator(animation):
        pixels = np.asarray(frame.convert("RGB"))
        played.append(frame.info["duration"])
        assert abs(int(pixels.mean()) - levels[len(played) - 1]) <= 2
        assert pixels.std() < 2
    assert played == durations


def test_a_picture_is_found_behind_what_else_a_file_holds():
    picture = np.full((8, 8, 3), 200, np.uint8)
    still = encoded(picture, (8, 8), "webp", 90)
    odd = riff_chunk(b"RIFF", b"WEBP" + riff_chunk(b"ICCP", b"odd") + still[12:])
    assert animated_webp([odd], [40], (8, 8)) == animated_webp([still], [40], (8, 8))


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="not a WebP picture"):
        animated_webp([b"RIFF\4\0\0\0WEBP"], [40], (8, 8))
