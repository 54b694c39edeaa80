"""I4 and I6: the short form of `python dev.py fuzz`. No file ends the worker or takes memory."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sidestream.tests.conftest import REPO


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for the most memory used")
def test_i4_i6_200_spoilt_decoder_files_cost_a_line_each_and_nothing_else() -> None:
    command = [sys.executable, "-m", "benchmarks.fuzz", "--json", "--cases", "200"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=500)
    assert done.stdout, done.stderr
    result = json.loads(done.stdout)
    assert result["faults"] == []
    assert result["cases"] == 200
    # Some bits may be flipped, and the file is a decoder still.
    assert result["decoded"] > 5
    assert result["refused"] > 100
    assert result["memory_mb"] <= 200
