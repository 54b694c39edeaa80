"""The Chromium for browser tests: found on the system, or installed if that is easy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from .environment import SetupError, say

# The page under test is on this machine, so nothing needs the internet. Chromium's sandbox does not
# work for a container's root user.
CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

SECONDS_FOR_APT = 300
"""How long to wait for another apt-get to release its locks."""

_COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
_MAC_PROGRAMS = ("Google Chrome", "Chromium", "Microsoft Edge")
_WINDOWS_PROGRAMS = (
    "Google/Chrome/Application/chrome.exe",
    "Microsoft/Edge/Application/msedge.exe",
)
_WINDOWS_FOLDERS = ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")


def find_chromium() -> Path | None:
    """This system's Chromium, Chrome or Edge, or the one named by the variable CHROMIUM."""
    named = os.environ.get("CHROMIUM")
    if named:
        return Path(named)
    for command in _COMMANDS:
        found = shutil.which(command)
        if found:
            return Path(found)
    return next((program for program in _usual_places() if program.exists()), None)


def get_chromium() -> Path:
    """As `find_chromium`; installs it with apt if necessary and if that needs no password."""
    found = find_chromium()
    if found is None and shutil.which("apt-get"):
        _install_with_apt()
        found = find_chromium()
    if found is None:
        raise SetupError(
            "The browser test needs Chromium, Chrome or Edge. Install one (Debian: "
            "`sudo apt-get install chromium`; elsewhere: https://www.google.com/chrome) or name "
            "its program in the environment variable CHROMIUM."
        )
    return found


def _install_with_apt() -> None:
    say("Installing Chromium with apt-get")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    apt = ["apt-get"] if is_root else ["sudo", "-n", "apt-get"]
    try:
        _when_unlocked([*apt, "-qq", "update"])
        _when_unlocked([*apt, "-qq", "-y", "--no-install-recommends", "install", "chromium"])
    except OSError as error:  # no sudo
        say(f"apt-get could not be run: {error}")


def _when_unlocked(command: list[str]) -> None:
    """Run it, and retry while another apt-get holds a lock: apt itself only waits for some."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    for _ in range(SECONDS_FOR_APT // 5):
        ran = subprocess.run(
            command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if "Could not get lock" not in ran.stderr:
            break
        time.sleep(5)
    if ran.returncode != 0:
        say(ran.stderr.rstrip())


def _usual_places() -> list[Path]:
    if sys.platform == "darwin":
        return [Path(f"/Applications/{name}.app/Contents/MacOS/{name}") for name in _MAC_PROGRAMS]
    if sys.platform == "win32":
        folders = [os.environ[name] for name in _WINDOWS_FOLDERS if name in os.environ]
        return [Path(folder, program) for folder in folders for program in _WINDOWS_PROGRAMS]
    return []
