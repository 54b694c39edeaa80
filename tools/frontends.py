"""Other versions of ComfyUI's page, for its --front-end-root, each downloaded once from PyPI."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from .environment import Environment
from .places import cache_folder, locked

PACKAGE = "comfyui-frontend-package"
WHEEL_STATIC = "comfyui_frontend_package/static/"

# The newest page with which the panel is tested; the host's own is the oldest.
NEWEST = "1.58.1"
SHA256 = {"1.58.1": "37912597537a731a8f421179618a736c24184c5bdbfa327f38b2fb7c291852d9"}


def static_folder(version: str) -> Path:
    """The folder for the page of that version, whether or not it exists yet."""
    return cache_folder() / f"frontend-{version}-{SHA256[version][:8]}"


def get_frontend(environment: Environment, version: str = NEWEST) -> Path:
    """The static folder of that version, downloaded if necessary."""
    folder = static_folder(version)
    if folder.exists():
        return folder
    with locked(folder):
        if not folder.exists():
            _download(environment, version, folder)
    return folder


def _download(environment: Environment, version: str, folder: Path) -> None:
    # Next to its final place, so that a single rename puts the complete folder there.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        requirement = f"{PACKAGE}=={version}"
        wheel = environment.download(requirement, SHA256[version], Path(scratch, "wheel"))
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(WHEEL_STATIC)]
            archive.extractall(scratch, members)
        shutil.move(Path(scratch, WHEEL_STATIC), folder)
