"""Other packs beside SideStream in a real ComfyUI: are any previews missing or doubled?

Runs in the host's interpreter: `python -m tools.neighbours TREE PACK...`. Each pack is loaded
alone, before SideStream and after it, and the same graphs are run with the same seeds.
"""

from __future__ import annotations

import hashlib
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import server
from .comfy_client import ComfyClient, RequestRefused, Run, Unfinished
from .environment import SetupError, say
from .host import Host
from .places import PACK_NAME, REPO, remove_base_directory

ALONE, BEFORE, AFTER = "alone", "before", "after"
STEPS = 8
DEMO_MODEL = REPO / "tests" / "hostpack" / "demo_model_only"

# With ComfyUI's own previews, on which those of other packs are based.
ARGUMENTS = ("--cpu", "--preview-method", "latent2rgb")
EVERY_STEP = {"sidestream": {"throttle_ms": 0, "budget": 0}}

USUAL_EVENTS = {
    *("status", "feature_flags", "execution_start", "execution_cached", "execution_success"),
    *("executing", "executed", "progress", "progress_state", "sidestream.run"),
}
TROUBLE = re.compile(r"Traceback|Error\b|Exception\b|IMPORT FAILED|\[SideStream\]")

Graph = dict[str, dict[str, Any]]
Types = Mapping[str, Any]
"""What /object_info says about the nodes."""


@dataclass(frozen=True)
class Case:
    """A graph, for packs that have the node `needs`."""

    name: str
    build: Callable[[Types], Graph]
    needs: str | None = None
    sent: Mapping[str, Any] = field(default_factory=dict)


def filled(types: Types, kind: str, **given: Any) -> dict[str, Any]:
    """The node `kind` with `given` inputs; the others come from the demo model, or are defaults."""
    sources = {"MODEL": ["1", 0], "CONDITIONING": ["1", 1], "LATENT": ["1", 2]}
    inputs = dict(given)
    for name, (what, *options) in types[kind]["input"].get("required", {}).items():
        if name in inputs:
            continue
        default = options[0].get("default") if options else None
        choices = what if isinstance(what, list) else (options[0].get("options") if options else [])
        if isinstance(what, str) and what in sources:
            inputs[name] = sources[what]
        elif default is not None:
            inputs[name] = default
        elif choices:
            inputs[name] = choices[0]
    return {"class_type": kind, "inputs": inputs}


def graph(types: Types, sampler: str = "KSampler", **nodes: dict[str, Any]) -> Graph:
    """The demo model, `nodes` (whose `model`, if any, is sampled), a sampler, SaveLatent."""
    model = ["model", 0] if "model" in nodes else ["1", 0]
    usual = {"seed": 7, "steps": STEPS, "cfg": 1.0, "denoise": 1.0, "model": model}
    known = types[sampler]["input"]
    accepted = {**known.get("required", {}), **known.get("optional", {})}
    given = {name: value for name, value in usual.items() if name in accepted}
    output = types[sampler]["output"].index("LATENT")
    return {
        "1": filled(types, "SideStreamDemoModel", width=512, height=512, seconds_per_step=0.15),
        **nodes,
        "3": filled(types, sampler, **given),
        "4": filled(types, "SaveLatent", samples=["3", output], filename_prefix="neighbours"),
    }


def efficient(types: Types, method: str) -> Graph:
    """Efficiency Nodes' sampler with a method from its menu, followed by an ordinary sampler."""
    made = graph(types, "KSampler (Efficient)")
    made["3"]["inputs"] |= {"preview_method": method, "vae_decode": "false"}
    output = types["KSampler (Efficient)"]["output"].index("LATENT")
    made["5"] = filled(types, "KSampler", latent_image=["3", output], steps=STEPS, cfg=1.0, seed=8)
    made["4"]["inputs"]["samples"] = ["5", 0]
    return made


def iterated(types: Types) -> Graph:
    """AnimateDiff-Evolved's sampling, with two iterations."""
    settings = filled(types, "ADE_AnimateDiffSamplingSettings", iteration_opts=["iterations", 0])
    return graph(
        types,
        iterations=filled(types, "ADE_IterationOptsDefault", iterations=2),
        settings=settings,
        model=filled(types, "ADE_UseEvolvedSampling", sample_settings=["settings", 0]),
    )


def with_model_node(kind: str, **given: Any) -> Callable[[Types], Graph]:
    """A graph in which the node `kind` changes the MODEL."""
    return lambda types: graph(types, model=filled(types, kind, **given))


ANIMATED = {"extra_pnginfo": {"workflow": {"extra": {"VHS_latentpreview": True}}}}
OVERRIDE = "ModelPreviewOverrideKJ"
CASES = (
    Case("KSampler", graph),
    Case("KSampler, animated previews on", graph, "VHS_VideoCombine", ANIMATED),
    Case("Model Preview Override", with_model_node(OVERRIDE), OVERRIDE),
    Case("KSampler (Efficient) auto, then KSampler", lambda types: efficient(types, "auto"),
         "KSampler (Efficient)"),
    Case("KSampler (Efficient) none, then KSampler", lambda types: efficient(types, "none"),
         "KSampler (Efficient)"),
    Case("ClownsharKSampler", lambda types: graph(types, "ClownsharKSampler_Beta"),
         "ClownsharKSampler_Beta"),
    Case("Evolved Sampling, 2 iterations", iterated, "ADE_UseEvolvedSampling"),
    Case("Tiled Diffusion", with_model_node("TiledDiffusion", tile_width=256, tile_height=256),
         "TiledDiffusion"),
)  # fmt: skip


@dataclass
class Seen:
    """What one run showed."""

    ours: list[str] = field(default_factory=list)
    """The labels of SideStream's frames, each with its node."""
    others: int = 0
    """The number of other frames."""
    events: Counter[str] = field(default_factory=Counter)
    """JSON events that neither ComfyUI nor SideStream sends."""
    progress: int = 0
    latent: str = ""
    problem: str = ""
    in_charge: str = ""

    @property
    def pictures(self) -> int:
        """The number of pictures, in frames and in other packs' events."""
        return len(self.ours) + self.others + sum(self.events.values())

    def __str__(self) -> str:
        if self.problem:
            return self.problem
        parts = [f"{len(self.ours)} ours"] if self.ours else []
        parts += [f"{self.others} others"] if self.others else []
        parts += [f"{count} {name}" for name, count in self.events.items()]
        return ", ".join(parts) or "none"


def seen(client: ComfyClient, run: Run) -> Seen:
    """What `run` showed."""
    found = Seen()
    for frame in run.frames:
        own = frame.sidestream
        if frame.metadata.get("prompt_id", run.prompt_id) != run.prompt_id:
            continue  # the previous run's last frame, which came late
        if own:
            node = frame.metadata["display_node_id"]
            found.ours.append(f"{node}:{own['step']}/{own['total_steps']}")
        else:
            found.others += 1
    names = [event.type for event in run.events]
    found.events.update(name for name in names if name not in USUAL_EVENTS)
    found.progress = names.count("progress")
    status = client.history(run.prompt_id)["status"]["status_str"]
    if status != "success":
        found.problem = f"ended: {status}"
        return found
    found.latent = hashlib.sha256(client.saved_latent(run.prompt_id, "4")).hexdigest()[:8]
    return found


def packs_of(pack: Path, order: str, base: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """The packs that are loaded first, and those that follow."""
    demo, theirs = {DEMO_MODEL.name: DEMO_MODEL}, {pack.name: pack}
    if order == ALONE:
        return {}, demo | theirs
    ours = {PACK_NAME: REPO}
    return (theirs, ours) if order == BEFORE else (ours, theirs)


def start(host: Host, pack: Path, order: str, base: Path) -> server.RunningHost:
    """A host with the pack, and with SideStream unless it is to be alone."""
    early, late = packs_of(pack, order, base)
    server.make_base_directory(base, late)
    arguments: tuple[str, ...] = ARGUMENTS
    if early:
        # A default folder is searched before others.
        server.make_base_directory(base / "early", early)
        config = base / "early.yaml"
        nodes = (base / "early" / "custom_nodes").as_posix()
        config.write_text(f"early:\n  is_default: true\n  custom_nodes: '{nodes}'\n", "utf-8")
        arguments = (*arguments, "--extra-model-paths-config", str(config))
    return server.start(host, base, arguments)


def observed(host: Host, pack: Path, order: str) -> tuple[dict[str, Seen], list[str]]:
    """What each graph showed, and the log lines that indicate trouble."""
    results: dict[str, Seen] = {}
    base = Path(tempfile.mkdtemp(prefix="neighbours-"))
    try:
        with start(host, pack, order, base) as running:
            running.wait_until_ready()
            with ComfyClient(running.url) as client:
                types = client.get("/object_info")
                for number, case in enumerate(CASES):
                    if case.needs is None or case.needs in types:
                        results[case.name] = _run(client, case, types, number)
                        if order != ALONE:
                            provider = client.get("/sidestream/status")["provider"]
                            results[case.name].in_charge = provider["in_charge"]
            lines = [line for line in running.log_text.splitlines() if TROUBLE.search(line)]
    finally:
        remove_base_directory(base / "early")
        remove_base_directory(base)
    return results, lines


def _run(client: ComfyClient, case: Case, types: Types, number: int) -> Seen:
    try:
        made = case.build(types)
        for node in made.values():
            if "seed" in node["inputs"]:  # a different one, or ComfyUI would have it cached
                node["inputs"]["seed"] += 100 * number
        return seen(client, client.run(made, {**EVERY_STEP, **case.sent}))
    except (RequestRefused, Unfinished, KeyError, ValueError) as error:
        return Seen(problem=" ".join(f"{type(error).__name__}: {error}".split())[:300])


def verdict(alone: Seen, beside: Seen) -> str:
    """What is wrong with a run beside SideStream; "" if nothing is."""
    if beside.problem:
        return "fails"
    # Packs that show pictures at their own rate vary from run to run.
    slack = 0 if not alone.events else alone.pictures // 4
    wrong = []
    if beside.pictures < alone.pictures - slack:
        wrong.append("fewer")
    # Additional frames that are all ours come from samplers that would have shown nothing.
    both = bool(beside.ours) and beside.pictures > len(beside.ours)
    if both and beside.pictures > alone.pictures + slack:
        wrong.append("doubled")
    if beside.progress < alone.progress:
        wrong.append("coarser progress")
    if beside.latent != alone.latent:
        wrong.append("other latents")
    return ", ".join(wrong)


def rows(pack: Path, by_order: Mapping[str, Mapping[str, Seen]]) -> Iterator[list[str]]:
    """The table's rows of a pack."""
    for name, alone in by_order[ALONE].items():
        beside = [by_order[order].get(name, Seen(problem="not run")) for order in (BEFORE, AFTER)]
        wrong = [text for each in beside if (text := verdict(alone, each))]
        if alone.problem:  # it does not run without SideStream either
            wrong = ["not tried"]
        charge = " / ".join(dict.fromkeys(each.in_charge or "-" for each in beside))
        cells = [str(each) for each in (alone, *beside)]
        yield [pack.name, name, *cells, charge, "; ".join(wrong) or "good"]


def main(arguments: Sequence[str]) -> int:
    """Compare all packs; returns 1 if any previews are worse beside SideStream."""
    host = Host(Path(arguments[0]), Path(sys.executable), own=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    table: list[list[str]] = []
    for folder in arguments[1:]:
        pack = Path(folder).absolute()
        by_order: dict[str, dict[str, Seen]] = {}
        try:
            known: set[str] = set()
            for order in (ALONE, BEFORE, AFTER):
                by_order[order], lines = observed(host, pack, order)
                lines = [line for line in dict.fromkeys(lines) if line not in known]
                known.update(lines)
                say(f"{pack.name}, {order}:")
                for name, found in by_order[order].items():
                    say(f"  {name}: {found}; {found.progress} progress; latent {found.latent}")
                    if found.ours:
                        say(f"    {' '.join(found.ours)}")
                for line in lines:
                    say(f"  log: {line[:200]}")
                if any("(IMPORT FAILED)" in line and line.endswith(pack.name) for line in lines):
                    raise SetupError("its import fails")
        except SetupError as error:
            say(f"{pack.name}: {error}")
            why = str(error).splitlines()[0]
            table.append([pack.name, "-", why, "", "", "", "not tried"])
            continue
        table += rows(pack, by_order)
    head = ["pack", "graph", "without SideStream", "loaded before it", "loaded after it"]
    say(f"\nComfyUI {host.version}")
    for row in [[*head, "in charge", "result"], ["---"] * (len(head) + 2), *table]:
        say(f"| {' | '.join(row)} |")
    return int(any(row[-1] not in ("good", "not tried") for row in table))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
