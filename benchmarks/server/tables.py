"""Results as short Markdown tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Result = Any


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table; None becomes a dash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell(each) for each in line) + " |" for line in lines)


def cell(value: Any) -> str:
    """One cell's text."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def span(values: Sequence[float] | None) -> str:
    """An interval."""
    return "–" if not values else f"{values[0]:.3f} to {values[1]:.3f}"


def ordinary(result: Result) -> str:
    """One row for each run."""
    return f"{runs_table(result, '')}\n\n{log_lines(result)}"


def runs_table(result: Result, name: str) -> str:
    """The runs of the KSampler node."""
    rows = [
        row for unet, found in result["unets"].items() for row in run_rows(f"{name}{unet}", found)
    ]
    return markdown(RUN_HEAD, rows)


RUN_HEAD = (
    "run",
    "frames",
    "steps",
    "wrong",
    "in order",
    "kB",
    "s",
    "latents bit-identical",
    "MB above none",
    "MB when idle",
)


def run_rows(name: str, found: Result) -> list[list[Any]]:
    """The runs of one model."""
    memory = found["memory"]
    rows = []
    for run in found["runs"]:
        seen = run["frames"]
        rows.append(
            [
                f"{name}, {run['kind']}",
                seen["frames"],
                seen["steps"],
                len(seen["wrong"]),
                seen["in_order"],
                seen["median_kb"],
                run["seconds"],
                found["bit_identical"],
                memory.get("reserved_above_none_mb"),
                memory.get("reserved_when_idle_mb"),
            ]
        )
    return rows


def blocks(result: Result) -> str:
    """One table for each model."""
    tables = []
    for unet, found in result["unets"].items():
        head = (
            unet,
            "blocks",
            "ms a step",
            "ratio",
            "95 %",
            "of medians",
            "95 %",
            "callback p50",
            "p99 (ms)",
            "frames",
            "steps",
        )
        rows = [
            [
                row["provider"],
                row.get("left_out", row["blocks"]),
                row.get("ms_per_step"),
                row.get("ratio"),
                span(row.get("ratio_95")),
                row.get("median_ratio"),
                span(row.get("median_ratio_95")),
                row.get("callback_p50_ms"),
                row.get("callback_p99_ms"),
                row.get("frames"),
                row.get("steps"),
            ]
            for row in found["rows"]
        ]
        tables.append(markdown(head, rows))
    return "\n\n".join([*tables, log_lines(result)])


def hammer(result: Result) -> str:
    """One row for each way to hammer."""
    head = (
        "hammered by",
        "bit-identical",
        "calls",
        "raised",
        "absent",
        "failed runs",
        "absent",
        "frames",
    )
    rows = [
        [
            f"{unet}, {way['way']}",
            way["bit_identical"],
            sum(sum(run["calls"].values()) for run in way["runs"]),
            way["raised"],
            way["raised_absent"],
            way["failed"],
            way["failed_absent"],
            sum(run.get("frames", 0) for run in way["runs"]),
        ]
        for unet, ways in result["unets"].items()
        for way in ways
    ]
    return f"{markdown(head, rows)}\n\n{log_lines(result)}"


def gpus(result: Result) -> str:
    """One row for each way to use two GPUs."""
    if "left_out" in result:
        return f"Two GPUs: {result['left_out']}."
    head = ("two GPUs", "frames", "steps", "wrong", "in order", "share by frames", "by status")
    rows = [
        [
            f"{unet}, {name}",
            run["frames"]["frames"],
            run["frames"]["steps"],
            len(run["frames"]["wrong"]),
            run["frames"]["in_order"],
            run["decoding_share_by_frames"],
            ", ".join(f"{each['path']}: {each['share']}" for each in run["devices"]),
        ]
        for unet, found in result["unets"].items()
        for name, run in found.items()
    ]
    return f"{markdown(head, rows)}\n\n{log_lines(result)}"


def matrix(result: Result) -> str:
    """The runs of all combinations in one table."""
    rows: list[list[Any]] = []
    lines = []
    for name, found in result.items():
        if "failed" in found:
            rows.append([f"{name}: {found['failed'][:200]}", *[None] * (len(RUN_HEAD) - 1)])
            continue
        for unet, runs in found["unets"].items():
            rows += run_rows(f"{name}, {unet}", runs)
        lines.append(f"{name}. {log_lines(found)}")
    return "\n\n".join([markdown(RUN_HEAD, rows), *lines])


def packs(result: Result) -> str:
    """One row for each way to use each pack."""
    head = (
        "",
        "version",
        "previews",
        "ms a step without",
        "ratio",
        "95 %",
        "callback p50",
        "p99 (ms)",
        "frames",
        "steps",
        "of 20 steps, different",
        "px",
        "dB of the last",
        "MB above none",
    )
    return markdown(head, [pack_row(row) for row in result["rows"]])


def pack_row(row: Result) -> list[Any]:
    """One row of it."""
    told = ", ".join(row[key] for key in ("version", "commit", "date") if row[key])
    if "failed" in row:
        return [row["pack"], told, f"{row['previews']}: failed: {row['failed'][:200]}"]
    return [
        row["pack"],
        told,
        row["previews"],
        row.get("ms_per_step_without"),
        row.get("ratio"),
        span(row.get("ratio_95")),
        row.get("callback_p50_ms"),
        row.get("callback_p99_ms"),
        row.get("frames"),
        row.get("steps"),
        row["different"],
        "×".join(map(str, row["size"])) if "size" in row else None,
        row.get("last_psnr"),
        row["reserved_above_none_mb"],
    ]


def log_lines(result: Result) -> str:
    """What was logged."""
    lines = [f"- {line['level']}: {line['text']}" for line in result["log"]]
    return "\n".join(["Log: nothing." if not lines else "Log:", *lines])


TABLES: dict[str, Callable[[Result], str]] = {
    "ordinary": ordinary,
    "blocks": blocks,
    "hammer": hammer,
    "gpus": gpus,
    "matrix": matrix,
    "packs": packs,
}
