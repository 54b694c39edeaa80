"""Measure SideStream in a real ComfyUI: `python dev.py bench-server -- MODE...`.

Starts ComfyUI by its own main.py, with models of real shapes and random weights, and a websocket
client in another process. Modes:

    ordinary  runs of the KSampler node: frames, latents, memory, log
    blocks    the cost of each way to make previews, in blocks of steps within one run
    hammer    everything that other code may do beside a sampler, at each step and continuously
    gpus      sampling on one GPU, decoding on another; a model split over two
    matrix    `ordinary` with both allocators, with and without DynamicVRAM
    packs     previews of ComfyUI, SideStream and the packs in the folder --packs
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import files, plan, session, tables
from .filler import filled_card
from .modes import MODES


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("modes", nargs="+", choices=MODES, metavar="MODE")
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(tempfile.gettempdir()) / "sidestream-bench-models",
        help="a folder for the random model files, which are kept",
    )
    parser.add_argument("--unet", action="append", choices=files.SHAPES, help="sd15 and sdxl")
    parser.add_argument("--tiny", action="store_true", help="a tiny UNet, 128 px")
    parser.add_argument("--cpu", action="store_true", help="sample on the CPU")
    parser.add_argument(
        "--host", action="append", default=[], metavar="=--ARGUMENT", help="for ComfyUI"
    )
    parser.add_argument("--steps", type=int, default=20, help="per ordinary run")
    parser.add_argument("--blocks", type=int, default=400, help="at most, with 6 steps each")
    parser.add_argument("--seconds", type=float, default=240.0, help="the time for all blocks")
    parser.add_argument("--seed", type=int, default=0, help="for the order of providers")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds after the last run")
    parser.add_argument("--provider", action="append", default=[], choices=plan.COMPARED)
    parser.add_argument(
        "--left", type=float, metavar="GB", help="leave only this much of the first GPU's memory"
    )
    parser.add_argument("--packs", type=Path, help="a folder with checkouts of other packs")
    parser.add_argument("--output", type=Path, help="a file for the results, JSON")
    arguments = parser.parse_args()
    if arguments.comfyui is None:
        parser.error("specify ComfyUI's folder with --comfyui or COMFYUI_PATH")
    return arguments


def main() -> None:
    """Measure, save and print."""
    given = parsed()
    unets = ("tiny",) if given.tiny else tuple(given.unet or ("sd15", "sdxl"))
    asked = session.Setup(
        comfyui=Path(given.comfyui).absolute(),
        models=given.models.absolute(),
        unets=unets,
        arguments=(*(("--cpu",) if given.cpu else ()), *given.host),
        steps=given.steps,
        seconds=given.seconds,
        blocks=given.blocks,
        seed=given.seed,
        providers=tuple(given.provider),
        idle=given.idle,
        packs=given.packs and given.packs.absolute(),
    )
    session.write_models(asked)
    with contextlib.nullcontext(None) if given.left is None else filled_card(given.left) as left:
        measure(given, asked, left)


def measure(given: argparse.Namespace, asked: session.Setup, left: float | None) -> None:
    """Run the modes and print their results; `left` is the limit of free memory in GB, if any."""
    results: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", "benchmarks.server", *sys.argv[1:]]),
        **session.about(asked),
        **({} if left is None else {"left_gb": round(left, 2)}),
    }
    printed = []
    for mode in given.modes:

        def save(result: dict[str, Any], mode: str = mode) -> None:
            """Write what has been measured so far."""
            results[mode] = result
            if given.output:
                given.output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")

        save(MODES[mode](replace(asked, save=save)))
        printed.append(tables.TABLES[mode](results[mode]))
    print(json.dumps({name: results[name] for name in results if name not in MODES}))
    print("\n\n".join(printed), flush=True)


if __name__ == "__main__":
    main()
