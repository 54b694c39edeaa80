"""Where things lie: this checkout, and the cache that holds what is downloaded or built."""

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

# Not resolved: a checkout linked into a ComfyUI's custom_nodes belongs to that ComfyUI.
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
    """The part of the cache that belongs to this checkout alone."""
    return cache_folder() / "checkouts" / short_hash(str(REPO.resolve()))


def keep_bytecode_in_cache() -> None:
    """Let this process's children keep compiled modules, but not in any source tree.

    Without them ComfyUI takes three times as long to start, and some systems switch them off.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(cache_folder() / "bytecode")


def short_hash(text: str) -> str:
    """Eight hex digits that tell `text` apart from others of its kind."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def link_folder(link: Path, target: Path) -> None:
    """Make `link` lead to the folder `target`: a junction on Windows, else a symbolic link."""
    if link.exists() and os.path.samefile(link, target):
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    remove_link(link)
    if sys.platform == "win32":
        # Symbolic links need a privilege there that a developer may not have.
        command = ["cmd", "/c", "mklink", "/J", str(link), str(target)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    else:
        link.symlink_to(target, target_is_directory=True)


def is_link(path: Path) -> bool:
    """Whether it is one as `link_folder` makes: `Path.is_symlink` denies that of junctions."""
    try:
        os.readlink(path)
    except OSError:
        return False
    return True


def remove_link(link: Path) -> None:
    """Remove a link made by `link_folder`, never what it leads to."""
    if link.is_symlink():
        link.unlink()
    elif os.path.lexists(link):
        os.rmdir(link)  # a junction; a folder with files in it is refused


def remove_base_directory(base: Path) -> None:
    """Delete a host's base directory without following its links out of it."""
    for link in (base / "custom_nodes").glob("*"):
        with contextlib.suppress(OSError):
            remove_link(link)
    shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build `folder`; the others wait and find it done."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            while True:
                file.seek(0)
                # Gives up after ten seconds each time, so it is asked again.
                with contextlib.suppress(OSError):
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
