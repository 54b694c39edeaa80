"""The report for a bug report, as plain text: `GET /sidestream/report`.

It is safe to post publicly: text from elsewhere passes through `Private`, which removes who the
user is and where things are on the disk.
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
from .plain import NAME, encodable, escaped, in_a_line, one_line, plain
from .settings import DEFAULTS

OTHERS = 20
"""The most unused files to list by name; of further ones, only the number is given."""

# Names of users and machines that identify nobody, and that also occur as ordinary words.
COMMON_NAMES = {"admin", "app", "comfy", "comfyui", "docker", "localhost", "root", "ubuntu", "user"}
SHORTEST_NAME = 3


class Warnings(logging.Handler):
    """Keeps the pack's last warnings as text and counts repeated ones."""

    KEPT = 20
    LONGEST = 1000  # characters of a warning, before it is shortened for the report

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
        """Listen to all modules of this package: their loggers are named after it."""
        logging.getLogger(__package__).addHandler(self)

    def close(self) -> None:
        logging.getLogger(__package__).removeHandler(self)
        super().close()

    def all(self) -> list[tuple[str, int, float]]:
        """Each warning with its count and its last time, in seconds since 1970; the newest last."""
        self.acquire()
        try:
            return [(text, *rest) for text, rest in self._kept.items()]
        finally:
            self.release()


class Private:
    """Removes personal data from a text.

    Paths in `folders` are replaced by their labels; other absolute paths, `names` and ids are
    removed completely.
    """

    LONGEST = 400

    def __init__(self, folders: Mapping[str, str], names: Iterable[str]) -> None:
        # Warnings have both escaped. The longest first: a folder may be inside another.
        found = {**folders, **{escaped(path): label for path, label in folders.items()}}
        below_root = [(path, label) for path, label in found.items() if path.strip("\\/")]
        by_length = sorted(below_root, key=lambda item: -len(item[0]))
        self._labels = [label for _, label in by_length]
        self._folders = [_path_pattern(path) for path, _ in by_length]
        told = {name for name in names if len(escaped(name)) >= SHORTEST_NAME}
        told = {name for name in told if name.lower() not in COMMON_NAMES}
        told |= set(map(escaped, told))
        self._names = [
            rf"(?i)(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"
            for name in sorted(told, key=len, reverse=True)
        ]

    def __call__(self, text: str) -> str:
        """`text` without personal data, on one line, shortened. Takes linear time."""
        text = text.replace(_BEGIN, "").replace(_END, "")
        for number, (pattern, label) in enumerate(zip(self._folders, self._labels, strict=True)):
            # A label that is a path is removed together with what follows. The others are replaced
            # by a mark, so that what follows is not mistaken for an absolute path.
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


_BEGIN, _END = "\ue000", "\ue001"  # of a mark; private-use characters that no text contains
_MARK = f"{_BEGIN}([0-9]+){_END}"

_DRIVE = r"""[A-Za-z]:(?:\\|/(?!/))"""  # not the end of a scheme, as in http://
_ROOT = rf"""(?:{_DRIVE}|\\\\(?=[^\s\\])|/(?=[^\s/]))"""
_QUOTED_PATH = rf"""(['"]){_ROOT}[^\n]*?\1"""
# A slash after a letter may belong to "and/or", or to a path relative to a labelled folder.
_TOP = (
    "Users|Volumes|content|data|etc|home|media|mnt|opt|private|root|run|srv|tmp|usr|var|workspace"
)
_START = rf"""(?:(?<![\w~{_END}]){_ROOT}|{_DRIVE}|(?<=\w)/(?=(?:{_TOP})[\\/]))"""
# Up to the line's last separator: folder names may contain spaces, and it is better to remove too
# much than too little.
_OTHER_PATH = rf"""{_START}(?:[^\n'"{_BEGIN}]*[\\/])?[^\s'"{_BEGIN}]*"""
_ID = r"(?i)\b[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}\b"


def _path_pattern(path: str) -> str:
    """Matches `path` with either separator, also in module names, where ComfyUI replaces dots."""
    parts = re.split(r"[\\/]", path.rstrip("\\/"))
    # Backslashes may be doubled by `repr`, once or twice.
    escaped = r"[\\/]{1,4}".join(re.escape(part).replace(r"\.", r"(?:\.|_x_)") for part in parts)
    return rf"""(?i){escaped}(?=[\\/\s'":;,)\]]|$)"""


def _private() -> Private:
    folders: dict[str, str] = {}
    names = {socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(RuntimeError):  # the system knows no home
        home = Path.home()
        # Labelled with an absolute path, so that all that follows is removed, too.
        folders[str(home)] = "/home"
        names.add(home.name)
    with contextlib.suppress(Exception):  # an incompatible host
        folders |= host.installation.folders()
    names |= {os.environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME")}
    with contextlib.suppress(OSError, KeyError, ImportError):  # the system knows no name
        names.add(getpass.getuser())
    return Private(folders, names)


def report(status: Mapping[str, Any], warnings: Warnings) -> str:
    """The report about a pack with that `status`, as returned by `Pack.status`."""
    private = _private()
    sections: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("Versions", lambda: _versions(status, private)),
        ("Devices", lambda: _devices(status, private)),
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
        except Exception as error:  # a broken installation must still be able to give a report
            found = [private(f"unknown ({type(error).__name__}: {error})")]
        lines += ["", title, *(f"  {line}" for line in found or ["none"])]
    return encodable("\n".join(lines) + "\n")


def _versions(status: Mapping[str, Any], private: Private) -> Iterable[str]:
    yield f"SideStream {status['version']}"
    yield private(f"ComfyUI {status['comfyui']}, page {host.installation.page_version()}")
    yield f"Python {platform.python_version()}, torch {torch.__version__}"
    if torch.version.cuda:
        yield f"CUDA {torch.version.cuda}, NVIDIA driver {_nvidia_driver() or 'not found'}"
    if torch.version.hip:
        yield f"ROCm {torch.version.hip}"
    yield private(f"{platform.system()} {platform.release()}, {platform.machine()}")


def _nvidia_driver() -> str | None:
    """The driver's version; None if there is none."""
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


def _devices(status: Mapping[str, Any], private: Private) -> Iterable[str]:
    yield f"models sample on {host.installation.sampling_device()}"
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}: {device.name}, {device.total_memory / 2**30:.1f} GiB"
    for worker in status["devices"]:
        because = f" because {private(worker['problem'])}" if worker["problem"] else ""
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
    """What to say about a decoder that ComfyUI does not find."""
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
