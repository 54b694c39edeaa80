"""A picture of the overlap, from the GPU's own timestamps: `python -m benchmarks.overlap`.

Samples SD1.5's shape with a preview at every step under torch's profiler, groups the kernels by
stream, and draws two steps as an SVG. `--redraw` draws from saved spans.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

Span = tuple[float, float]
"""The start and end in ms."""

WIDTH, ROW, LEFT = 1100, 46, 170
COLOURS = {"sampler": "#4c78a8", "preview": "#f58518", "both": "#54a24b"}


def profiled(tree: Path, steps: int) -> dict[str, Any]:
    """Spans of kernels and copies on the sampler's and the preview's stream."""
    from . import __main__ as entry

    server, pack, _ = entry.enter_with_pack(tree)
    import torch
    from sidestream.benchmarks import measure, models, providers

    device = torch.device("cuda", 0)
    case = dataclasses.replace(models.CASES["sd15"], steps=steps)
    sampling = measure.Sampling(case, models.build(case.unet, device), server, device)
    sampling.run(providers.EVERY_STEP)
    sampling.run(providers.EVERY_STEP)
    kinds = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as profile:
        sampling.run(providers.EVERY_STEP)
        measure.settle(server)
    by_stream: dict[int, list[Span]] = defaultdict(list)
    for event in profile.profiler.kineto_results.events():
        annotation = event.is_user_annotation()
        if event.device_type() == torch._C._autograd.DeviceType.CUDA and not annotation:
            span = (event.start_ns() / 1e6, event.end_ns() / 1e6)
            by_stream[event.device_resource_id()].append(span)
    about = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "case": case.name,
        "streams": len(by_stream),
    }
    pack.close()
    busiest = max(by_stream, key=lambda stream: length(merged(by_stream[stream])))
    others = [span for stream, spans in by_stream.items() if stream != busiest for span in spans]
    start = min(by_stream[busiest])[0]
    spans = {
        "sampler": [(a - start, b - start) for a, b in merged(by_stream[busiest])],
        "preview": [(a - start, b - start) for a, b in merged(others)],
    }
    return about | {"spans": spans}


def merged(spans: list[Span], gap: float = 0.0) -> list[Span]:
    """`spans` in order; those that touch, or are at most `gap` ms apart, are merged."""
    result: list[Span] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1] + gap:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def length(spans: list[Span]) -> float:
    """The sum of the spans' lengths."""
    return sum(end - start for start, end in spans)


def common(one: list[Span], other: list[Span]) -> list[Span]:
    """Where spans of both lists overlap; each list must be merged."""
    result = []
    i = j = 0
    while i < len(one) and j < len(other):
        start, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if start < end:
            result.append((start, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return result


def drawing(data: dict[str, Any], first: float, last: float) -> str:
    """An SVG of the time from `first` to `last` ms."""
    rows: dict[str, list[Span]] = {
        name: [(span[0], span[1]) for span in spans] for name, spans in data["spans"].items()
    }
    rows["both"] = common(rows["sampler"], rows["preview"])
    labels = {"sampler": "sampler's stream", "preview": "preview's stream", "both": "both at once"}
    scale = (WIDTH - LEFT - 20) / (last - first)
    height = 60 + ROW * len(rows) + 30
    text = 'font-family="sans-serif" font-size="14" fill="#222"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="14" y="28" {text}>Kernels on one {data["device"]}, {data["case"]},'
        " a preview at every step</text>",
    ]
    for number, (name, spans) in enumerate(rows.items()):
        top = 46 + number * ROW
        parts.append(f'<text x="14" y="{top + 24}" {text}>{labels[name]}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT - 20}" height="{ROW - 10}"'
            ' fill="#f2f2f2"/>'
        )
        # Gaps smaller than a pixel are not drawn.
        for start, end in merged(spans, gap=0.5 / scale):
            start, end = max(start, first), min(end, last)
            if start < end:
                parts.append(
                    f'<rect x="{LEFT + (start - first) * scale:.1f}" y="{top}"'
                    f' width="{max(0.7, (end - start) * scale):.1f}" height="{ROW - 10}"'
                    f' fill="{COLOURS[name]}"/>'
                )
    for tick in range(0, int(last - first), 20):
        x = LEFT + tick * scale
        y = 46 + ROW * len(rows) + 14
        parts.append(f'<text x="{x:.0f}" y="{y}" {text}>{tick} ms</text>')
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    """Profile or redraw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overlap", description=__doc__)
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--spans", type=Path, default=Path("overlap.json"))
    parser.add_argument("--svg", type=Path, default=Path("overlap.svg"))
    parser.add_argument("--redraw", action="store_true", help="from the saved spans")
    parser.add_argument("--window", type=float, nargs=2, default=(560.0, 780.0), help="ms")
    arguments = parser.parse_args()
    if not arguments.redraw:
        if arguments.comfyui is None:
            sys.exit("specify ComfyUI's folder with --comfyui")
        data = profiled(arguments.comfyui, 12)
        for name, spans in data["spans"].items():
            data["spans"][name] = [(round(a, 3), round(b, 3)) for a, b in merged(spans, 0.02)]
        arguments.spans.write_text(json.dumps(data), "utf-8")
    data = json.loads(arguments.spans.read_text("utf-8"))
    arguments.svg.write_text(drawing(data, *arguments.window), "utf-8")
    both = common(*([(a, b) for a, b in data["spans"][name]] for name in ("sampler", "preview")))
    busy = length([(a, b) for a, b in data["spans"]["preview"]])
    share = length(both) / busy
    print(f"{share:.1%} of the {busy:.0f} ms of previews ran while the sampler's kernels did")


if __name__ == "__main__":
    main()
