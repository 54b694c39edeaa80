"""What the Comfy Registry publishes: one version, small, with names for every system, and it runs
in a ComfyUI as it is."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from pathspec import PathSpec
from sidestream.tests.conftest import missing
from sidestream.tests.graphs import demo_graph
from sidestream.tools import server
from sidestream.tools.comfy_client import ComfyClient
from sidestream.tools.environment import Environment, SetupError
from sidestream.tools.places import cache_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPO = Path(__file__).resolve().parent.parent
MEGABYTE = 1_000_000

# What Windows allows for a path, less a long folder for ComfyUI's custom_nodes and the pack's own.
LONGEST_NAME = 260 - 120
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

CHECKERS = {
    "comfy-test": ("comfy_test", "lint", "--strict"),
    # It calls suspicious whoever imports ctypes or writes long docstrings; malicious is an error.
    "nodesafe": ("nodesafe.cli", "scan", "--fail-on", "malicious"),
}


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """The files of the next commit."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.check_output(command, cwd=REPO, text=True).split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return sorted({name for name in listed if (REPO / name).is_file()})


@pytest.fixture(scope="module")
def archive(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip as `comfy node pack` makes it: git's files but for those that .comfyignore names."""
    lines = (REPO / ".comfyignore").read_text("utf-8").splitlines()
    left_out = PathSpec.from_lines("gitignore", lines)
    path = tmp_path_factory.mktemp("package") / "node.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in tracked:
            if not left_out.match_file(name):
                file.write(REPO / name, name)
    return path


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive's content, in a folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(archive).extractall(folder)
    return folder


@pytest.fixture(scope="module")
def python_of_checkers() -> Path:
    """The Python of an environment of their own: they bring forty packages."""
    version = "{}.{}".format(*sys.version_info)
    environment = Environment(cache_folder() / f"env-checkers-python{version}")
    try:
        environment.create(Path(sys.executable))
        pins = (REPO / "tests" / "checkers.txt").read_text("utf-8").split()
        environment.install("checkers", pins)
    except SetupError as error:
        missing(f"the checkers could not be installed: {error}")
    return environment.python


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))


def stated(file: str, pattern: str) -> str:
    """What the first match of `pattern` in a file of the repository says."""
    found = re.search(pattern, (REPO / file).read_text("utf-8"), re.MULTILINE)
    assert found is not None, f"{file} does not have {pattern}"
    return found[1]


def test_every_file_that_states_the_version_states_the_same(project):
    version = project["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)  # the registry takes no other
    assert stated("preview/pack.py", r'^VERSION = "(.+)"$') == version
    assert stated("CHANGELOG.md", r"^## \[(\d.*?)\]") == version


def test_the_pythons_that_are_stated_are_those_that_ci_runs(project):
    workflow = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text("utf-8"))
    runs = {entry["python"] for entry in workflow["jobs"]["units"]["strategy"]["matrix"]["include"]}
    prefix = "Programming Language :: Python :: "
    classifiers = project["project"]["classifiers"]
    assert {c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)} == runs
    oldest = min(runs, key=lambda version: int(version.split(".")[1]))
    assert project["project"]["requires-python"] == f">={oldest}"


def test_what_ci_runs_without_comfyui_needs_none():
    """There, a test for which ComfyUI is missing fails."""
    workflow = yaml.safe_load((REPO / ".github/workflows/ci.yml").read_text("utf-8"))
    (run,) = [step["run"] for step in workflow["jobs"]["units"]["steps"] if "pytest" in str(step)]
    names = re.findall(r"tests/test_\w+\.py", run)
    assert len(names) > 3
    of_comfyui = r"def (test_\w+)\([^)]*\b(?:comfy\w*|host|stage|\w*pack)\b"
    text = "".join((REPO / name).read_text("utf-8") for name in names)
    assert re.findall(of_comfyui, text) == []


def test_comfyui_and_the_registry_understand_the_metadata(project, comfy):
    read = comfy("comfy_config.config_parser").extract_node_configuration(str(REPO))
    assert read.project.name == project["project"]["name"]
    assert read.project.urls.repository.startswith("https://")
    assert read.tool_comfy.publisher_id
    assert read.project.supported_os == ["OS Independent"]
    # ComfyUI warns all whose device is not among those that are named; CPUs cannot be named.
    classifiers = project["project"]["classifiers"]
    assert not [c for c in classifiers if c.startswith("Environment :: ")]
    assert read.project.supported_comfyui_version


@pytest.mark.parametrize(
    ("key", "ratio", "largest"), [("Icon", 1, 400), ("Banner", 21 / 9, 10_000)]
)
def test_the_registrys_pictures_have_its_shapes(project, tracked, key, ratio, largest):
    repository = project["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    url = project["tool"]["comfy"][key]
    raw = f"https://raw.githubusercontent.com/{repository}/main/"
    assert url.startswith(raw)
    name = url.removeprefix(raw)
    assert name in tracked
    picture = ElementTree.parse(REPO / name).getroot()
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    assert width / height == pytest.approx(ratio)
    assert max(width, height) <= largest


def test_the_archive_is_small_and_asks_for_nothing(archive, project):
    assert archive.stat().st_size < MEGABYTE
    assert project["project"]["dependencies"] == []
    # Nothing to develop with; no requirements.txt or install.py, which ComfyUI-Manager would run.
    assert {PurePosixPath(name).parts[0] for name in zipfile.ZipFile(archive).namelist()} == {
        *("__init__.py", "nodes", "preview", "web", "locales", "example_workflows"),
        *("pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md"),
    }


@pytest.mark.parametrize("checker", CHECKERS)
def test_strangers_checkers_find_no_error_in_the_archive(unpacked, python_of_checkers, checker):
    command = [python_of_checkers, "-m", *CHECKERS[checker], unpacked]
    ran = subprocess.run(command, capture_output=True)
    assert ran.returncode == 0, (ran.stdout + ran.stderr).decode("utf-8", "replace")


def test_no_rule_of_the_stylesheet_can_meet_an_element_of_others(unpacked):
    sheet = (unpacked / "web" / "sidestream.css").read_text("utf-8")
    heads = re.findall(r"([^{}]+)\{", re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL))
    selectors = [one.strip() for head in heads if "@" not in head for one in head.split(",\n")]
    assert len(selectors) > 100
    steps = re.compile(r"from|to|\d+%")  # of an animation
    ours = re.compile(r"[.\"](ss-|sidestream)")
    assert not [one for one in selectors if not ours.search(one) and not steps.fullmatch(one)]


def test_names_are_possible_on_windows(tracked):
    assert [name for name in tracked if not name.isascii()] == []  # in every code page
    assert [name for name in tracked if re.search(r'[<>:"|?*\\\x00-\x1f]', name)] == []
    assert [name for name in tracked if len(name) > LONGEST_NAME] == []
    parts = {part for name in tracked for part in PurePosixPath(name).parts}
    assert [part for part in parts if RESERVED.match(part) or part.endswith((".", " "))] == []


def test_no_two_names_differ_in_case_alone(tracked):
    paths = {str(path) for name in tracked for path in (name, *PurePosixPath(name).parents)}
    by_lower: dict[str, set[str]] = {}
    for path in paths:
        by_lower.setdefault(path.lower(), set()).add(path)
    assert [same for same in by_lower.values() if len(same) > 1] == []


def test_the_archive_runs_in_a_fresh_comfyui_without_pip(archive, project, host, tmp_path):
    name = project["project"]["name"]
    server.make_base_directory(tmp_path, {})
    installed = tmp_path / "custom_nodes" / name
    zipfile.ZipFile(archive).extractall(installed)
    with server.start(host, tmp_path, ("--cpu",)) as running:
        running.wait_until_ready()
        with ComfyClient(running.url) as client:
            status = client.get("/sidestream/status")
            assert status["version"] == project["project"]["version"]
            assert status["provider"]["installed"]
            info = client.get("/object_info/SideStreamPreview")["SideStreamPreview"]
            assert info["python_module"] == f"custom_nodes.{name}"
            assert f"/extensions/{name}/sidestream.js" in client.get("/extensions")
            assert client.get("/workflow_templates")[name]
            run = client.run(demo_graph({"throttle_ms": 0, "budget": 0}, steps=5))
    assert "Stopped server" in running.log_text or sys.platform == "win32"
    assert run.outcome == "success"
    assert [frame for frame in run.frames if frame.sidestream]
