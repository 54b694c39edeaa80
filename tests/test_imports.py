"""What importing the pack needs and does: each module only what the architecture says of it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sidestream.tools.host import Host

REPO = Path(__file__).resolve().parent.parent
PREVIEW = REPO / "preview"

COMFYUIS = {
    "comfy", "comfy_api", "comfy_execution", "comfy_extras", "comfyui_version", "execution",
    "folder_paths", "latent_preview", "node_helpers", "nodes", "protocol", "server",
}  # fmt: skip


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """The modules that a file imports, also within functions, each with its number of dots."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


Graph = dict[str, set[str]]
"""The modules of preview/, named from there, each with those that it imports."""

MAY_IMPORT = {
    "plain": set(),
    "settings": {"plain"},
    "records": {"settings"},
    "vae_copy": set(),
    "decoder_files": set(),
    "host": {"plain", "settings", "records", "vae_copy", "decoder_files"},
    "decoders": {"plain", "vae_copy", "decoder_files"},
    "deliver": {"plain", "settings", "records"},
    "render": {"plain", "records", "decoders", "deliver"},
    "capture": {"plain", "settings", "records", "vae_copy", "host", "decoders", "deliver"}
    | {"render", "decoder_files"},
    "report": {"plain", "settings", "host"},
    "pack": {"plain", "settings", "host", "decoders", "deliver", "render", "capture", "report"},
}
"""By package or module at the top of preview/. Each line names only lines above it."""


def drawn(folder: Path) -> Graph:
    """The graph of the modules in a folder, from their sources; also of what only types need."""
    files = {
        ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): file
        for file in folder.rglob("*.py")
    }
    return {name: set(_imported(name, file, files)) for name, file in files.items()}


def _imported(name: str, file: Path, files: dict[str, Path]) -> Iterator[str]:
    parts = ["preview", *(name.split(".") if name != "__init__" else [])]
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base if part]
            for alias in node.names:
                inner, module = ".".join([*base[1:], alias.name]), ".".join(base[1:])
                found = inner if inner in files else module
                yield found if base[:1] == ["preview"] else ".".join(["", *base, alias.name])


def cycles(graph: Graph) -> list[list[str]]:
    """Ways from a module back to itself, one for each module that has one."""
    found = []
    for start in graph:
        ways = [[start]]
        seen: set[str] = set()
        while ways:
            way = ways.pop()
            for name in sorted(graph.get(way[-1], ())):
                if name == start:
                    found.append([*way, name])
                    ways = []
                    break
                if name not in seen:
                    seen.add(name)
                    ways.append([*way, name])
    return found


def wrong_ways(graph: Graph) -> list[str]:
    """The imports that `MAY_IMPORT` does not allow."""
    return [
        f"preview.{name} imports {other}"
        for name, others in sorted(graph.items())
        for other in sorted(others)
        if (top := name.split(".")[0]) != (to := other.split(".")[0])
        and to not in MAY_IMPORT.get(top, set())
    ]


def test_an_import_in_a_circle_or_upwards_is_noticed(tmp_path):
    for name, text in {
        "plain.py": "from . import settings\n",
        "settings.py": "if TYPE_CHECKING:\n    from .plain import plain\n",
        "deliver/__init__.py": "",
        "deliver/encode.py": "def f():\n    from ..render import job\n    from ...nodes import a\n",
        "render/__init__.py": "from .job import Job\n",
        "render/job.py": "from ..deliver.encode import TYPES\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = drawn(tmp_path)
    assert ["plain", "settings", "plain"] in cycles(graph)
    assert ["deliver.encode", "render.job", "deliver.encode"] in cycles(graph)
    assert wrong_ways(graph) == [
        "preview.deliver.encode imports .nodes.a",
        "preview.deliver.encode imports render.job",
        "preview.plain imports settings",
    ]


def test_preview_has_no_import_cycle_and_imports_in_one_direction():
    names = list(MAY_IMPORT)
    for place, name in enumerate(names):
        assert MAY_IMPORT[name] <= set(names[:place]), name
    graph = drawn(PREVIEW)
    assert {name.split(".")[0] for name in graph} - {"__init__"} == set(names)
    assert cycles(graph) == []
    assert wrong_ways(graph) == []


def run(script: str, *arguments: str) -> None:
    """Run a script in a Python of its own, in the repository. It must end well."""
    command = [sys.executable, "-c", script, *arguments]
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


def test_only_one_folder_imports_comfyui():
    files = [
        file
        for file in PREVIEW.rglob("*.py")
        if any(not dots and name.split(".")[0] in COMFYUIS for dots, name in imports(file))
    ]
    assert {file.parent for file in files} == {PREVIEW / "host"}


def test_others_import_that_folder_and_not_its_files():
    inner = {file.stem for file in (PREVIEW / "host").glob("*.py")}
    others = [file for file in PREVIEW.rglob("*.py") if file.parent.name != "host"]
    others += (REPO / "nodes").glob("*.py")
    found = {name for file in others for dots, name in imports(file) if dots}
    assert {name for name in found if re.search(rf"\bhost\.({'|'.join(inner)})\b", name)} == set()


WITHOUT = """
import importlib, sys, types
pack = sys.modules["sidestream"] = types.ModuleType("sidestream")
pack.__path__ = ["."]
absent, names = sys.argv[1].split(","), sys.argv[2:]
for name in absent:
    sys.modules[name] = None
for name in names:
    importlib.import_module(f"sidestream.preview.{name}")
"""


def modules() -> list[str]:
    return [name for name in drawn(PREVIEW) if name != "__init__"]


def test_what_delivers_and_what_is_recorded_know_no_torch():
    known = ("plain", "settings", "records", "deliver", "capture.runs", "capture.clients")
    run(WITHOUT, "torch", *(name for name in modules() if name.startswith(known)))


def test_all_but_the_modules_that_are_named_import_without_comfyui():
    text = (REPO / "docs" / "architecture.md").read_text("utf-8")
    sentence = re.search(r"All of it but\s(.+?) is\simported", text, re.DOTALL)
    assert sentence is not None
    named = re.findall(r"`([\w/]+?)(?:\.py|/)`", sentence[1])
    assert named == ["host", "capture/provider", "pack"]
    others = [n for n in modules() if not n.startswith(tuple(n.replace("/", ".") for n in named))]
    run(WITHOUT, ",".join(COMFYUIS), *others)


UNTOUCHED = """
import importlib, pkgutil, sys
from pathlib import Path
from tools.coverage import enter_comfyui
enter_comfyui(Path(sys.argv[1]))
import comfy.model_management, comfy_api.latest, latent_preview, torch  # which may touch it

def touched(*_, **__):
    raise AssertionError("a GPU was touched")

torch.cuda.device_count = torch.cuda.is_available = torch.cuda._lazy_init = touched
import sidestream.nodes, sidestream.preview
for package in (sidestream.nodes, sidestream.preview):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
from sidestream.preview import host
assert host.missing is None, host.missing
"""


def test_to_import_the_pack_touches_no_gpu(host: Host):
    run(UNTOUCHED, str(host.tree))


LACKING = """
import sys
from pathlib import Path
from tools.coverage import enter_comfyui
enter_comfyui(Path(sys.argv[1]))
sys.modules[sys.argv[2]] = None
from sidestream.preview.pack import Pack
pack = Pack()
pack.install()
assert sys.argv[2] in pack.problem, pack.problem
assert not pack.status()["provider"]["installed"]
assert pack.report().count("unknown (") == 0, pack.report()
assert pack.settings()["preview_size"] == 512
"""


@pytest.mark.parametrize("module", ["latent_preview", "comfy_execution.utils"])
def test_i10_where_comfyui_lacks_a_module_the_pack_says_which(host: Host, module: str):
    run(LACKING, str(host.tree), module)
