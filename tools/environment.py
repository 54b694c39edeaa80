"""A virtual environment that installs each set of requirements only once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .places import locked


class SetupError(Exception):
    """Something that the developer has to fix; the message says what."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in `folder`, with stamps that record what is installed."""

    folder: Path

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return _bin(self.folder) / ("python.exe" if sys.platform == "win32" else "python")

    def create(self, base_python: Path, *, borrow: Path | None = None) -> None:
        """Make the environment if it does not exist, with access to the packages in `borrow`."""
        if not self.python.exists():
            # It was never made, or its base interpreter was removed.
            (self.folder / "environment.stamp").unlink(missing_ok=True)
        with self._once("environment", f"borrows {borrow}") as needed:
            if not needed:
                return
            say(f"Creating a virtual environment in {self.folder}")
            made = subprocess.run([base_python, "-m", "venv", "--clear", self.folder])
            if made.returncode != 0:
                raise SetupError(
                    f"{base_python} could not create a virtual environment. On Debian and Ubuntu "
                    "install the package python3-venv; on other systems use a full Python."
                )
            if borrow is not None:
                link = site_packages(self.python) / "borrowed.pth"
                link.write_text(f"{borrow}\n", "utf-8")

    def install(self, what: str, *batches: Sequence[str]) -> None:
        """Install `batches` of pip requirements in order, unless it was done before."""
        with self._once(what, json.dumps(batches)) as needed:
            if needed:
                say(f"Installing {what} requirements")
                for batch in batches:
                    # Modules are compiled when they are first imported.
                    self._pip("install", "--no-compile", "--prefer-binary", *batch)

    def download(self, requirement: str, sha256: str, into: Path) -> Path:
        """Download one wheel without its dependencies; fails if its hash differs."""
        into.mkdir(parents=True, exist_ok=True)
        pinned = into / "requirements.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", "utf-8")
        self._pip("download", "--no-deps", "--require-hashes", "--only-binary=:all:",
                  "-r", str(pinned), "-d", str(into))  # fmt: skip
        return next(into.glob("*.whl"))

    def _pip(self, *arguments: str) -> None:
        command = [str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments]
        if subprocess.run(command).returncode != 0:
            raise SetupError(f"pip failed: {' '.join(arguments)}")

    @contextlib.contextmanager
    def _once(self, what: str, wanted: str) -> Iterator[bool]:
        """Yield whether `what` still has to be done as `wanted`; record it if that succeeds."""
        stamp = self.folder / f"{what}.stamp"
        wanted = hashlib.sha256(wanted.encode()).hexdigest()
        if _reads(stamp, wanted):
            yield False
            return
        with locked(self.folder):
            needed = not _reads(stamp, wanted)
            yield needed
            stamp.write_text(wanted, "utf-8")


def site_packages(python: Path) -> Path:
    """The folder into which `python` installs packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    command = [str(python), "-X", "utf8", "-c", code]  # paths may contain any character
    return Path(subprocess.check_output(command, encoding="utf-8").strip())


def say(line: str) -> None:
    """Print a line for the developer at once, before any child's output."""
    print(line, flush=True)


def _bin(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def _reads(path: Path, text: str) -> bool:
    return path.exists() and path.read_text("utf-8") == text
