"""`python -m benchmarks`, which needs ComfyUI and a CUDA device; see --help."""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import os
import random
import shlex
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
CASES = ("sdxl", "sd15", "sd15-launch", "wan", "vae")
IDLE = 10.0
"""Seconds without sampling after which SideStream has freed its working memory."""


def name_the_pack() -> None:
    """Make the checkout importable as `sidestream`, whatever its folder is named."""
    if "sidestream" in sys.modules:
        return
    pack = types.ModuleType("sidestream")
    pack.__path__ = [str(REPO)]
    pack.__spec__ = importlib.machinery.ModuleSpec("sidestream", None, is_package=True)
    sys.modules["sidestream"] = pack


def enter_comfyui(tree: Path) -> None:
    """Make `comfy` importable from the ComfyUI in `tree`, with decoder files of random weights."""
    sys.path.insert(0, str(tree))
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import folder_paths
    from sidestream.benchmarks.weights import write_decoders

    folder = tempfile.mkdtemp(prefix="sidestream-bench-")
    write_decoders(Path(folder))
    folder_paths.folder_names_and_paths["vae_approx"] = ([folder], {".pth"})


def install_pack(server: Any) -> tuple[Any, Any]:
    """Install SideStream; returns it and its engines. Raises SystemExit.

    ComfyUI's progress goes to `server`, the stand-in.
    """
    import comfy.utils
    from sidestream.benchmarks import standin
    from sidestream.preview.pack import Pack

    comfy.utils.set_progress_bar_global_hook(standin.progress_hook(server))
    pack = Pack()
    pack.install()
    if pack.problem or pack._engines is None:
        raise SystemExit(f"SideStream cannot be installed: {pack.problem}")
    return pack, pack._engines


def enter_with_pack(tree: Path) -> tuple[Any, Any, Any]:
    """The stand-in for the server, and SideStream and its engines in the ComfyUI in `tree`."""
    name_the_pack()
    from sidestream.benchmarks import standin

    server = standin.install()
    enter_comfyui(tree)
    return (server, *install_pack(server))


def bench(
    case_name: str, only: list[str], repetitions: int | None, seconds: float, seed: int
) -> dict[str, Any]:
    """Run a case: all providers in a new random order, repeatedly, for that many seconds."""
    import torch
    from sidestream.benchmarks import measure, models, providers

    device = torch.device("cuda", torch.cuda.current_device())
    server = sys.modules["server"].PromptServer.instance
    pack, engines = install_pack(server)
    pack._provider.uninstall()
    case = models.CASES[case_name]
    sampling = measure.Sampling(case, models.build(case.unet, device), server, device)
    references = measure.reference_pictures(sampling, 512)
    before = measure.memory_left(device)
    compared = providers.compared(case_name, pack, sampling.model, device)
    compared = [p for p in compared if not only or p.name in only]
    seen = {provider.name: measure.Measured() for provider in compared}
    warm_up = {provider.name: measure.Measured() for provider in compared}
    order = random.Random(seed)
    latents: dict[str, torch.Tensor] = {}
    differing = set()
    end = time.monotonic() + seconds
    for repetition in range(-1, repetitions or case.repetitions):
        if repetition > 0 and time.monotonic() > end:
            break
        shuffled = compared[:]
        order.shuffle(shuffled)
        for provider in shuffled:
            into = warm_up if repetition < 0 else seen
            samples = measure.measure(sampling, provider, into[provider.name], references)
            first = latents.setdefault("first", samples)
            if not torch.equal(first, samples):
                differing.add(provider.name)
    for provider in compared:
        for engine in engines.all():
            engine.backend.release()
        measure.measure_memory(sampling, provider, seen[provider.name])
    time.sleep(IDLE)
    left = measure.memory_left(device) - before
    base = seen[compared[0].name]
    rows = [measure.row(case, p.name, seen[p.name], base) for p in compared]
    counters = pack._runs.counters()
    pack.close()
    return {
        "case": case.name,
        "steps": case.steps,
        "repetitions": len(base.seconds),
        "rows": rows,
        "latents_differ": sorted(differing),
        "mb_left_when_idle": round(left / 2**20, 1),
        "idle_seconds": IDLE,
        "seconds": {name: each.seconds for name, each in seen.items()},
        "counters": counters,
    }


def main() -> None:
    """Parse the command line, run, print and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    comfyui = os.environ.get("COMFYUI_PATH")
    parser.add_argument("--comfyui", type=Path, default=comfyui, required=comfyui is None)
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--only", action="append", default=[], help="a provider's name")
    parser.add_argument("--repetitions", type=int)
    parser.add_argument("--seconds", type=float, default=1e9, help="the time for a case, about")
    parser.add_argument("--seed", type=int, default=0, help="for the order of providers")
    parser.add_argument("--output", type=Path, help="a folder for the results")
    arguments = parser.parse_args()

    sys.path.insert(0, str(REPO))
    name_the_pack()
    from sidestream.benchmarks import standin
    from sidestream.benchmarks.report import table

    standin.install()
    enter_comfyui(arguments.comfyui)
    sys.path.remove(str(REPO))
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: there is nothing to measure here")
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
    }
    print(json.dumps(about))
    for case in arguments.case or CASES:
        limits = (arguments.repetitions, arguments.seconds)
        result = about | bench(case, arguments.only, *limits, arguments.seed)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            (arguments.output / f"{case}.json").write_text(json.dumps(result, indent=1))
        print(table(result), flush=True)


if __name__ == "__main__":
    main()
