"""The measurements in a running ComfyUI. Each mode returns its part of the results."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from . import frames, plan, prompts, ratios
from .looks import megabytes, references, watched_memory
from .packs import packs
from .session import Session, Setup

HAMMERS = (("callback", "euler_ancestral"), ("thread", "euler"), ("thread, graphs", "euler"))

Result = dict[str, Any]


def ordinary(asked: Setup) -> Result:
    """Runs of the KSampler node: frames, latents, memory, log."""
    with Session(asked) as session:
        found = {unet: ordinary_of(session, unet) for unet in asked.unets}
        status = session.status()
        log = session.log()
    with Session(asked, pack=False) as session:
        absent = {unet: latents(session, unet, 3)[1:] for unet in asked.unets}
    for unet, hashes in absent.items():
        of_sidestream = {run["latent"] for run in found[unet]["runs"]}
        found[unet]["absent"] = hashes
        found[unet]["bit_identical"] = len(of_sidestream | set(hashes)) == 1
    return {"unets": found, "devices": status["devices"], "log": log}


def ordinary_of(session: Session, unet: str) -> Result:
    """The runs of one model in a server; the first one is not compared."""
    asked = session.asked
    latents(session, unet, 1)
    right = references(session, unet)
    off: tuple[str, dict[str, Any]] = ("off", {"method": "off"})
    every_step: tuple[str, dict[str, Any]] = ("every step", plan.EVERY_STEP)
    kinds = [off, off, off, every_step, off, every_step, ("defaults", {})]
    runs = []
    for name, settings in kinds:
        before = session.fresh_memory()
        with watched_memory(session) as seen:
            started = time.monotonic()
            prompt = prompts.sampled(unet, asked.size(unet), session.nonce(), asked.steps)
            run = session.run(prompt, settings)
            seconds = time.monotonic() - started
        entry: Result = {
            "kind": name,
            "latent": session.output(run, prompts.END, "sha256"),
            "seconds": round(seconds, 3),
            "memory_before": before,
            "memory_during": seen,
            "memory_after": session.memory(),
        }
        own = [frame for frame in run.frames if frame.sidestream]
        entry["frames"] = frames.judged(own, asked.steps, right)
        runs.append(entry)
    session.wait(asked.idle)
    idle = session.memory()
    return {
        "runs": runs,
        "memory_idle": idle,
        "reference_latent_same": right["latent"] == runs[0]["latent"],
        "memory": memory_in_short(runs, session.fresh_memory()),
    }


def memory_in_short(runs: list[Result], idle: list[dict[str, int]]) -> Result:
    """In MB: how much more memory previews take than none, and how much they keep.

    `idle` is the memory after torch has freed what is unused, as it had before each run.
    """
    if not idle:
        return {}
    gpu = 0
    # Those before any previews: a later one has what the decoder still keeps. Several, since even
    # without previews the most that is reserved varies by two of the allocator's 32 MB.
    first = list(itertools.takewhile(lambda run: run["kind"] == "off", runs))
    off = [run["memory_during"][gpu] for run in first]
    on = [run["memory_during"][gpu] for run in runs if run["kind"] != "off"]
    before = first[0]["memory_before"][gpu]
    most, least = "most_reserved", "least_free"
    return {
        "reserved_above_none_mb": megabytes(max(r[most] for r in on) - max(r[most] for r in off)),
        "free_below_none_mb": megabytes(min(r[least] for r in off) - min(r[least] for r in on)),
        "allocated_when_idle_mb": megabytes(idle[gpu]["allocated"] - before["allocated"]),
        "reserved_when_idle_mb": megabytes(idle[gpu]["reserved"] - before["reserved"]),
    }


def latents(session: Session, unet: str, runs: int) -> list[str]:
    """The hashes of the latents of that many runs without previews."""
    asked = session.asked
    found = []
    for _ in range(runs):
        prompt = prompts.sampled(unet, asked.size(unet), session.nonce(), asked.steps)
        run = session.run(prompt, {"method": "off"})
        found.append(session.output(run, prompts.END, "sha256"))
    return found


def blocks(asked: Setup) -> Result:
    """The cost of each provider; see plan.py and ratios.py."""
    with Session(asked) as session:
        found = {unet: blocks_of(session, unet) for unet in asked.unets}
        return {"unets": found, "log": session.log()}


def blocks_of(session: Session, unet: str) -> Result:
    """One sampling in blocks."""
    asked = session.asked
    compared = asked.providers or plan.COMPARED
    latents(session, unet, 1)
    rounds = -(-asked.blocks // (2 * len(compared)))
    told = plan.plan(compared, rounds, asked.seed, asked.seconds, session.defaults())
    prompt = prompts.measured(
        "SideStreamBenchBlocks", unet, asked.size(unet), session.nonce(), plan=json.dumps(told)
    )
    run = session.run(prompt)
    result = session.result(run, prompts.SAMPLER)
    made = [(frame.sidestream.get("step"), frame.received_at) for frame in run.frames]
    ratios.count_frames(result, made)
    sizes = sorted(len(frame.image) for frame in run.frames if frame.sidestream)
    return {
        "rows": ratios.rows(result, compared),
        "blocks": len(result["blocks"]),
        "median_kb": round(sizes[len(sizes) // 2] / 1024, 1) if sizes else None,
        "seconds": [[block["provider"], block["seconds"]] for block in result["blocks"]],
    }


def hammer(asked: Setup) -> Result:
    """Other code does its worst beside a sampler: the latents, and which calls raise."""
    with Session(asked) as session:
        found = {}
        for unet in asked.unets:
            latents(session, unet, 1)
            found[unet] = [hammered(session, unet, *each) for each in HAMMERS]
        return {"unets": found, "log": session.log()}


def hammered(session: Session, unet: str, way: str, sampler: str) -> Result:
    """One way to hammer: two runs with SideStream, between two without."""
    asked = session.asked
    runs = []
    for absent in (True, False, False, True):
        prompt = prompts.measured(
            "SideStreamBenchHammer",
            unet,
            asked.size(unet),
            session.nonce(),
            steps=asked.steps,
            sampler=sampler,
            way=way,
            absent=absent,
        )
        run = None
        try:
            run = session.run(prompt, plan.EVERY_STEP)
            each = session.result(run, prompts.SAMPLER)
            each["frames"] = len([frame for frame in run.frames if frame.sidestream])
        except RuntimeError as error:
            each = {"latent": "none", "calls": {}, "raised": {}, "failed": str(error)}
        runs.append({"absent": absent, **each})
    return {
        "way": way,
        "sampler": sampler,
        "bit_identical": len({run["latent"] for run in runs}) == 1,
        "raised": sum(sum(run["raised"].values()) for run in runs if not run["absent"]),
        "raised_absent": sum(sum(run["raised"].values()) for run in runs if run["absent"]),
        "failed": sum("failed" in run for run in runs if not run["absent"]),
        "failed_absent": sum("failed" in run for run in runs if run["absent"]),
        "runs": runs,
    }


def gpus(asked: Setup) -> Result:
    """Sampling on one GPU and decoding on another; a model split over both."""
    with Session(asked) as session:
        if len(session.memory()) < 2:
            return {"left_out": "fewer than two GPUs"}
        found: dict[str, Result] = {}
        for unet in asked.unets:
            latents(session, unet, 1)
            right = references(session, unet)
            away = plan.EVERY_STEP | {"device": "1"}
            found[unet] = {"decoded on cuda:1": on_two(session, unet, right, away, split=False)}
            if session.has_node("MultiGPU_WorkUnits"):
                references(session, unet, split=True)  # warm-up: the first run rounds differently
                right = references(session, unet, split=True)  # a split model rounds differently
                for name, settings in (("CFG split", plan.EVERY_STEP), ("both", away)):
                    found[unet][name] = on_two(session, unet, right, settings, split=True)
        return {"unets": found, "log": session.log()}


def on_two(
    session: Session, unet: str, right: dict[str, Any], settings: dict[str, Any], split: bool
) -> Result:
    """Two runs, the second of which is judged, and each device's share against the frames'."""
    asked = session.asked
    for _ in range(2):
        prompt = prompts.sampled(unet, asked.size(unet), session.nonce(), asked.steps, split)
        started = time.monotonic()
        run = session.run(prompt, settings)
        seconds = time.monotonic() - started
    own = [frame for frame in run.frames if frame.sidestream]
    spent = sum(frame.sidestream.get("decode_ms", 0.0) for frame in own) / 1000
    return {
        "frames": frames.judged(own, asked.steps, right),
        "latent": session.output(run, prompts.END, "sha256"),
        "seconds": round(seconds, 3),
        "decoding_share_by_frames": round(spent / seconds, 4),
        "devices": session.status()["devices"],
    }


def matrix(asked: Setup) -> Result:
    """The ordinary runs with both allocators, with and without DynamicVRAM."""
    found = {}
    for allocator, first in (("cudaMallocAsync", ()), ("native", ("--disable-cuda-malloc",))):
        for memory, second in (("DynamicVRAM", ()), ("none", ("--disable-dynamic-vram",))):
            name = f"{allocator}, {memory}"
            print(f"{name} ...", flush=True)
            try:
                found[name] = ordinary(with_arguments(asked, *first, *second))
            except Exception as error:  # the other combinations are still worth measuring
                found[name] = {"failed": str(error)[:4000]}
    return found


def with_arguments(asked: Setup, *arguments: str) -> Setup:
    """The same with additional arguments for ComfyUI."""
    return replace(asked, arguments=(*asked.arguments, *arguments))


MODES: dict[str, Callable[[Setup], Result]] = {
    "ordinary": ordinary,
    "blocks": blocks,
    "hammer": hammer,
    "gpus": gpus,
    "matrix": matrix,
    "packs": packs,
}
