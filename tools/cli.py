"""The commands of dev.py."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from . import check, server
from .doctor import doctor
from .environment import SetupError
from .host import Host, get_host
from .places import (
    PACK_NAME,
    REPO,
    checkout_folder,
    keep_bytecode_in_cache,
    link_folder,
    remove_base_directory,
    short_hash,
)

PASSING_ON = (
    *("test", "check", "host", "bench", "bench-server", "soak", "fuzz", "coverage", "neighbours"),
)
"""Commands that pass unknown arguments on."""


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit code."""
    options, rest = _parse(arguments)
    signal.signal(signal.SIGTERM, _end)
    keep_bytecode_in_cache()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console, or a file, may be narrow
    try:
        if options.command == "demo":
            return _demo(options)
        if options.command == "host":
            return _host(rest)
        if options.command == "doctor":
            return _doctor(options)
        if options.command == "bench":
            return _bench("benchmarks", rest)
        if options.command == "bench-server":
            return _bench("benchmarks.server", rest)
        if options.command in ("soak", "fuzz"):
            return _run(get_host(), f"benchmarks.{options.command}", *rest)
        if options.command in ("coverage", "neighbours"):
            return _on_host(f"tools.{options.command}", rest)
        if options.command == "check":
            return check.check(rest)
        return check.test(rest, browser=not options.no_browser)
    except SetupError as error:
        sys.stdout.flush()
        print(f"dev.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="dev.py",
        description="Develop ComfyUI-SideStream: each command fetches what it needs, once.",
        epilog="Environment: COMFYUI_PATH and COMFYUI_PYTHON select your own ComfyUI, "
        "SIDESTREAM_CACHE the folder for downloads.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="watch SideStream in a real ComfyUI")
    demo.add_argument("--headless", action="store_true", help="no browser: print and save frames")
    demo.add_argument("--no-browser", action="store_true", help="print the address only")
    demo.add_argument("--port", type=int, help="ComfyUI's port (8188, or a free one)")
    demo.add_argument("--sheet", help="where --headless saves its contact sheet")

    test = commands.add_parser("test", help="all checks and tests; or pytest with these arguments")
    test.add_argument("--no-browser", action="store_true", help="skip tests that need a browser")
    commands.add_parser("check", help="only the static checks, or those with these names")
    commands.add_parser("host", help="just ComfyUI with the pack: host -- ARGUMENTS")

    asked = commands.add_parser("doctor", help="what is installed, and what is wrong with it")
    asked.add_argument("--port", type=int, default=8188, help="ComfyUI's port (8188)")

    commands.add_parser("bench", help="the cost of previews, on a GPU: bench -- ARGUMENTS")
    commands.add_parser("bench-server", help="the same in a real ComfyUI: bench-server -- MODE")
    commands.add_parser("soak", help="1,000 runs of all kinds: does anything grow?")
    commands.add_parser("fuzz", help="5,000 broken decoder files: does the worker survive?")
    commands.add_parser("neighbours", help="previews beside other packs, given as folders")
    commands.add_parser("coverage", help="write docs/coverage.md, also for these ComfyUI trees")

    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in PASSING_ON:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    return options, [argument for argument in rest if argument != "--"]


def _demo(options: argparse.Namespace) -> int:
    host = get_host()
    if not options.headless:
        port = options.port or (8188 if server.is_free(8188) else server.free_port())
        screen = ("--no-browser",) if options.no_browser else ()
        return _run_demo(host, _lasting_base(host), port, *screen)
    checkout_folder().mkdir(parents=True, exist_ok=True)
    sheet = Path(options.sheet or checkout_folder() / "contact-sheet.png").absolute()
    sheet.parent.mkdir(parents=True, exist_ok=True)
    # A new base each time, so that headless runs can run in parallel.
    base = Path(tempfile.mkdtemp(prefix="headless-", dir=checkout_folder()))
    try:
        server.make_base_directory(base, {PACK_NAME: REPO})
        port = options.port or server.free_port()
        return _run_demo(host, base, port, "--headless", "--sheet", str(sheet))
    finally:
        remove_base_directory(base)


def _run_demo(host: Host, base: Path, port: int, *arguments: str) -> int:
    # In the host's interpreter: the demo's client and contact sheet need packages of ComfyUI's.
    return _run(host, "tools.demo", str(host.tree), str(base), str(port), *arguments)


def _host(arguments: Sequence[str]) -> int:
    host = get_host()
    named = any(argument.split("=")[0] == "--port" for argument in arguments)
    port = None if named else 8188
    running = server.start(host, _lasting_base(host), arguments, port=port, log_to_console=True)
    return _wait(running.process)


def _doctor(options: argparse.Namespace) -> int:
    def start() -> server.RunningHost:
        host = get_host()
        return server.start(host, _lasting_base(host))

    return doctor(options.port, start)


def _bench(module: str, arguments: Sequence[str]) -> int:
    host = get_host()
    return _run(host, module, "--comfyui", str(host.tree), *arguments)


def _on_host(module: str, folders: Sequence[str]) -> int:
    host = get_host()
    absolute = [str(Path(folder).absolute()) for folder in folders]
    return _run(host, module, str(host.tree), *absolute)


def _run(host: Host, module: str, *arguments: str) -> int:
    command = [str(host.python), "-m", module, *arguments]
    return _wait(subprocess.Popen(command, cwd=REPO))


def _lasting_base(host: Host) -> Path:
    base = checkout_folder() / f"base-{short_hash(str(host.tree))}"
    if host.own:
        link_folder(base / "models", host.tree / "models")
    server.make_base_directory(base, {PACK_NAME: REPO})
    settings = base / "user" / "default" / "comfy.settings.json"
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        # Otherwise the page would show its templates to a new user, instead of the demo graph.
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}), "utf-8")
    return base


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:
        # The console also sent the interrupt to the child, which is already ending.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2 * server.SECONDS_TO_STOP)
        raise
    finally:
        process.terminate()
        process.wait()


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
