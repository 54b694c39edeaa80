"""The translations are complete, and in their languages: no page or browser needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[2]
LOCALES = REPO / "locales"
FILES = ("main", "settings", "commands", "nodeDefs")
LANGUAGES = sorted({folder.name for folder in LOCALES.iterdir()} - {"en"})
RIGHT_TO_LEFT = ("ar", "fa", "he")

each_language = pytest.mark.parametrize("language", LANGUAGES)

NAMES = r"<\w+>|SideStream|VAE|CFG|MODEL|CPU|JPEG|WebP|PNG|Sigma|it/s|\bs\b"
"""What has no translation: values, names, and units that are the same in Latin letters."""

SAME_AS_ENGLISH: dict[str, set[str]] = {
    "de": {"Animation", "Batch", "Details", "Format", "Live", "Rate"},
    "es": {"Panel"},
    "fr": {"Animation", "Format", "Pause", "auto", "images"},
    "it": {"Batch", "demo"},
    "tr": {"Panel", "model"},
}
"""Words that a language has in common with English."""

LETTERS = {
    "ar": "[ء-ي]",
    "fa": "[آ-ی]",
    "he": "[א-ת]",
    "ja": "[ぁ-ヿ一-鿿]",
    "ko": "[가-힣]",
    "ru": "[а-яё]",
    "zh": "[一-鿿]",
    "zh-TW": "[一-鿿]",
}
"""What each text of these languages has at least one of."""

FOREIGN_LETTERS = {
    "ar": "[پچژگکی]",
    "fa": "[يك]",
    "zh": "[樣設覽圖為時間無開關編執這個過進動運還發選擇請連續節單將數據隊輸錯誤幀標籤頁顯線頻級終實]",
    "zh-TW": "[样设览图为时间无开关编执这个过进动运还发选择请连续节单将数据队输错误帧标签页显线频级终实]",
}
"""Letters of the neighbouring language in the same script."""


def texts(language: str, name: str) -> dict[str, str]:
    """All texts of one file by their path."""
    return dict(_flat(json.loads((LOCALES / language / f"{name}.json").read_text("utf-8"))))


def _flat(tree: dict[str, Any], path: str = "") -> list[tuple[str, str]]:
    found = []
    for key, value in tree.items():
        found += _flat(value, f"{path}{key}.") if isinstance(value, dict) else [(path + key, value)]
    return found


def with_words(language: str) -> dict[str, str]:
    """The texts that have words to translate, and are not the same in English."""
    everything = {f"{name}:{path}": text for name in FILES for path, text in texts(language, name).items()}
    same = SAME_AS_ENGLISH.get(language, set())
    return {
        path: text
        for path, text in everything.items()
        if re.sub(r" \((ms|px|%|fps|MB)\)$", "", text) not in same
        and re.search(r"[^\W\d_]", re.sub(NAMES, "", text))
    }


@pytest.mark.parametrize("name", FILES)
@each_language
def test_every_language_has_the_same_texts(language: str, name: str) -> None:
    english, other = texts("en", name), texts(language, name)
    assert list(other) == list(english)
    assert all(text.strip() for text in other.values())
    for path, text in english.items():
        assert sorted(re.findall(r"<\w+>", other[path])) == sorted(re.findall(r"<\w+>", text)), path


@each_language
def test_no_text_is_english_by_accident(language: str) -> None:
    english = with_words("en")
    translated = with_words(language)
    assert {path: text for path, text in translated.items() if text == english.get(path)} == {}
    words = re.compile(r"\b(the|(?<!<)of|and|with|this|are|its)\b", re.IGNORECASE)  # not <of>
    assert {path: text for path, text in translated.items() if words.search(text)} == {}
    letters = re.compile(LETTERS.get(language, "[A-Za-z]"))
    assert {path: text for path, text in translated.items() if not letters.search(text)} == {}
    if foreign := FOREIGN_LETTERS.get(language):
        assert {path: text for path, text in translated.items() if re.search(foreign, text)} == {}


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_a_setting_that_a_text_names_is_named_as_on_the_node(language: str) -> None:
    share = texts(language, "nodeDefs")["SideStreamPreview.inputs.budget.name"]
    main = texts(language, "main")
    for text in ("notices.slow", "stats.shareTooltip"):
        assert share in main[f"sideStream.{text}"]


def test_words_that_are_the_same_in_english_are_still_in_use() -> None:
    for language, same in SAME_AS_ENGLISH.items():
        everything = {text for name in FILES for text in texts(language, name).values()}
        assert same - everything == set(), language


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_comfyui_reads_no_text_as_a_pattern(language: str) -> None:
    """Its page takes these for a value, a plural or a link."""
    for name in FILES:
        assert {text for text in texts(language, name).values() if re.search(r"[{}@|]", text)} == set()


@pytest.mark.parametrize("language", RIGHT_TO_LEFT)
def test_texts_from_right_to_left_keep_their_order_where_the_page_runs_from_left_to_right(language: str) -> None:
    """Sentences say their direction themselves; labels have nothing foreign in their midst."""
    for name in ("settings", "commands", "nodeDefs"):
        for path, text in texts(language, name).items():
            if path.endswith(("tooltip", "description")):
                assert re.fullmatch("\u2067[^\u2067\n]+\u2069", text), path
            else:
                assert not re.search(r"[A-Za-z\d].*[֐-ۿ]", text), path
    for path, text in texts(language, "main").items():
        opened, closed = len(re.findall("[\u2066-\u2068]", text)), text.count("\u2069")
        assert opened == closed, path


def test_the_page_asks_only_for_texts_that_are_there() -> None:
    there = texts("en", "main")
    sources = [path.read_text("utf-8") for path in (REPO / "web").rglob("*.js")]
    asked = {key for source in sources for key in re.findall(r"""\bt\(\s*["']([\w.]+)["']""", source)}
    assert len(asked) > 50
    assert {key for key in asked if f"sideStream.{key}" not in there} == set()


def test_the_page_knows_which_languages_run_from_right_to_left() -> None:
    [source] = (REPO / "web").rglob("texts.js")
    [told] = re.findall(r"RIGHT_TO_LEFT = (\[.+\]);", source.read_text("utf-8"))
    assert tuple(json.loads(told)) == RIGHT_TO_LEFT
