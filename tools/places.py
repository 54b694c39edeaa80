"""Where things are: this checkout, and the cache for downloads and builds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PACK_NAME = "ComfyUI-SideStream"

# Not resolved: a checkout that is linked into a ComfyUI's custom_nodes belongs to that ComfyUI.
REPO = Path(__file__).absolute().parent.parent


def cache_folder() -> Path:
    """The per-user folder for environments and hosts; SIDESTREAM_CACHE overrides it."""
    chosen = os.environ.get("SIDESTREAM_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(local) / PACK_NAME / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / PACK_NAME
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACK_NAME


def checkout_folder() -> Path:
    """The part of the cache that only this checkout uses."""
    return cache_folder() / "checkouts" / short_hash(str(REPO.resolve()))


def keep_bytecode_in_cache() -> None:
    """Let this process's children store compiled modules, but outside of source trees.

    Without them ComfyUI takes three times as long to start, and some systems disable them.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(cache_folder() / "bytecode")


def short_hash(text: str) -> str:
    """Eight hex digits that identify `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def link_folder(link: Path, target: Path) -> None:
    """Link `link` to the folder `target`, by a junction on Windows, else by a symbolic link."""
    if link.exists() and os.path.samefile(link, target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    remove_link(link)
    if sys.platform == "win32":
        # Symbolic links need a privilege there, which developers may not have.
        command = ["cmd", "/c", "mklink", "/J", str(link), str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    else:
        link.symlink_to(target, target_is_directory=True)


def is_link(path: Path) -> bool:
    """Whether it is a link like those of `link_folder`; `Path.is_symlink` ignores junctions."""
    try:
        os.readlink(path)
    except OSError:
        return False
    return True


def remove_link(link: Path) -> None:
    """Remove a link made by `link_folder`, but never its target."""
    if link.is_symlink():
        link.unlink()
    elif os.path.lexists(link):
        os.rmdir(link)  # a junction; fails for a folder that contains files


def remove_base_directory(base: Path) -> None:
    """Delete a host's base directory without following its links."""
    for link in (base / "custom_nodes").glob("*"):
        with contextlib.suppress(OSError):
            remove_link(link)
    shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build `folder`; others wait and then find it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                file.seek(0)
                # It gives up after ten seconds, so it is retried.
                with contextlib.suppress(OSError):
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
