"""I5 bounded: the short form of `python dev.py soak`. Nothing grows with runs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sidestream.tests.conftest import REPO


@pytest.mark.skipif(sys.platform != "linux", reason="counts what is in /proc")
def test_i5_nothing_grows_with_runs_of_all_kinds() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--json", "--runs", "100", "--steps", "40"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    start, _, end = json.loads(done.stdout)
    assert (start["runs"], end["runs"]) == (10, 100)
    assert end["captured"] > 2000
    assert end["sent"] > 200
    for kind in ("threads", "files", "sockets", "vram_kb"):
        assert end[kind] <= start[kind], kind
    # On a GPU torch keeps a block for each size that came by.
    kept = 1 if start["reserved_vram_kb"] else 0
    assert end["pinned_kb"] <= start["pinned_kb"] + 100 * kept
    assert end["reserved_vram_kb"] <= start["reserved_vram_kb"] + 4096 * kept
    assert end["objects"] < start["objects"] + 500  # a run that stays is dozens, a frame several
    assert end["rss_mb"] < start["rss_mb"] + 30
