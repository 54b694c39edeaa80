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
    explicit,
    of_node,
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


class Counted(dict[str, object]):
    """A mapping that counts the entries that are taken from it."""

    taken = 0

    def __iter__(self):
        for name in super().__iter__():
            self.taken += 1
            yield name

    def items(self):
        for name, value in super().items():
            self.taken += 1
            yield name, value


def test_however_much_is_sent_no_more_is_looked_at_than_there_are_settings():
    sent = Counted({f"stranger {number}": number for number in range(100_000)}, quality=7)
    good, complaints = salvaged(sent)
    assert good == {"quality": 7}
    assert len(complaints) == 1
    nodes = Counted({str(number): {"quality": 5} for number in range(100_000)})
    nodes["2"] = values = Counted(sent)
    assert of_node({"nodes": nodes}, "2") == ({"quality": 7}, [])
    assert max(sent.taken, nodes.taken, values.taken) <= len(FIELDS) + 2


def test_a_vast_value_is_refused_in_a_short_line():
    with pytest.raises(SettingError) as caught:
        checked({"method": "x" * 10**6, "quality": 5})
    assert len(str(caught.value)) < 200
    with pytest.raises(SettingError) as caught:
        checked({"quality": [[1] * 1000] * 1000})
    assert len(str(caught.value)) < 200


def test_what_a_node_inherits_it_does_not_set():
    as_dropped = {"throttle_ms": -1, "method": "as in my settings", "quality": 5, "max_size": 0}
    assert explicit(as_dropped) == {"quality": 5, "max_size": 0}
    assert of_node({"nodes": {"2": as_dropped}}, "2")[0] == {"quality": 5, "max_size": 0}


@pytest.mark.parametrize(
    "sent", [None, 5, [], {}, {"nodes": 5}, {"nodes": {"2": []}}, {"nodes": []}]
)
def test_whatever_came_beside_a_prompt_a_node_without_values_sets_nothing(sent):
    assert of_node(sent, "2") == ({}, [])


def test_what_came_for_nodes_is_no_unknown_setting():
    assert salvaged({"nodes": {}, "quality": 7}) == ({"quality": 7}, [])


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
