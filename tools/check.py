"""The stages of `dev.py check` and `dev.py test`: static checks first, then the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .browser import get_chromium
from .environment import Environment, SetupError, say
from .host import get_host
from .places import REPO, cache_folder, checkout_folder, link_folder

# The name under which the pack's code is checked, whatever the checkout's folder is named.
PACK_MODULE = "sidestream"
CHECKED = ("preview", "nodes", "tools", "benchmarks", "dev", "tests.conftest")


@dataclass(frozen=True)
class Stage:
    """A check: its name, and a function that runs it and returns an exit code."""

    name: str
    run: Callable[[Environment], int]


def check(names: Sequence[str]) -> int:
    """Run the static checks with these names, or all of them."""
    known = {stage.name: stage for stage in STATIC_STAGES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SetupError(f"no check {', '.join(unknown)}: there are {', '.join(known)}")
    return _run_all(_prepare(), [known[name] for name in names or known])


def test(pytest_arguments: Sequence[str], *, browser: bool) -> int:
    """Run everything; or, given arguments, only pytest with these.

    Without `browser`, tests that need one are left out, and a message says so.
    """
    environment = _prepare()
    selected = () if browser else ("-m", "not browser")
    if browser:
        get_chromium()
    else:
        say("Tests that need a browser are left out; pytest counts them as deselected.")
    if pytest_arguments:
        return _pytest(environment, (*selected, *pytest_arguments))
    arguments = (*_workers(), *selected, "tests")
    everything = Stage("pytest", lambda environment: _pytest(environment, arguments))
    return _run_all(environment, (*STATIC_STAGES, everything))


def _prepare() -> Environment:
    environment = get_host().environment()
    requirements = (REPO / "tests" / "requirements.txt").read_text("utf-8").split()
    environment.install("test", requirements)
    return environment


def _run_all(environment: Environment, stages: Sequence[Stage]) -> int:
    failed = []
    for stage in stages:
        say(f"\n== {stage.name}")
        started = time.monotonic()
        if stage.run(environment) != 0:
            failed.append(stage.name)
        say(f"== {stage.name}: {time.monotonic() - started:.1f} s")
    say(f"\nFailed: {', '.join(failed)}" if failed else "\nAll stages passed.")
    return 1 if failed else 0


def _ruff(environment: Environment) -> int:
    cache = cache_folder() / "ruff"
    return _module(environment, "ruff", "check", "--cache-dir", str(cache), ".")


def _mypy(environment: Environment) -> int:
    link = checkout_folder() / "typing" / PACK_MODULE
    link_folder(link, REPO)
    return _module(
        environment,
        "mypy",
        *("--config-file", str(REPO / "tools" / "mypy.ini")),
        *("--cache-dir", str(checkout_folder() / "mypy")),
        *(part for name in CHECKED for part in ("-p", f"{PACK_MODULE}.{name}")),
        working_folder=str(link.parent),
    )


def _types_of_web(environment: Environment) -> int:
    folder = REPO / "tools" / "web"
    npm = shutil.which("npm")
    if npm is None:
        say("npm is not there: install Node.js 18 or newer to check the types of web/")
        return 1
    installed, wanted = folder / "node_modules" / ".package-lock.json", folder / "package-lock.json"
    # npm writes it at the end of an installation.
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        code = subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder).returncode
        if code != 0:
            return code
    return subprocess.run([npm, "run", "--silent", "check"], cwd=folder).returncode


def _codespell(environment: Environment) -> int:
    return _module(environment, "codespell_lib", "--config", "tools/codespell.cfg")


def _pytest(environment: Environment, arguments: Sequence[str]) -> int:
    settings = ("-c", str(REPO / "tests" / "pytest.ini"))
    cache = ("-o", f"cache_dir={checkout_folder() / 'pytest'}")
    measured = ("--cov-config", str(REPO / "tools" / "coverage.ini"))
    os.environ["COVERAGE_FILE"] = str(checkout_folder() / "coverage")
    return _module(environment, "pytest", *settings, *cache, *measured, *arguments)


def _workers() -> tuple[str, ...]:
    """Arguments for running tests in parallel, with one worker more than there are cores, because
    tests often wait for a server. tests/conftest.py says which tests stay together."""
    count = min(8, 1 + (os.cpu_count() or 1))
    return ("-n", str(count), "--dist", "loadscope", "--no-loadscope-reorder")


def _module(
    environment: Environment, module: str, *arguments: str, working_folder: str = str(REPO)
) -> int:
    command = [str(environment.python), "-m", module, *arguments]
    return subprocess.run(command, cwd=working_folder).returncode


STATIC_STAGES = (
    Stage("ruff", _ruff),
    Stage("mypy", _mypy),
    Stage("tsc", _types_of_web),
    Stage("codespell", _codespell),
)
