"""Settings: validated on entry, described in one table, precedence as promised."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sidestream.preview import settings as settings_module
from sidestream.preview.settings import (
    DEFAULTS,
    FIELDS,
    PRESETS,
    SOUND,
    Choice,
    SettingError,
    Size,
    accepts,
    checked,
    combined,
    explicit,
    of_node,
    salvaged,
)
from sidestream.tools.places import REPO


def test_defaults_are_those_of_the_table():
    assert DEFAULTS.as_dict() == {name: field.default for name, field in FIELDS.items()}
    assert checked(DEFAULTS.as_dict()) == DEFAULTS.as_dict()


# What repeats the table


Facts = dict[str, tuple[str, ...]]
"""What a file says of each setting, in its order."""

COUNTS = ("steps", "frames", "images")
"""Units that labels name already."""

BESIDE = ("model", "vae", "audio_vae")
"""The node's inputs that are no settings."""

PLACES = [("docs/settings.md", "en")]
for each in sorted(folder.name for folder in (REPO / "locales").iterdir()):
    PLACES += [(f"locales/{each}/{file}.json", each) for file in ("nodeDefs", "settings")]
    PLACES += [(f"web/docs/SideStreamPreview{'' if each == 'en' else f'/{each}'}.md", each)]


def text_of(path: str) -> str:
    return (REPO / path).read_text("utf-8")


def values(name: str, dash: str, unsaid: tuple[str, ...] = ()) -> str:
    """A setting's values as documents have them, without units that its label names already."""
    field = FIELDS[name]
    if isinstance(field, Choice):
        return ", ".join(field.names)
    unit = "" if field.unit in unsaid else field.unit
    return f"{'0, ' * isinstance(field, Size)}{field.low}{dash}{field.high} {unit}".rstrip()


def panels_own() -> Facts:
    """The settings that only the page has: labels with units, and tooltips."""
    [file] = (REPO / "web").rglob("settings.js")
    texts = r"label: \"(.+?)\",\s*tooltip:\s*\"(.+?)\""
    kind = r"type: \"(?:number|preset)\",(?:\s*unit: \"(\w+)\",|\s*\w+: \d+,)*"
    entry = rf"^  (\w+): {{\s*{kind}\s*{texts}"
    found = re.findall(entry, file.read_text("utf-8"), re.MULTILINE)
    own = {name: (f"{label} ({u})" if u else label, tooltip) for name, u, label, tooltip in found}
    [file] = (REPO / "web").rglob("sharing_setting.js")
    drawn = r"id: \"SideStream\.(\w+)\",\s*name: \"(.+?)\",\s*tooltip:\s*\"(.+?)\""
    return own | {n: (label, tip) for n, label, tip in re.findall(drawn, file.read_text("utf-8"))}


def told(path: str, text: str) -> Facts:
    """What a file says of the settings."""
    if path.endswith("nodeDefs.json"):
        inputs = json.loads(text)["SideStreamPreview"]["inputs"].items()
        return {name: (e["name"], e["tooltip"]) for name, e in inputs if name not in BESIDE}
    if path.endswith(".json"):
        entries = json.loads(text).items()
        return {key.removeprefix("SideStream_"): (e["name"], e["tooltip"]) for key, e in entries}
    text = re.sub(r", [^,;|\n]*GPU[^,;|\n]*(?=; auto\)| \|)", "", text)
    if path.startswith("docs/"):
        rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", text, re.MULTILINE)
        return {name: (said, default) for name, said, default in rows}
    rows = re.findall(r"\*\*([^*]+)\*\* \(`(\w+)`: ([^;)]+); ([^)]+)\)", text)
    return {name: (label, said, default) for label, name, said, default in rows}


def wanted(path: str, language: str) -> Facts:
    """What it has to say. The table is English; a translation agrees with that of the node."""
    texts: Facts = {name: (field.label, field.tooltip) for name, field in FIELDS.items()}
    if language != "en":
        node = f"locales/{language}/nodeDefs.json"
        translated = told(node, text_of(node))
        texts = {name: translated.get(name, ("", "")) for name in FIELDS}
    if path.endswith("nodeDefs.json"):
        return texts
    if path.endswith(".json"):
        units = {name: getattr(field, "unit", "") for name, field in FIELDS.items()}
        said = {name: f" ({u})" if u not in ("", *COUNTS) else "" for name, u in units.items()}
        dialog: Facts = {name: (text[0] + said[name], text[1]) for name, text in texts.items()}
        own, here = panels_own(), told(path, text_of(path))
        return dialog | (own if language == "en" else {name: here.get(name, ()) for name in own})
    defaults = {name: str(field.default) for name, field in FIELDS.items()}
    if path.startswith("docs/"):
        return {name: (values(name, " to "), defaults[name]) for name in FIELDS}
    return {name: (texts[name][0], values(name, "–", COUNTS), defaults[name]) for name in FIELDS}


def differences(path: str, language: str, text: str) -> list[str]:
    """What a file lacks, has in addition, or says otherwise than the table."""
    here, table = told(path, text), wanted(path, language)
    lacking = [f"{path} lacks {name}" for name in table if name not in here]
    strange = [f"{path} has {name}, which is no setting" for name in here if name not in table]
    both = [name for name in table if here.get(name, table[name]) != table[name]]
    wrong = [f"{path} says {here[name]} of {name}, not {table[name]}" for name in both]
    order = [f"{path} has another order"] if {*here} == {*table} and [*here] != [*table] else []
    return lacking + strange + wrong + order


@pytest.mark.parametrize(("path", "language"), PLACES)
def test_what_repeats_the_table_agrees_with_it(path, language):
    text = text_of(path)
    assert differences(path, language, text) == []
    # And would be noticed if it did not.
    assert differences(path, language, text.replace("batch_images", "batch_pictures")) == [
        f"{path} lacks batch_images",
        f"{path} has batch_pictures, which is no setting",
    ]
    name, facts = next(iter(told(path, text).items()))
    changed = text.replace(facts[-1], "7")
    assert [said for said in differences(path, language, changed) if f" of {name}" in said]


LANGUAGES = ("en", "ja", "zh")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_choice_has_words_for_its_values_and_every_setting_one_sentence(language):
    entries = json.loads(text_of(f"locales/{language}/settings.json"))
    said = {key.removeprefix("SideStream_"): e.get("options") for key, e in entries.items()}
    words = {n: dict(f.names) for n, f in FIELDS.items() if isinstance(f, Choice)}
    assert {name: [*(said[name] or ())] for name in words} == {n: [*w] for n, w in words.items()}
    if language == "en":
        assert {name: said[name] for name in words} == words
    for name, entry in entries.items():
        assert len(re.findall(r"[.。](?=\s|$)", entry["tooltip"])) == 1, name


def test_presets_are_of_the_same_settings_and_one_is_the_defaults():
    assert [*PRESETS] == ["light", "balanced", "every_step"]
    [names] = {tuple(values) for values in PRESETS.values()}
    assert all(checked(values) == values for values in PRESETS.values())
    assert PRESETS["balanced"] == {name: FIELDS[name].default for name in names}
    rows = re.findall(r"^\| \*(.+?)\* \| (.+) \|$", text_of("docs/settings.md"), re.MULTILINE)
    unit = r"(\d+)(?: ms| %| step)"
    shown = {label: tuple(map(int, re.findall(unit, row))) for label, row in rows}
    labels = json.loads(text_of("locales/en/main.json"))["sideStream"]["presets"]
    assert shown == {labels[name]: tuple(values.values()) for name, values in PRESETS.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_preset_has_a_name_and_a_sentence(language):
    texts = json.loads(text_of(f"locales/{language}/main.json"))["sideStream"]["presets"]
    assert [*texts] == [f"{name}{part}" for name in (*PRESETS, "own") for part in ("", "Tooltip")]


# Who wins, and what is refused


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
    found = checked({"throttle_ms": 5.0, "max_size": 0.0})
    assert found == {"throttle_ms": 5, "max_size": 0}
    assert {type(value) for value in found.values()} == {int}


def test_salvage_keeps_what_is_good():
    good, complaints = salvaged({"throttle_ms": 7, "quality": 500, "nonsense": {}})
    assert good == {"throttle_ms": 7}
    assert len(complaints) == 2
    assert salvaged([1])[0] == {}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("x" * 81, "quality cannot be a string of 81 characters"),
        (10**5000, "quality has too many digits"),
        ({}, "quality cannot be a dict"),
        (500, "quality must be a whole number from 1 to 100, not 500"),
    ],
    ids=["long", "digits", "object", "range"],
)
def test_salvage_says_what_is_wrong(value, says):
    assert salvaged({"quality": value, "throttle_ms": 7}) == ({"throttle_ms": 7}, [says])


def test_salvage_counts_what_is_unknown_besides_what_is_wrong():
    _, [wrong, unknown] = salvaged({"a": 1, "quality": 500, "b": 2, "c": 3})
    assert "quality" in wrong
    assert unknown.startswith("'a' and 2 more are not settings;")


@pytest.mark.parametrize(
    "sent", [None, [], {}, {"accepts": SOUND}, {"accepts": {SOUND: True}}, {"accepts": ["sounds"]}]
)
def test_a_client_has_to_say_in_a_list_what_it_accepts(sent):
    assert accepts({"accepts": ["more", SOUND]}, SOUND)
    assert not accepts(sent, SOUND)


def test_a_device_may_be_the_number_of_a_gpu_that_is_there(monkeypatch):
    monkeypatch.setattr(settings_module, "gpu_numbers", lambda: ("0", "1"))
    assert checked({"device": "1"}) == {"device": "1"}
    with pytest.raises(SettingError, match="auto, same, cpu, 0, 1, not '2'"):
        checked({"device": "2"})


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
    assert of_node({"nodes": {"2": as_dropped}}, "2") == ({"quality": 5, "max_size": 0}, [])


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
