"""The demo: SideStream in a real ComfyUI, in the browser or, headless, on the console.

Runs in the host's interpreter: `python -m tools.demo TREE BASE PORT`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import signal
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from . import server
from .comfy_client import ComfyClient, Event, Frame, RequestRefused, Unfinished
from .environment import SetupError, say
from .host import Host

PROMPT = Path(__file__).with_name("demo_prompt.json")
SECONDS_TO_RUN = 120.0

TILE = 256
CAPTION = 20
COLUMNS = 5


def main(arguments: Sequence[str]) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="tools.demo")
    parser.add_argument("tree", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args(arguments)

    # The server is stopped on the way out, whether ended by a signal or by hand.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    host = Host(options.tree, Path(sys.executable), own=True)
    say(f"Starting ComfyUI {host.version} with SideStream")
    try:
        with server.start(host, options.base, port=options.port) as running:
            running.wait_until_ready()
            if options.headless:
                return watch(running, options.sheet)
            return show(running, open_browser=not options.no_browser)
    except SetupError as error:
        say(f"demo: {error}")
        return 1
    except KeyboardInterrupt:
        return 0


def show(running: server.RunningHost, *, open_browser: bool) -> int:
    """Show the user where the demo graph is; return when ComfyUI ends."""
    address = f"{running.url}/?sidestream-demo=1"
    say(f"\n  {address}\n\nOpen it, press Run, and watch the sampler. Ctrl+C ends ComfyUI.")
    if open_browser and _has_screen():
        webbrowser.open(address)
    code = running.process.wait()
    say(f"ComfyUI ended ({code}); its log: {running.log_path}")
    return code


def watch(running: server.RunningHost, sheet: Path) -> int:
    """Run the demo graph and report its frames; return 0 only if they arrived."""
    prompt = json.loads(PROMPT.read_text("utf-8"))
    steps = _steps(prompt)
    frames: list[Frame] = []
    outcome = "unknown"
    with ComfyClient(running.url) as client:
        try:
            for message in client.messages(client.queue(prompt), SECONDS_TO_RUN):
                if isinstance(message, Frame):
                    frames.append(message)
                    say(describe(message))
                else:
                    outcome = _outcome(message) or outcome
        except RequestRefused as refused:
            return _fail(running, f"ComfyUI refused the demo graph: {json.dumps(refused.body)}")
        except Unfinished as unfinished:
            return _fail(running, str(unfinished))
    if outcome != "success":
        return _fail(running, f"the demo graph ended with: {outcome}")
    if len(frames) < steps / 2:
        return _fail(running, f"only {len(frames)} frames arrived for {steps} steps")
    make_contact_sheet(frames).save(sheet)
    say(f"{len(frames)} frames of {steps} steps; contact sheet: {sheet}")
    return 0


def describe(frame: Frame) -> str:
    """One line about a frame."""
    width, height = Image.open(io.BytesIO(frame.image)).size
    latency = frame.sidestream.get("captured_to_sent_ms")
    timing = "latency unknown" if latency is None else f"{latency:7.1f} ms"
    return f"{_label(frame):>12}  {width} x {height}  {len(frame.image) / 1024:6.1f} KiB  {timing}"


def make_contact_sheet(frames: Sequence[Frame]) -> Image.Image:
    """All frames in one picture, each below its step."""
    rows = math.ceil(len(frames) / COLUMNS)
    sheet = Image.new("RGB", (min(len(frames), COLUMNS) * TILE, rows * (TILE + CAPTION)), "#181818")
    draw = ImageDraw.Draw(sheet)
    for index, frame in enumerate(frames):
        left, top = index % COLUMNS * TILE, index // COLUMNS * (TILE + CAPTION)
        draw.text((left + 6, top + 4), _label(frame), fill="#e0e0e0")
        picture = Image.open(io.BytesIO(frame.image)).convert("RGB")
        picture.thumbnail((TILE - 4, TILE - 4))
        sheet.paste(picture, (left + 2, top + CAPTION))
    return sheet


def _label(frame: Frame) -> str:
    own = frame.sidestream
    return f"step {own['step']}/{own['total_steps']}" if "step" in own else "step ?"


def _steps(prompt: dict[str, Any]) -> int:
    return sum(node["inputs"].get("steps", 0) for node in prompt.values())


def _outcome(event: Event) -> str | None:
    if event.type == "execution_error":
        return f"{event.data.get('node_type')}: {event.data.get('exception_message')}"
    return "success" if event.type == "execution_success" else None


def _fail(running: server.RunningHost, why: str) -> int:
    log = "\n".join(running.log_text.splitlines()[-15:])
    say(f"demo: {why}. The end of ComfyUI's log, {running.log_path}:\n{log}")
    return 1


def _has_screen() -> bool:
    # Without a screen, Linux would open a text browser in this console.
    windows_itself = sys.platform in ("win32", "darwin")
    return windows_itself or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
