"""A ComfyUI in Python's development mode, on a console of few characters, with odd files: I6."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from sidestream.tests.conftest import REPO
from sidestream.tests.graphs import demo_graph
from sidestream.tests.helpers import wait_until
from sidestream.tools import server

STEPS = 6
ODD_NAMES = ["taesd_decoder \U0001f600.pth", "taesd_decoder\udcff.pth", "taef1_decoder\nforged.pth"]
COMPLAINTS = ("ResourceWarning", "was never awaited", "Task was destroyed", "Logging error")


@pytest.mark.skipif(sys.platform != "linux", reason="such names are not possible elsewhere")
def test_i6_odd_names_on_a_narrow_console_cost_their_decoders_and_nothing_else(
    comfy_host: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    running = comfy_host(fresh=True)
    folder = running.base_dir / "models" / "vae_approx"
    for name in ODD_NAMES:
        (folder / name).write_bytes(b"version https://git-lfs.github.com/spec/v1")
    client = connect(running)
    since = len(running.log_text)
    run = client.run(
        demo_graph({"method": "taesd", "throttle_ms": 0, "budget": 0}, steps=STEPS, seconds=0.05)
    )
    assert run.outcome == "success"
    assert {frame.sidestream["decoder"] for frame in run.frames} == {"latent2rgb"}
    report = client.get_bytes("/sidestream/report").decode("utf-8")
    assert "a Git LFS pointer" in report
    assert "taesd_decoder\\udcff.pth" in report
    assert "taef1_decoder\\nforged.pth" in report or "taef1_decoder forged.pth" in report
    [refused] = client.get("/sidestream/status")["refused"]
    assert refused.isascii()
    lines = [line for line in running.log_text[since:].splitlines() if "[SideStream]" in line]
    assert len(lines) == 1
    client.queue(demo_graph({"throttle_ms": 0}, steps=2000, seconds=0.05))
    assert wait_until(lambda: client.get("/sidestream/status")["counters"]["active_runs"] == 1)
    os.kill(running.process.pid, signal.SIGINT)
    assert wait_until(lambda: running.process.poll() is not None, 60)
    log = running.log_text
    # ComfyUI itself leaves things unclosed: what counts is what is ours.
    ours = ("ComfyUI-SideStream/preview", f"{REPO}/preview", "sidestream.preview")
    complaints = [line for line in log.splitlines() if any(each in line for each in COMPLAINTS)]
    assert not [line for line in complaints if any(place in line for place in ours)]
    assert "Logging error" not in log


def test_a_base_directory_has_the_packs_that_are_named_and_no_others(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept.txt").touch()
        server.make_base_directory(tmp_path / "base", {name: tmp_path / name})
    assert os.listdir(tmp_path / "base" / "custom_nodes") == ["new"]
    assert (tmp_path / "base" / "custom_nodes" / "new" / "kept.txt").exists()
    assert (tmp_path / "old" / "kept.txt").exists()
