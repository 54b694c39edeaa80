"""A running ComfyUI: its base directory, its process, its log."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import time
import urllib.error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .environment import SetupError
from .host import Host
from .local import opened
from .places import is_link, link_folder, remove_link

# API nodes would connect to servers on the internet.
QUIET_ARGUMENTS = ("--disable-api-nodes",)

SECONDS_TO_START = 180.0
SECONDS_TO_STOP = 10.0


def make_base_directory(base: Path, packs: Mapping[str, Path]) -> None:
    """Set up a base directory whose custom nodes are exactly `packs`, linked by name."""
    for folder in ("models/vae_approx", "input", "output", "user", "temp", "custom_nodes"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    custom_nodes = base / "custom_nodes"
    for name, pack in packs.items():
        if pack.is_dir():
            link_folder(custom_nodes / name, pack)
        else:
            (custom_nodes / name).write_bytes(pack.read_bytes())
    for entry in custom_nodes.iterdir():
        if entry.name not in packs and is_link(entry):
            remove_link(entry)


def free_port() -> int:
    """A port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on `port`."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@dataclass
class RunningHost:
    """A ComfyUI process that this process started and has to stop."""

    url: str
    base_dir: Path
    log_path: Path
    process: subprocess.Popen[bytes]

    @property
    def log_text(self) -> str:
        """Everything that ComfyUI has printed so far."""
        return self.log_path.read_text("utf-8", errors="replace")

    def wait_until_ready(self, timeout: float = SECONDS_TO_START) -> None:
        """Return once ComfyUI responds; raise SetupError with the end of its log otherwise."""
        deadline = time.monotonic() + timeout
        while not self._answers():
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                self.stop()
                why = f"did not respond for {timeout:.0f} s" if code is None else f"ended ({code})"
                log = "\n".join(self.log_text.splitlines()[-40:])
                raise SetupError(f"ComfyUI {why}. The end of its log, {self.log_path}:\n{log}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the process, gently first; does nothing if it has already ended."""
        if self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()  # launch.py watches for this
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> RunningHost:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        try:
            with opened(f"{self.url}/queue", timeout=5) as response:
                return response.status == 200
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return False


def start(
    host: Host,
    base: Path,
    arguments: Sequence[str] = (),
    *,
    port: int | None = None,
    log_to_console: bool = False,
) -> RunningHost:
    """Start `host` with the base directory `base`, without waiting until it is ready."""
    port = port or free_port()
    log_path = base / f"comfyui-{port}.log"
    launcher = Path(__file__).absolute().with_name("launch.py")
    command = [str(host.python), str(launcher), str(host.tree)]
    # The caller's arguments come last, because the last of two equal options wins.
    command += ["--base-directory", str(base), "--port", str(port)]
    # A separate database file: one in memory can only be closed by its own thread, not by whichever
    # collects garbage, and ComfyUI would log errors about that at any moment.
    command += ["--database-url", f"sqlite:///{(base / 'user' / 'comfyui.db').as_posix()}"]
    command += [*QUIET_ARGUMENTS, *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    log: BinaryIO | None = None if log_to_console else log_path.open("wb")
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            env=environment,
        )
    finally:
        if log:
            log.close()  # the process has its own handle
    return RunningHost(f"http://127.0.0.1:{port}", base, log_path, process)
