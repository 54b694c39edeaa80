"""The translations are complete: no page or browser needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
LOCALES = REPO / "locales"
FILES = ("main", "settings", "commands", "nodeDefs")


def texts(language: str, name: str) -> dict[str, str]:
    """All texts of one file by their path."""
    return dict(_flat(json.loads((LOCALES / language / f"{name}.json").read_text("utf-8"))))


def _flat(tree: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in tree.items():
        found += _flat(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]
    return found


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("language", ["zh", "ja"])
def test_every_language_has_the_same_texts(language: str, name: str) -> None:
    english, other = texts("en", name), texts(language, name)
    assert set(other) == set(english)
    assert all(other.values())
    for path, text in english.items():
        assert sorted(re.findall(r"<\w+>", other[path])) == sorted(re.findall(r"<\w+>", text)), path


def test_the_page_asks_only_for_texts_that_are_there() -> None:
    there = texts("en", "main")
    sources = [path.read_text("utf-8") for path in (REPO / "web").rglob("*.js")]
    asked = {key for source in sources for key in re.findall(r"""\bt\(\s*["']([\w.]+)["']""", source)}
    assert len(asked) > 50
    assert {key for key in asked if f"sideStream.{key}" not in there} == set()
