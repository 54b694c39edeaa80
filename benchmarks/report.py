"""Saved results as tables: `python -m benchmarks.report` writes them into the documents.

A table is placed between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .server import tables

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"
DOCUMENTS = (
    REPO / "docs" / "benchmarks.md",
    REPO / "docs" / "other-packs.md",
    REPO / "README.md",
)

HEADS = {
    "provider": "provider",
    "ms_per_step": "ms a step",
    "ratio_median": "ratio: median",
    "ratio_paired": "of pairs",
    "ratio_min": "min/min",
    "callback_p50_ms": "callback p50",
    "callback_p99_ms": "p99 (ms)",
    "frames": "frames",
    "animated": "animated",
    "wrong": "wrong",
    "sent_p50_ms": "captured to sent p50",
    "sent_p99_ms": "p99 (ms)",
    "ready_p50_ms": "ready to sent p50",
    "ready_p99_ms": "p99 (ms)",
    "peak_mb_above_none": "peak MB above none",
}

COMPARED = ("ComfyUI TAESD", "thread per step on a side stream", "SideStream, every step")
"""The columns of the table of runs in one process."""

IN_SERVER = (
    "ComfyUI Latent2RGB",
    "ComfyUI TAESD",
    "SideStream, every step",
    "SideStream, defaults",
)
"""The columns of the table of the real server."""

MODELS = {"sd15": "SD1.5 512², batch 1", "sdxl": "SDXL 1024², batch 1"}


def load(name: str) -> dict[str, Any]:
    """A saved result of `python -m benchmarks`."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return result


def table(result: dict[str, Any]) -> str:
    """A result as a Markdown table, with its command and remarks about all rows."""
    keys = [key for key in HEADS if key in result["rows"][0]]
    differ = ", ".join(result["latents_differ"]) or "none"
    return "\n".join(
        [
            f"{result['case']}: {result['steps']} steps, {result['repetitions']} repetitions,"
            f" {about(result)}",
            "",
            markdown(
                [[HEADS[key] for key in keys]] + [[row[k] for k in keys] for row in result["rows"]]
            ),
            "",
            f"Providers whose latents differ by a bit: {differ}. Memory that torch keeps 10 s after"
            f" the last run, decoders' weights and all: {result['mb_left_when_idle']} MB.",
        ]
    )


def parts(result: dict[str, Any]) -> str:
    """The result of `python -m benchmarks.callback` as a Markdown table."""
    gpu, python = result["sd15"], result["sd15-launch"]
    rows: list[list[Any]] = [["part of the callback", "GPU-bound (µs)", "launch-bound (µs)"]]
    whole = "*all of it, with no clocks inside*"
    rows.append([whole, gpu["callback_p50_us"], python["callback_p50_us"]])
    rows += [[part, spent, python["parts_us"][part]] for part, spent in gpu["parts_us"].items()]
    return f"{about(result)}\n\n{markdown(rows)}"


def stages(result: dict[str, Any]) -> str:
    """The result of `python -m benchmarks.stages` as a Markdown table."""
    rows: list[list[Any]] = [
        ["frames are", "steps", "ms a step without one", "ms more with one", "90 % interval", "%"]
    ]
    for row in result["rows"]:
        interval = f"{row['low_ms']} to {row['high_ms']}"
        numbers = [row[key] for key in ("steps", "without_ms", "extra_ms")]
        rows.append([row["stage"], *numbers, interval, row["extra_percent"]])
    return f"{result['case']}: {about(result)}\n\n{markdown(rows)}"


def in_server(result: dict[str, Any]) -> str:
    """The result of `python -m benchmarks.server` as Markdown tables, without log lines."""
    told = result | {"device": ", ".join(result["devices"])}
    made = [f"ComfyUI {result['comfyui']} by its main.py: {about(told)}"]
    for mode, form in tables.TABLES.items():
        if mode in result:
            made += [part for part in form(result[mode]).split("\n\n") if part.startswith("|")]
    return "\n\n".join(made)


def about(result: dict[str, Any]) -> str:
    """When, where and how a result was made."""
    made = f"{result['date']}, {result['device']}, torch {result['torch']}"
    return f"{made}: `{result['command']}`"


def comparison(*names: str) -> str:
    """A table of the median ratios of some providers in several cases."""
    rows: list[list[Any]] = [["", "ComfyUI", "a thread per step on a side stream", "SideStream"]]
    for name in names:
        result = load(name)
        ratios = {row["provider"]: row["ratio_median"] for row in result["rows"]}
        rows.append([result["case"], *(f"{ratios[provider]:.3f}" for provider in COMPARED)])
    return markdown(rows)


def costs(*names: str) -> str:
    """A table for the real server: ratios in blocks of steps, with their intervals."""
    rows: list[list[Any]] = [["", *IN_SERVER]]
    for name in names:
        for unet, found in load(name)["blocks"]["unets"].items():
            measured = {row["provider"]: row for row in found["rows"]}
            ratios = [interval(measured.get(provider, {})) for provider in IN_SERVER]
            rows.append([MODELS.get(unet, unet), *ratios])
    return markdown(rows)


def interval(row: dict[str, Any]) -> str:
    """A provider's ratio with its interval, if it was measured."""
    if "ratio" not in row:
        return "–"
    low, high = row["ratio_95"]
    return f"{row['ratio']:.3f} [{low:.3f}, {high:.3f}]"


def cost(name: str) -> str:
    """The README's sentences about the real server: what previews add to the step time."""
    result = load(name)
    [(unet, found)] = result["blocks"]["unets"].items()
    measured = {row["provider"]: row for row in found["rows"]}

    def added(provider: str) -> str:
        row = measured[provider]
        best, low, high = (f"{(r - 1) * 100:.1f}" for r in (row["ratio"], *row["ratio_95"]))
        return f"{best} % ({low} to {high} %)".replace("-", "−")

    _, comfyui, every_step, defaults = IN_SERVER
    return (
        f"{MODELS[unet]}, on one {result['devices'][0]}: TAESD previews at every step add"
        f" {added(every_step)} to the step time with SideStream, and {added(comfyui)} with ComfyUI."
        f" SideStream's defaults add {added(defaults)}. In brackets: 95 % intervals."
    )


def markdown(rows: list[list[Any]]) -> str:
    """A table whose first row is the head; NaN becomes a dash."""
    lines = ["| " + " | ".join("–" if v != v else str(v) for v in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


FORMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "callback": parts,
    "stages": stages,
    "server": in_server,
    "packs": in_server,
}
"""The forms of results other than `table`, by the first word of their names."""

COMBINED: dict[str, Callable[..., str]] = {"comparison": comparison, "cost": cost, "costs": costs}
"""Forms that take names of results as arguments."""


def filled(document: str) -> str:
    """The document's text with all its tables filled from the results."""

    def one(match: re.Match[str]) -> str:
        name, *more = match[1].split()
        form = FORMS.get(name.split("-")[0], table)
        made = COMBINED[name](*more) if name in COMBINED else form(load(name))
        return f"<!-- table {match[1]} -->\n{made}\n<!-- end -->"

    return re.sub(r"<!-- table ([^>]+?) -->\n.*?<!-- end -->", one, document, flags=re.DOTALL)


def main() -> None:
    """Write the documents."""
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
