"""What somebody who looks into a problem wants to know, as plain text: `GET /sidestream/report`.

It is made to be posted in public. Texts that come from elsewhere pass `Private`, which takes out
who the user is and where on the disk things lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import logging
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from . import host
from .plain import NAME, encodable, in_a_line, one_line, plain
from .settings import DEFAULTS

OTHERS = 20
"""Files that nothing uses, by name; of more it is said how many."""

# Names of users and machines that tell nobody apart. They also occur in other words' places.
COMMON_NAMES = {"admin", "app", "comfy", "comfyui", "docker", "localhost", "root", "ubuntu", "user"}
SHORTEST_NAME = 3


class Warnings(logging.Handler):
    """Keeps the pack's last warnings as text; one that comes again is counted."""

    KEPT = 20
    LONGEST = 1000  # characters of one, before it is shortened for the report

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: dict[str, tuple[int, float]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = plain(record.getMessage(), self.LONGEST)
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (said := in_a_line(error)) not in text:
            text += f" {said}"
        count, _ = self._kept.pop(text, (0, 0.0))
        self._kept[text] = (count + 1, record.created)
        while len(self._kept) > self.KEPT:
            del self._kept[next(iter(self._kept))]

    def listen(self) -> None:
        """Hear all modules beside this one: their loggers are named after the pack's folder."""
        logging.getLogger(__package__).addHandler(self)

    def close(self) -> None:
        logging.getLogger(__package__).removeHandler(self)
        super().close()

    def all(self) -> list[tuple[str, int, float]]:
        """Each with how often and when it came last, in seconds since 1970; the newest last."""
        self.acquire()
        try:
            return [(text, *rest) for text, rest in self._kept.items()]
        finally:
            self.release()


class Private:
    """Takes out of a text what is the user's own.

    Paths in `folders` are shown by their labels; other absolute paths, `names` and ids are not
    shown at all.
    """

    LONGEST = 400

    def __init__(self, folders: Mapping[str, str], names: Iterable[str]) -> None:
        # The longest first: a folder may lie in another.
        below_root = [(path, label) for path, label in folders.items() if path.strip("\\/")]
        by_length = sorted(below_root, key=lambda item: -len(item[0]))
        self._labels = [label for _, label in by_length]
        self._folders = [_path_pattern(path) for path, _ in by_length]
        told = {name for name in names if len(name) >= SHORTEST_NAME}
        told = {name for name in told if name.lower() not in COMMON_NAMES}
        self._names = [
            rf"(?i)(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"
            for name in sorted(told, key=len, reverse=True)
        ]

    def __call__(self, text: str) -> str:
        """`text` on one line, shortened. In time that grows with its length and no faster."""
        text = text.replace(_BEGIN, "").replace(_END, "")
        for number, (pattern, label) in enumerate(zip(self._folders, self._labels, strict=True)):
            # A label that is a path is taken out with what follows. Of the others the place is
            # marked, so that what follows is told from a path of its own.
            mark = label if label.startswith("/") else f"{_BEGIN}{number}{_END}"
            text = re.sub(pattern, lambda _, mark=mark: mark, text)  # type: ignore[misc]
        text = re.sub(_QUOTED_PATH, r"\1<path>\1", text)
        text = re.sub(_OTHER_PATH, "<path>", text)
        text = re.sub(_ID, "<id>", text)
        for pattern in self._names:
            text = re.sub(pattern, "<name>", text)
        text = re.sub(_MARK, lambda mark: self._labels[int(mark[1])], text)
        text = " ".join(text.split())
        return text if len(text) <= self.LONGEST else text[: self.LONGEST - 1] + "…"


_BEGIN, _END = "\ue000", "\ue001"  # of a mark; for private use, so that no text has them
_MARK = f"{_BEGIN}([0-9]+){_END}"

_DRIVE = r"""[A-Za-z]:(?:\\|/(?!/))"""  # not the end of a scheme, as in http://
_ROOT = rf"""(?:{_DRIVE}|\\\\(?=[^\s\\])|/(?=[^\s/]))"""
_QUOTED_PATH = rf"""(['"]){_ROOT}[^\n]*?\1"""
# After a letter a slash may be one of "and/or", or of a path from a folder that is shown.
_TOP = (
    "Users|Volumes|content|data|etc|home|media|mnt|opt|private|root|run|srv|tmp|usr|var|workspace"
)
_START = rf"""(?:(?<![\w~{_END}]){_ROOT}|{_DRIVE}|(?<=\w)/(?=(?:{_TOP})[\\/]))"""
# Up to the line's last separator: a folder's name may hold spaces, and rather too much is taken
# out than too little.
_OTHER_PATH = rf"""{_START}(?:[^\n'"{_BEGIN}]*[\\/])?[^\s'"{_BEGIN}]*"""
_ID = r"(?i)\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b"


def _path_pattern(path: str) -> str:
    """Finds `path` with either separator, also in a name of a module: ComfyUI has no dots there."""
    parts = re.split(r"[\\/]", path.rstrip("\\/"))
    # Two separators where a path was written as Python writes it, four where that was.
    escaped = r"[\\/]{1,4}".join(re.escape(part).replace(r"\.", r"(?:\.|_x_)") for part in parts)
    return rf"""(?i){escaped}(?=[\\/\s'":;,)\]]|$)"""


def _private() -> Private:
    folders: dict[str, str] = {}
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(RuntimeError):  # the system knows no home
        home = Path.home()
        # Still an absolute path, so that all of it is taken out: its own name may hold spaces.
        folders[str(home)] = "/home"
        names.add(home.name)
    with contextlib.suppress(Exception):  # of a host of which little is known
        folders |= host.installation.folders()
    names |= {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    with contextlib.suppress(OSError, KeyError, ImportError):  # the system knows no name
        names.add(getpass.getuser())
    return Private(folders, names)


def report(status: Mapping[str, Any], warnings: Warnings) -> str:
    """The report on a pack with that `status`, as `Pack.status` gives it."""
    private = _private()
    sections: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("Versions", lambda: _versions(status, private)),
        ("Devices", lambda: _devices(status)),
        ("Previews", lambda: _previews(status["provider"], private)),
        ("Decoder files in models/vae_approx", lambda: _decoder_files(private)),
        ("Decoder files that were refused", lambda: map(private, status["refused"])),
        ("Decoders in memory", lambda: map(private, status["decoders"])),
        ("Default settings", _default_settings),
        ("Counters", lambda: _counters(status["counters"])),
        ("Last warnings", lambda: _warnings(warnings, private)),
    ]
    lines = ["SideStream report"]
    for title, made in sections:
        try:
            found = list(made())
        except Exception as error:  # a report on a broken installation is still a report
            found = [private(f"unknown ({type(error).__name__}: {error})")]
        lines += ["", title, *(f"  {line}" for line in found or ["none"])]
    return encodable("\n".join(lines) + "\n")


def _versions(status: Mapping[str, Any], private: Private) -> Iterable[str]:
    yield f"SideStream {status['version']}"
    yield f"ComfyUI {status['comfyui']}, page {host.installation.page_version()}"
    yield f"Python {platform.python_version()}, torch {torch.__version__}"
    if torch.version.cuda:
        yield f"CUDA {torch.version.cuda}, NVIDIA driver {_nvidia_driver() or 'not found'}"
    if torch.version.hip:
        yield f"ROCm {torch.version.hip}"
    yield private(f"{platform.system()} {platform.release()}, {platform.machine()}")


def _nvidia_driver() -> str | None:
    """The driver's version; None where there is none."""
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    version = ctypes.create_string_buffer(80)
    if library.nvmlInit_v2() != 0:
        return None
    known = library.nvmlSystemGetDriverVersion(version, len(version)) == 0
    library.nvmlShutdown()
    return version.value.decode() if known else None


def _devices(status: Mapping[str, Any]) -> Iterable[str]:
    yield f"models sample on {host.installation.sampling_device()}"
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}: {device.name}, {device.total_memory / 2**30:.1f} GiB"
    for worker in status["devices"]:
        because = f" because {worker['problem']}" if worker["problem"] else ""
        yield (
            f"previews of latents on {worker['device']}: {worker['path']}{because},"
            f" share {worker['share']:.1%}"
        )


def _previews(provider: Mapping[str, Any], private: Private) -> Iterable[str]:
    yield "SideStream is installed" if provider["installed"] else "SideStream is not installed"
    if provider["problem"]:
        yield private(f"because: {provider['problem']}")
    yield private(f"in charge: {provider['in_charge']}")
    if provider["around"]:
        yield private(f"asked before SideStream: {provider['around']}")
    yield f"ComfyUI's preview method: {host.installation.chosen_method({}) or 'unset'}"
    yield f"ComfyUI's preview size: {host.installation.preview_size()}"


def _decoder_files(private: Private) -> Iterable[str]:
    known = host.models.formats_by_decoder()
    for name, formats in known.items():
        file = host.installation.decoder_file(name)
        found = _found(name) if file is None else f"{_name(file)}, {_size(file)}"
        yield private(f"{name}: {found} (for {', '.join(formats)})")
    others = host.installation.other_decoder_files(known)
    for file in others[:OTHERS]:
        yield private(f"{_name(file)}: not used: unknown name")
    if len(others) > OTHERS:
        yield f"{len(others) - OTHERS} more unused files"


def _found(name: str) -> str:
    """What to say of a decoder that ComfyUI does not find."""
    place = host.installation.misplaced_decoder(name)
    return "missing" if place is None else f"missing; wrong folder: {one_line(place)}"


def _name(file: str) -> str:
    return one_line(Path(file).name, NAME)


def _size(file: str) -> str:
    try:
        return f"{Path(file).stat().st_size:,} bytes"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _default_settings() -> Iterable[str]:
    for name, value in DEFAULTS.as_dict().items():
        yield f"{name}: {value}"


def _counters(counters: Mapping[str, Any]) -> Iterable[str]:
    for name, value in counters.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{count} {kind}" for kind, count in value.items()) or "none"
        yield f"{name}: {value}"


def _warnings(warnings: Warnings, private: Private) -> Iterable[str]:
    now = time.time()
    for text, count, last in warnings.all():
        times = f"{count} times, last " if count > 1 else ""
        yield f"{times}{max(0, now - last):.0f} s ago: {private(text)}"
