"""What README, CONTRIBUTING, CHANGELOG, docs/ and the help pages say is so.

Commands, links, pictures, numbers, versions: each check is a function that lists what is
wrong with a text, and is tried on texts that are wrong.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import inspect
import itertools
import json
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from sidestream.benchmarks import report
from sidestream.preview import decoder_files
from sidestream.tests.helpers import decoder_cells
from sidestream.tools import check, cli
from sidestream.tools.host import TREE_VERSION

REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
ARCHITECTURE = REPO / "docs" / "architecture.md"
HELP = REPO / "web" / "docs"
PLACES = ("*.md", "docs/*.md", "web/docs/**/*.md")
DOCUMENTS = sorted(path for place in PLACES for path in REPO.glob(place))
every_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: path.relative_to(REPO).as_posix()
)


def folder_of(path: Path) -> Path:
    """Where a document's links start. ComfyUI shows help pages as if all lay in one folder."""
    return HELP if path.is_relative_to(HELP) else path.parent


def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def without_code(text: str) -> str:
    """A document's prose: no fenced blocks, no inline code."""
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def stated(file: str, pattern: str) -> str:
    """What the first match of `pattern` in a file of the repository says."""
    found = re.search(pattern, text_of(REPO / file), re.MULTILINE)
    assert found is not None, f"{file} does not have {pattern}"
    return found[1]


HOME = stated("pyproject.toml", r'^Repository = "(.+)"')


# Links and pictures


def targets(text: str) -> Iterator[str]:
    """Where the links and pictures of a document lead."""
    prose = without_code(text)
    yield from re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose)
    yield from re.findall(r"^\[[^\]]+\]:\s*(\S+)", prose, re.MULTILINE)
    yield from re.findall(r"(?:src|href|srcset)=\"([^\"]+)\"", prose)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    made: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in made:
            number += 1
        made.add(unique)
    return made


def file_of(path: Path, link: str) -> Path | None:
    """The file of the repository that a document's link is for; None for another site's."""
    own = re.fullmatch(rf"{HOME}/(?:blob|tree|raw)/main/(.+)", link)
    if own is None and re.match(r"[a-z]+:", link):
        return None
    return (REPO / own[1] if own else folder_of(path) / unquote(link) if link else path).resolve()


def broken_links(path: Path, text: str) -> list[str]:
    """Links that lead nowhere in the repository."""
    return [target for target in targets(text) if not _leads_somewhere(path, text, target)]


def _leads_somewhere(path: Path, text: str, target: str) -> bool:
    link, _, anchor = target.partition("#")
    there = file_of(path, link)
    if there is None:
        return True
    if not there.is_relative_to(REPO) or not there.exists():
        return False
    return not anchor or anchor in anchors(text if there == path else text_of(there))


def broken_pictures(path: Path, text: str) -> list[str]:
    """Pictures in the repository that cannot be opened."""
    endings = (".png", ".jpg", ".webp", ".gif", ".svg")
    pictures = [target for target in targets(text) if target.lower().endswith(endings)]
    return [name for name in pictures if (file := file_of(path, name)) and not _opens(file)]


def _opens(picture: Path) -> bool:
    from PIL import Image

    try:
        if picture.suffix == ".svg":
            return ElementTree.parse(picture).getroot().tag.endswith("svg")
        with Image.open(picture) as opened:
            for frame in range(getattr(opened, "n_frames", 1)):
                opened.seek(frame)
                opened.load()
        return True
    except (OSError, SyntaxError):  # PIL has both for damaged files, ElementTree the second
        return False


def test_links_are_found_and_broken_ones_noticed():
    text = "# One two!\n[a](docs/benchmarks.md) [b](docs/none.md) [c](#one-two) [d](#three)\n"
    text += '`[code](none.md)` <img src="none.png">\n[e]: ../outside.md\n[f](README.md#no-such)\n'
    text += f"[g]({HOME}/blob/main/none) [h](https://example.org/x)\n"
    found = broken_links(README, text)
    gone = ["docs/none.md", "#three", "README.md#no-such", f"{HOME}/blob/main/none"]
    assert found == [*gone, "../outside.md", "none.png"]


def test_damaged_pictures_are_noticed(tmp_path):
    (tmp_path / "a.png").write_bytes((REPO / "docs/images/node.png").read_bytes()[:5000])
    (tmp_path / "b.svg").write_text("<svg")
    (tmp_path / "c.svg").write_bytes((REPO / "docs/images/icon.svg").read_bytes())
    gone = f"{HOME}/raw/main/none.png"
    text = f"![](a.png) ![](b.svg) ![](c.svg) ![](d.webp) ![]({gone})"
    assert broken_pictures(tmp_path / "x.md", text) == ["a.png", "b.svg", "d.webp", gone]


@every_document
def test_links_and_pictures_are_there(path):
    text = text_of(path)
    assert broken_links(path, text) == []
    assert broken_pictures(path, text) == []


@pytest.mark.parametrize("path", [README, REPO / "CHANGELOG.md"], ids=lambda path: path.name)
def test_links_of_what_is_published_lead_there_from_everywhere(path):
    """The registry's page, and an installed folder, have no other files of the repository."""
    assert [link for link in targets(text_of(path)) if not link.startswith("https://")] == []


# Commands


KNOWN = ("python", "git", "comfy", "pre-commit", "pip", "npm")
BENCHMARKS = {"bench": "benchmarks", "bench-server": "benchmarks.server"}


def commands(text: str) -> Iterator[str]:
    """The lines of fenced blocks that are commands, and the commands in inline code."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        yield from (line for line in block.splitlines() if _program(line) in KNOWN)
    inline = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for code in re.findall(r"`([^`\n]+)`", inline):
        if _program(code) in KNOWN and " " in code:
            yield code


def _words(line: str) -> list[str]:
    """The command's words without the variables before it, and without a comment after it."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words


def _program(line: str) -> str:
    try:
        words = _words(line)
    except ValueError:  # no command: an unpaired quote
        return ""
    return words[0] if words else ""


def wrong_commands(text: str) -> list[str]:
    """Commands that the program they are for would refuse."""
    return [line for line in commands(text) if not _is_right(_words(line))]


def _is_right(words: list[str]) -> bool:
    match words:
        case ["python", "dev.py", *arguments]:
            return _dev_takes(arguments)
        case ["python", "-m", module, *arguments]:
            return _module_takes(module, arguments)
        case ["git", "clone", url, *folder]:
            return url in (HOME, f"{HOME}.git") and len(folder) <= 1
        case ["comfy", "node", "install", name]:
            return name == stated("pyproject.toml", r'^name = "(.+)"')
    return words in (["pre-commit", "install"], ["comfy", "node", "validate"])


def _dev_takes(arguments: list[str]) -> bool:
    try:
        options, rest = cli._parse(arguments)
    except SystemExit:
        return False
    rest = [word for word in rest if not word.isupper()]  # such as NAME stand for something
    if options.command == "check":
        return {*rest} <= {stage.name for stage in check.STATIC_STAGES}
    if options.command in BENCHMARKS:
        return _module_takes(BENCHMARKS[options.command], rest)
    if options.command == "test":
        return _pytest_takes(rest)
    return True


def _pytest_takes(arguments: list[str]) -> bool:
    words = iter(arguments)
    for word in words:
        if word.startswith("-"):
            if word.split("=")[0] not in _pytests_options():
                return False
            if word in ("-k", "-m"):
                next(words, None)
        elif not _is_a_test(word):
            return False
    return True


@functools.cache
def _pytests_options() -> frozenset[str]:
    shown = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, cwd=REPO
    )
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][\w-]*", shown.stdout))


def _is_a_test(name: str) -> bool:
    """Whether `tests/test_x.py::test_y`, or a file or folder, is there."""
    path, _, test = name.partition("::")
    return (REPO / path).exists() and (not test or test in _tests_in(REPO / path))


@functools.cache
def _tests_in(path: Path) -> frozenset[str]:
    tree = ast.parse(text_of(path))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


class _Parser(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _module_takes(name: str, arguments: list[str]) -> bool:
    """Whether `python -m NAME` takes these: asked of its own parser, and nothing is run."""
    file = REPO / (name.replace(".", "/") + ".py")
    package = REPO / name.replace(".", "/") / "__main__.py"
    if not file.exists() and not package.exists():
        return False
    text = text_of(file if file.exists() else package)
    if "ArgumentParser" not in text and "program.run(" not in text:
        return not arguments
    module = importlib.import_module(f"sidestream.{name}" + ("" if file.exists() else ".__main__"))

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _Parser(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setenv("COMFYUI_PATH", str(REPO))  # or an option would be asked for
        with pytest.raises(_Parser) as caught:
            module.main(*[arguments] * len(inspect.signature(module.main).parameters))
    try:
        caught.value.parser.parse_args(arguments)
    except SystemExit:
        return False
    return True


@pytest.mark.parametrize(
    "line",
    [
        "python dev.py demos",
        "python dev.py demo --loud",
        "python dev.py check ruf",
        "python dev.py test tests/test_none.py",
        "python dev.py test tests/test_animated_webp.py::test_none",
        "python dev.py test tests --no-such-option",
        "python dev.py bench -- --case sd99",
        "python dev.py bench-server -- extraordinary",
        "python -m benchmarks --no-such-option 3",
        "python -m benchmarks.none",
        "python -m benchmarks.stages --case sdxl",
        "python -m benchmarks.report --all",
        "git clone https://github.com/someone/else",
        "comfy node install somethingelse",
        "pip install sidestream",
    ],
)
def test_wrong_commands_are_noticed(line, capsys):
    assert wrong_commands(f"```\n$ no command\n{line}\n```\n") == [line]
    assert wrong_commands(f"Run `{line}`.") == [line]


def test_right_commands_pass():
    lines = (
        "COMFYUI_PATH=/path/to/ComfyUI python dev.py test tests/test_animated_webp.py  # a comment",
        "python dev.py check NAME",
        "python dev.py bench -- --case sdxl --repetitions 3",
        "python dev.py bench-server -- ordinary blocks --unet sd15",
        "python dev.py test tests/test_animated_webp.py -k parts --cov",
    )
    text = "```\n" + "\n".join(lines) + "\n```\n"
    assert [*commands(text)] == [*lines]
    assert wrong_commands(text) == []


@every_document
def test_commands_are_taken_by_what_they_are_for(path, capsys):
    assert wrong_commands(text_of(path)) == []


# Files and tests that are named


TOP = "preview|nodes|tools|tests|benchmarks|docs|web|locales|example_workflows"
TEST_NAME = r"`((?:gpu/|web/)?test_\w+\.py::test_\w+)`"


def missing_files(text: str) -> list[str]:
    """Files of the repository that inline code names and that are not there."""
    named = re.findall(rf"`((?:{TOP})/[\w./-]*)`", text)
    return [name for name in named if not (REPO / name).exists()]


def missing_tests(text: str) -> list[str]:
    """Tests that inline code names and that are not there."""
    return [name for name in re.findall(TEST_NAME, text) if not _is_a_test(f"tests/{name}")]


def unguarded(text: str) -> list[int]:
    """Invariants without a paragraph that names a test."""
    paragraphs = text.split("\n\n")
    guarded = [p for p in paragraphs if p.startswith("**I") and re.search(TEST_NAME, p)]
    return [n for n in range(1, 15) if not any(p.startswith(f"**I{n} ") for p in guarded)]


def described(text: str) -> set[str]:
    """The modules and packages that the table of modules has a row for."""
    return set(re.findall(r"^\| `([\w./]+)` \|", text, re.MULTILINE))


def unproven(text: str) -> list[str]:
    """Rows of the comparison that have no test of SideStream's, or no source of the others'."""
    cells = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    rows = [row[0] for row in cells if len(row) == 6 and row[0] != "|"]
    proofs = {row[0]: " ".join(row[1:]) for row in cells if len(row) == 3}
    return [
        name.removeprefix("| ")
        for name in rows
        if not re.search(rf"\]\[\w+\].*{TEST_NAME}", proofs.get(name, ""))
    ]


def stages(text: str) -> list[tuple[str, str]]:
    """The functions, with their files, that the numbered list of a frame's path names."""
    return re.findall(r"^\d+\. `([\w.]+)` in `(preview/[\w/]+\.py)`", text, re.MULTILINE)


def has_function(path: Path, name: str) -> bool:
    """Whether a module has the function `f`, or the method `C.m`."""
    *owner, function = name.split(".")
    nodes: list[ast.stmt] = ast.parse(text_of(path)).body
    if owner:
        classes = [n for n in nodes if isinstance(n, ast.ClassDef) and n.name == owner[0]]
        nodes = [node for found in classes for node in found.body]
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(node, functions) and node.name == function for node in nodes)


def test_what_is_missing_is_noticed():
    assert missing_files("`preview/none.py`, `preview/pack.py`, `tests/`") == ["preview/none.py"]
    gone = ["test_animated_webp.py::test_none", "gpu/test_none.py::test_a"]
    there = "test_animated_webp.py::test_what_is_no_picture_is_refused"
    assert missing_tests("".join(f"`{name}`" for name in [*gone, there])) == gone
    assert unguarded(text_of(ARCHITECTURE).replace("**I7 ", "**J7 ")) == [7]
    assert stages("1. `A.b` in `preview/c/d.py`: x\n2. none\n") == [("A.b", "preview/c/d.py")]
    worker = REPO / "preview" / "render" / "worker.py"
    names = ("Engine.publish", "drop", "Engine.drop", "publish")
    assert [has_function(worker, name) for name in names] == [True, True, False, False]


@every_document
def test_files_and_tests_that_are_named_are_there(path):
    assert missing_files(text_of(path)) == []
    assert missing_tests(text_of(path)) == []


def test_every_row_of_the_comparison_has_a_source_and_a_test():
    text = text_of(REPO / "docs" / "other-packs.md")
    assert unproven(text) == []
    start, _, end = text.rpartition("| plays videos |")
    assert unproven(f"{start}| plays none |{end}") == ["plays videos"]
    name = "test_guides.py::test_what_is_shown_is_what_comfyuis_nodes_leave"
    [row] = [line[2:].split(" | ")[0] for line in text.splitlines() if name in line]
    assert unproven(text.replace(f"`{name}`", "none")) == [row]


def test_a_frames_path_is_ten_functions_at_most_that_are_there():
    path = stages(text_of(ARCHITECTURE))
    assert 5 <= len(path) <= 10
    missing = [(name, file) for name, file in path if not has_function(REPO / file, name)]
    assert missing == []


def test_every_promise_names_a_test_and_every_module_is_described():
    text = text_of(ARCHITECTURE)
    assert unguarded(text) == []
    modules = {f"preview/{p.name}" for p in (REPO / "preview").glob("*.py")}
    folders = {f"preview/{p.parent.name}/" for p in (REPO / "preview").glob("*/__init__.py")}
    assert (modules | folders) - described(text) == {"preview/__init__.py"}
    inner = {p.name for p in (REPO / "preview").glob("*/**/[!_]*.py")}
    assert {name for name in inner if f"`{name}`" not in text} == set()


# The API


def sent_keys(source: str) -> set[str]:
    """The keys of all dictionaries that a module makes."""
    nodes = [*ast.walk(ast.parse(source))]
    keys = [key for node in nodes if isinstance(node, ast.Dict) for key in node.keys]
    keys += [node.slice for node in nodes if isinstance(node, ast.Subscript)]
    return {k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}


def offered_routes(source: str) -> set[str]:
    """The addresses that `routes.py` answers."""
    found = re.findall(r'"/sidestream/(\w+)', source)
    return {*found, *re.findall(r'add_change\(\s*"(\w+)"', source)}


def unnamed(text: str) -> set[str]:
    """Routes, and keys of messages, that the API's page does not name."""
    messages, routes = (text_of(REPO / f"preview/deliver/{n}.py") for n in ("messages", "routes"))
    addresses = {f"/sidestream/{name}" for name in offered_routes(routes)}
    keys = sent_keys(messages) - {"image/jpeg", "image/png"}
    lacking = {key for key in keys if not re.search(rf"`{key}`", text)}
    return lacking | {route for route in addresses if f" {route}" not in text}


def test_the_apis_page_names_all_routes_and_all_that_messages_hold():
    text = text_of(REPO / "docs" / "api.md")
    assert unnamed(text) == set()
    assert len(unnamed("")) > 50
    changed = text.replace("`sigma`", "").replace("POST /sidestream/pause", "")
    assert unnamed(changed) == {"sigma", "/sidestream/pause"}


# Numbers


def unsaved_numbers(text: str) -> list[str]:
    """Per cent and milliseconds in prose that no saved result rounds to."""
    tables = r"^\|[^\n]*$|<!-- table .*?<!-- end -->"
    prose = re.sub(tables, "", without_code(text), flags=re.M | re.S)
    known = saved_numbers()
    found = re.findall(r"(?<![±\d.])(\d+(?:\.\d+)?)(?: to (\d+(?:\.\d+)?))? (%|ms)", prose)
    claims = [(number, unit) for low, high, unit in found for number in (low, high) if number]
    return [f"{number} {unit}" for number, unit in claims if (number, unit) not in known]


@functools.cache
def saved_numbers() -> set[tuple[str, str]]:
    """All that saved results can be rounded to, with the unit."""
    known = set()
    for path in report.RESULTS.glob("*.json"):
        result = json.loads(text_of(path))
        for seconds in itertools.chain(*result.get("seconds", {}).values()):
            step = seconds / result["steps"] * 1000
            known |= {(rounded, "ms") for rounded in _roundings(step, 2)}
        for row in rows_in(result):
            for key, value in row.items():
                if not isinstance(value, (int, float)):
                    continue
                if key.startswith(("ratio", "median_ratio")):
                    known |= {(rounded, "%") for rounded in _roundings((value - 1) * 100, 1)}
                elif key.endswith("percent"):
                    known |= {(rounded, "%") for rounded in _roundings(value, 1)}
                elif "ms" in key:
                    known |= {(rounded, "ms") for rounded in _roundings(value, 2)}
    return known


def rows_in(result: object) -> Iterator[dict[str, object]]:
    """The rows of a result's tables, however deep they lie."""
    if isinstance(result, dict):
        yield from result.get("rows", ())
        for value in result.values():
            yield from rows_in(value)


def _roundings(value: float, decimals: int) -> Iterable[str]:
    return (f"{value:.{digits}f}" for digits in range(decimals + 1))


def test_changed_numbers_are_noticed():
    for path, number in ((README, "every step add "), (REPO / "docs" / "benchmarks.md", "| 1.2")):
        text, changed = text_of(path), text_of(path).replace(number, f"{number}9")
        assert report.filled(changed) == report.filled(text) != changed
    saved = report.load("sdxl")["rows"][2]["ratio_median"]
    assert unsaved_numbers(f"It costs {(saved - 1) * 100:.1f} % and 98.76 to 98.77 ms.") == [
        "98.76 ms",
        "98.77 ms",
    ]


def test_a_result_of_the_real_server_becomes_a_table(tmp_path, monkeypatch):
    row = {"provider": "SideStream, defaults", "ratio": 1.0042, "ratio_95": [0.9981, 1.0099]}
    result = {"blocks": {"unets": {"sd15": {"rows": [row]}}}}
    (tmp_path / "server-mine.json").write_text(json.dumps(result))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    made = report.filled("<!-- table costs server-mine -->\n<!-- end -->")
    assert "| SD1.5 512², batch 1 | – | – | – | 1.004 [0.998, 1.010] |" in made
    saved_numbers.cache_clear()
    assert unsaved_numbers("It costs 0.4 %, not 0.5 %.") == ["0.5 %"]
    saved_numbers.cache_clear()


@pytest.mark.parametrize("path", report.DOCUMENTS, ids=lambda path: path.name)
def test_tables_are_what_the_saved_results_give(path):
    text = text_of(path)
    assert text == report.filled(text)
    assert unsaved_numbers(text) == []


# Decoder files


def wrong_decoders(text: str) -> list[str]:
    """What is named as a decoder file and is none, and decoder files that are not named."""
    shape = r"`((?:light)?tae\w+)`"
    return sorted(set(re.findall(shape, text)) ^ set(decoder_files.names()))


def test_changed_decoder_files_are_noticed():
    text = " ".join(f"`{name}`" for name in decoder_files.names())
    assert wrong_decoders(text) == []
    assert wrong_decoders(text.replace("taef2_", "taef3_")) == ["taef2_decoder", "taef3_decoder"]
    assert wrong_decoders(text.replace("`lighttaew2_1` ", "")) == ["lighttaew2_1"]


def test_the_readmes_decoder_files_are_those_of_the_pack():
    text = text_of(README)
    assert wrong_decoders(text) == []
    for kind in decoder_files.KINDS:
        assert f"| {kind.models} | {decoder_cells(kind)} |" in text


# Versions


VERSIONS = (
    (r"Python (3\.\d+) or newer", "pyproject.toml", r'^requires-python = ">=(.+)"'),
    (r"ComfyUI (\S+) or newer", "pyproject.toml", r'^requires-comfyui = ">=(.+)"'),
    (r"(?s)ComfyUI (\S+) is the oldest", "pyproject.toml", r'^requires-comfyui = ">=(.+)"'),
    (r"Tested against ComfyUI (\d+(?:\.\d+)+)", "tools/host.py", r'^TREE_VERSION = "(.+)"'),
    (r"SideStream (\d+\.\d+\.\d+)", "pyproject.toml", r'^version = "(.+)"'),
)


def wrong_versions(text: str) -> list[str]:
    """Versions that another file states otherwise."""
    prose = " ".join(text.split())
    return [
        found[0]
        for pattern, file, place in VERSIONS
        for found in re.finditer(pattern, prose)
        if found[1].rstrip(".,;)") != stated(file, place).rstrip(".,;|) ")
    ]


def test_changed_versions_are_noticed():
    right = f"Python 3.10 or newer. Tested against ComfyUI {TREE_VERSION}."
    assert wrong_versions(right) == []
    assert wrong_versions(right.replace("3.10", "3.9")) == ["Python 3.9 or newer"]
    assert wrong_versions(right.replace(TREE_VERSION, "9.9")) == ["Tested against ComfyUI 9.9"]


@every_document
def test_versions_agree(path):
    assert wrong_versions(text_of(path)) == []


# Whose machine it was written on


PRIVATE = (
    r"(?<![\w.])/(?:home|Users|root|work|tmp|mnt|workspace)/[\w.-]+",
    r"[A-Za-z]:\\+\w+",
    r"\b(?!127\.0\.0\.1\b)(?:10|127|172|192)\.\d+\.\d+\.\d+\b",
    r"\b[\w-]+\.(?:internal|lan|localdomain)\b",
)


def private_words(text: str) -> list[str]:
    """Folders and names of somebody's machine."""
    host = socket.gethostname()
    own = [rf"\b{re.escape(host)}\b"] if len(host) > 3 and host != "localhost" else []
    return [found[0] for pattern in (*PRIVATE, *own) for found in re.finditer(pattern, text)]


def test_private_words_are_noticed():
    text = "/home/me/x C:\\Users 192.168.0.1 box.internal 127.0.0.1 /path/to/ComfyUI preview/tmp/a"
    assert private_words(text) == ["/home/me", "C:\\Users", "192.168.0.1", "box.internal"]


@every_document
def test_nobodys_machine_is_named(path):
    assert private_words(text_of(path)) == []
