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


WITHOUT_TORCH = """
import importlib, sys, types
pack = sys.modules["sidestream"] = types.ModuleType("sidestream")
pack.__path__ = ["."]
for module in sys.argv[1:]:
    importlib.import_module(f"sidestream.preview.{module}")
    assert "torch" not in sys.modules, room
"""


def test_rooms_that_must_not_know_torch_do_not_import_it():
    text = (REPO / "docs" / "architecture.md").read_text("utf-8")
    modules = re.findall(r"^\| `preview/(\w+)\.py` \|[^|]*\|[^|]*\btorch\b", text, re.MULTILINE)
    assert {"settings"} <= set(modules)
    run(WITHOUT_TORCH, "capture.runs", "capture.clients", "deliver.transport", *modules)


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
assert pack.report().count("not known") == 0, pack.report()
assert pack.settings()["preview_size"] == 512
"""


@pytest.mark.parametrize("module", ["latent_preview", "comfy_execution.utils"])
def test_i10_where_comfyui_lacks_a_module_the_pack_says_which(host: Host, module: str):
    run(LACKING, str(host.tree), module)
