"""A ComfyUI started by its own main.py for a measurement, and a client of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..__main__ import name_the_pack

name_the_pack()

from sidestream.tools import server  # noqa: E402
from sidestream.tools.comfy_client import ComfyClient, Run  # noqa: E402
from sidestream.tools.host import Host  # noqa: E402
from sidestream.tools.places import (  # noqa: E402
    PACK_NAME,
    REPO,
    link_folder,
    remove_base_directory,
    remove_link,
)

HOSTPACK = Path(__file__).resolve().parent.parent / "hostpack"
PAGE = "<!doctype html><title>ComfyUI</title>"
PATIENCE = 600.0  # seconds for a prompt, as the first one loads a model


@dataclass(frozen=True)
class Setup:
    """What to measure, and on what."""

    comfyui: Path
    models: Path
    """A folder for the model files, which are written there if they are missing."""
    unets: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    """For ComfyUI."""
    steps: int = 20
    seconds: float = 240.0
    blocks: int = 400
    seed: int = 0
    providers: tuple[str, ...] = ()
    """Those of `plan.COMPARED` to measure; all if empty."""
    idle: float = 10.0
    """Seconds between the last run and the measurement of the memory that it leaves behind."""
    packs: Path | None = None
    """A folder with other packs."""
    patience: float = PATIENCE
    """Seconds for a prompt in addition to `seconds`."""
    save: Callable[[dict[str, Any]], None] = lambda result: None
    """Saves what a mode has measured so far."""

    def host(self) -> Host:
        """The ComfyUI to start."""
        return Host(self.comfyui, Path(sys.executable), own=True)

    def size(self, unet: str) -> int:
        """The length of the picture's sides, in pixels."""
        return {"sdxl": 1024, "sd15": 512, "tiny": 64}[unet]


def write_models(asked: Setup) -> None:
    """Write the missing model files, in a separate process."""
    module = [sys.executable, "-m", "benchmarks.server.files"]
    command = [*module, str(asked.comfyui), str(asked.models), *asked.unets]
    subprocess.run(command, cwd=REPO, check=True)


ABOUT = """
import json, torch
cuda = torch.cuda.is_available()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({"torch": torch.__version__, "devices": names or ["CPU"]}))
"""


def about(asked: Setup) -> dict[str, Any]:
    """What is measured on, queried in another process so that this one takes no GPU memory."""
    told = subprocess.check_output([sys.executable, "-c", ABOUT], text=True)
    found: dict[str, Any] = json.loads(told)
    return {"comfyui": asked.host().version, "unets": asked.unets, **found}


@dataclass(frozen=True)
class Neighbour:
    """Another pack to install, as a copy, since it may write into its own folder."""

    folder: Path
    files: Mapping[str, str]
    """Files that its users put into it, by name."""

    def install(self, custom_nodes: Path) -> None:
        """Copy it into the folder `custom_nodes`."""
        there = custom_nodes / self.folder.name
        shutil.copytree(self.folder, there, ignore=shutil.ignore_patterns(".git"))
        for name, text in self.files.items():
            (there / name).write_text(text, "utf-8")


@dataclass
class Session:
    """The running server, its base directory and the client."""

    asked: Setup
    extra: Sequence[str] = ()
    """Additional arguments for ComfyUI."""
    pack: bool = True
    """Whether SideStream is among the custom nodes."""
    others: Sequence[Neighbour] = ()
    """Additional custom nodes."""
    base: Path = field(init=False)
    running: server.RunningHost = field(init=False)
    client: ComfyClient = field(init=False)
    _nonce: int = 0
    _of_the_start: int = 0

    def __enter__(self) -> Session:
        self.base = Path(tempfile.mkdtemp(prefix="sidestream-bench-"))
        try:
            page = self.base / "page"
            page.mkdir()
            (page / "index.html").write_text(PAGE, "utf-8")
            link_folder(self.base / "models", self.asked.models)
            packs = {"SideStreamBench": HOSTPACK}
            if self.pack:
                packs[PACK_NAME] = REPO
            server.make_base_directory(self.base, packs)
            for other in self.others:
                other.install(self.base / "custom_nodes")
            arguments = ("--front-end-root", str(page), *self.asked.arguments, *self.extra)
            self.running = server.start(self.asked.host(), self.base, arguments)
            self.running.wait_until_ready()
            self.client = ComfyClient(self.running.url, compress=True)
            self._of_the_start = len(self._lines())
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is not None:
            print("\n".join(self.running.log_text.splitlines()[-60:]), file=sys.stderr)
        self.client.close()
        self._end()

    def _end(self) -> None:
        if hasattr(self, "running"):
            self.running.stop()
        remove_link(self.base / "models")
        remove_base_directory(self.base)
        shutil.rmtree(self.base, ignore_errors=True)

    def nonce(self) -> int:
        """A number that no earlier prompt has."""
        self._nonce += 1
        return self._nonce

    def run(
        self,
        prompt: dict[str, Any],
        settings: dict[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Run:
        """Queue a prompt with SideStream's settings and collect what arrives until it ends.

        `extra` are additional extra data. Raises RuntimeError if the prompt fails,
        comfy_client.Unfinished if it does not end.
        """
        brought = {"sidestream": settings or {}, **(extra or {})}
        patience = self.asked.patience + self.asked.seconds
        run = self.client.run(prompt, brought, timeout=patience)
        if run.outcome != "success":
            errors = [event.data for event in run.events_of("execution_error")]
            raise RuntimeError(f"the prompt ended with {run.outcome}: {json.dumps(errors)[:4000]}")
        return run

    def output(self, run: Run, node: str, name: str) -> str:
        """What an output node of a run reports under a name."""
        return self.client.history(run.prompt_id)["outputs"][node][name][0]

    def result(self, run: Run, node: str) -> dict[str, Any]:
        """The result of a node of the helper pack."""
        found: dict[str, Any] = json.loads(self.output(run, node, "result"))
        return found

    def memory(self) -> list[dict[str, int]]:
        """The memory of the GPUs; see hostpack/watch.py."""
        found: list[dict[str, int]] = self.client.get("/sidestream-bench/memory")
        return found

    def fresh_memory(self) -> list[dict[str, int]]:
        """The same after torch has freed its unused memory."""
        found: list[dict[str, int]] = self.client.post("/sidestream-bench/fresh-memory", {})
        return found

    def log(self) -> list[dict[str, str]]:
        """All warnings after ComfyUI's start, and all of SideStream's lines."""
        return [
            line
            for index, line in enumerate(self._lines())
            if index >= self._of_the_start or "[SideStream]" in line["text"]
        ]

    def _lines(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.client.get("/sidestream-bench/log")
        return found

    def status(self) -> dict[str, Any]:
        """SideStream's status."""
        found: dict[str, Any] = self.client.get("/sidestream/status")
        return found

    def defaults(self) -> dict[str, Any]:
        """SideStream's default settings."""
        found: dict[str, Any] = self.client.get("/sidestream/settings")["defaults"]
        return found

    def has_node(self, kind: str) -> bool:
        """Whether this ComfyUI has a node of that class."""
        return bool(self.client.get(f"/object_info/{kind}"))

    def wait(self, seconds: float) -> None:
        """Let the server be idle for a while."""
        time.sleep(seconds)
