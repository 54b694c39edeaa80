"""The panel's modules are typed against ComfyUI's own types."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

CHECKS = Path(__file__).resolve().parents[2] / "tools" / "web"
COMPILER = CHECKS / "node_modules" / "typescript" / "bin" / "tsc"


def test_the_modules_pass_the_type_check() -> None:
    if not COMPILER.exists():
        pytest.skip("run `npm ci` in tools/web first")
    command = ["node", str(COMPILER), "--project", str(CHECKS / "tsconfig.json")]
    checked = subprocess.run(command, cwd=CHECKS, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
