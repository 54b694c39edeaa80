"""The command line of a benchmark that is a separate program with one result."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(
    name: str,
    about: str | None,
    measured: Callable[[Path, int], dict[str, Any]],
    repetitions: int,
) -> None:
    """Call `measured(comfyui, repetitions)`, and print and save the result.

    The command line gives the arguments. `name` is the program's module in this package,
    `repetitions` the default.
    """
    module = f"benchmarks.{name}"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--output", type=Path, help="a file for the result")
    arguments = parser.parse_args()
    if arguments.comfyui is None:
        parser.error("specify ComfyUI's folder with --comfyui")
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    result = {"date": time.strftime("%Y-%m-%d"), "command": command}
    result |= measured(Path(arguments.comfyui), arguments.repetitions)
    text = json.dumps(result, indent=1)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    print(text)
