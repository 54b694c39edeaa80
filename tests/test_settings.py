"""Settings: checked at the door, defaults in one place, precedence as promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidestream.preview.settings import (
    DEFAULTS,
    FIELDS,
    SettingError,
    Settings,
    checked,
    combined,
    salvaged,
)


def test_defaults_are_those_of_the_table():
    assert Settings().as_dict() == {name: field.default for name, field in FIELDS.items()}
    assert checked(DEFAULTS.as_dict()) == DEFAULTS.as_dict()


def test_live_wins_over_node_over_client_over_defaults():
    result = combined(
        client={"throttle_ms": 1, "quality": 2, "max_size": 64},
        node={"throttle_ms": 3, "quality": 4},
        live={"throttle_ms": 5},
    )
    assert (result.throttle_ms, result.quality, result.max_size, result.budget) == (5, 4, 64, 5)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("throttle_ms", -1, "from 0 to 60000"),
        ("throttle_ms", "100", "throttle_ms"),
        ("throttle_ms", True, "throttle_ms"),
        ("throttle_ms", 0.5, "whole number"),
        ("every_n_steps", 0, "from 1 to 1000"),
        ("budget", 101, "from 0 to 100"),
        ("max_size", 63, "0 or a whole number from 64 to 2048"),
        ("max_size", 2049, "max_size"),
        ("max_size", False, "max_size"),
        ("quality", None, "quality"),
        ("quality", float("nan"), "quality"),
        ("method", "best", "host, auto, taesd, latent2rgb, off"),
        ("format", ["jpeg"], "jpeg, webp, png"),
        ("colour", 1, "not a setting"),
    ],
)
def test_a_bad_value_is_refused_by_name_and_range(name, value, part):
    with pytest.raises(SettingError) as caught:
        checked({name: value})
    assert name in str(caught.value)
    assert part in str(caught.value)


def test_whole_floats_and_zero_size_are_fine():
    assert checked({"throttle_ms": 5.0, "max_size": 0}) == {"throttle_ms": 5, "max_size": 0}


def test_salvage_keeps_what_is_good():
    good, complaints = salvaged({"throttle_ms": 7, "quality": 500, "nonsense": {}})
    assert good == {"throttle_ms": 7}
    assert len(complaints) == 2
    assert salvaged([1])[0] == {}


@given(
    st.dictionaries(
        st.text() | st.sampled_from(list(FIELDS)),
        st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists),
    )
)
def test_nothing_from_outside_gets_through_unchecked(values):
    good, _ = salvaged(values)
    assert checked(good) == good
    DEFAULTS.updated(good)
