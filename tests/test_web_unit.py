"""The page's logic that needs no browser, under Node's own test runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
UNIT = REPO / "tests" / "web" / "unit"


def test_the_pages_logic() -> None:
    node = shutil.which("node")
    if node is None and os.environ.get("CI") == "true":
        pytest.fail("Node.js is not installed", pytrace=False)
    if node is None:
        pytest.skip("Node.js is not installed: the page's logic is not tested")
    files = sorted(UNIT.glob("*.test.js"))
    assert files
    hook = (UNIT / "comfy_hook.js").as_uri()
    command = [node, "--import", hook, "--test", "--test-reporter=tap", *map(str, files)]
    ran = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, f"\n{ran.stdout}\n{ran.stderr}"
    assert f"# pass {ran.stdout.count('# Subtest: ')}" in ran.stdout
