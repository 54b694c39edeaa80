"""The help pages of the nodes: where ComfyUI's page asks for them, whole, and up to date."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from sidestream.preview import decoder_files
from sidestream.tests.helpers import decoder_cells
from sidestream.tools.places import PACK_NAME, REPO

if TYPE_CHECKING:
    from sidestream.tests.conftest import HostFactory
    from sidestream.tools.comfy_client import ComfyClient

NODES = ("SideStreamPreview", "SideStreamFrames", "SideStreamDemoModel")
LANGUAGES = sorted(folder.name for folder in (REPO / "locales").iterdir())
FOLDER = REPO / "web" / "docs"

each_page = pytest.mark.parametrize("language", LANGUAGES)
each_node = pytest.mark.parametrize("node", NODES)


def page(node: str, language: str) -> str:
    """The text. English is what the page falls back to, for all languages that have no own one."""
    name = f"{node}.md" if language == "en" else f"{node}/{language}.md"
    return (FOLDER / name).read_text("utf-8")


def labels(node: str, language: str) -> dict[str, Any]:
    texts = json.loads((REPO / "locales" / language / "nodeDefs.json").read_text("utf-8"))
    return texts[node]  # type: ignore[no-any-return]


def stated(text: str) -> dict[str, tuple[str, str, str]]:
    """For each setting its label, its range and its default."""
    found = re.findall(r"\*\*([^*]+)\*\* \(`(\w+)`: ([^;)]+); ([^)]+)\)", text)
    return {name: (label, values, default) for label, name, values, default in found}


@each_page
@each_node
def test_the_page_is_there_where_comfyui_asks_for_it(
    comfy_host: HostFactory, connect: Callable[..., ComfyClient], node: str, language: str
) -> None:
    """It asks for NODE/LANGUAGE.md, then for NODE.md, and takes no answer that is HTML."""
    client = connect(comfy_host())
    docs = f"/extensions/{PACK_NAME}/docs"
    name = node if language == "en" else f"{node}/{language}"
    assert client.get_bytes(f"{docs}/{name}.md").decode() == page(node, language)
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", page(node, language))
    assert pictures
    for picture in pictures:
        # The page puts this folder before the address, whatever the language's file is.
        assert client.get_bytes(f"{docs}/{picture}") == (FOLDER / picture).read_bytes()


@each_page
def test_every_widget_of_the_demo_model_is_on_its_page(
    comfy_host: HostFactory, connect: Callable[..., ComfyClient], language: str
) -> None:
    info = connect(comfy_host()).get("/object_info/SideStreamDemoModel")["SideStreamDemoModel"]
    told = stated(page("SideStreamDemoModel", language))
    names = labels("SideStreamDemoModel", language)
    assert set(told) == set(info["input"]["required"])
    for name, (_, options) in info["input"]["required"].items():
        label, values, default = told[name]
        assert label == names["inputs"][name]["name"]
        assert default == str(options["default"])
        if "options" in options:
            assert values == ", ".join(options["options"])
        else:
            assert values == f"{options['min']:g}–{options['max']:g}"


@each_page
@each_node
def test_it_has_the_nodes_name_and_every_input(node: str, language: str) -> None:
    text, names = page(node, language), labels(node, language)
    assert text.startswith(f"# {names['display_name']}\n")
    for name, words in names["inputs"].items():
        assert f"**{words['name']}**" in text, name


@each_page
def test_every_decoder_file_is_in_its_table(language: str) -> None:
    rows = re.findall(r"^\| [^|]+ \| (`.+) \|$", page("SideStreamPreview", language), re.MULTILINE)
    assert rows == [decoder_cells(kind) for kind in decoder_files.KINDS]


@each_node
def test_the_nodes_english_is_that_of_its_translations(
    comfy_host: HostFactory, connect: Callable[..., ComfyClient], node: str
) -> None:
    info = connect(comfy_host()).get(f"/object_info/{node}")[node]
    texts = labels(node, "en")
    assert (texts["display_name"], texts["description"]) == (
        info["display_name"],
        info["description"],
    )
    inputs = info["input"]["required"] | info["input"].get("optional", {})
    assert {name: words["tooltip"] for name, words in texts["inputs"].items()} == {
        name: options["tooltip"] for name, (_, options) in inputs.items()
    }


def test_pages_and_pictures_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 300_000


@each_page
@each_node
def test_the_languages_say_as_much(node: str, language: str) -> None:
    def shape(text: str) -> list[str]:
        lines = [line for line in text.splitlines() if line and not line.startswith("<")]
        return [re.match(r"#*|- | {2}- |\||!", line)[0] for line in lines]  # type: ignore[index]

    assert shape(page(node, language)) == shape(page(node, "en"))


@each_page
@each_node
def test_pages_from_right_to_left_say_so(node: str, language: str) -> None:
    """ComfyUI shows a page from left to right in every language."""
    _, _, body = page(node, language).partition("\n\n")
    is_rtl = body.startswith('<div dir="rtl">\n\n') and body.endswith("\n\n</div>\n")
    assert is_rtl == (language in ("ar", "fa", "he"))
