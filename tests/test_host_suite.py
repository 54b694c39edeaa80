"""I10 polite: ComfyUI's own unit tests end as they do without the pack."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
from sidestream.tests.conftest import REPO, missing
from sidestream.tests.host_suite_plugin import PACK
from sidestream.tools.places import PACK_NAME, link_folder

if TYPE_CHECKING:
    from sidestream.tools.host import Host

# They fetch a page from the internet.
LEFT_OUT = "not test_init_frontend_invalid"

Outcomes = dict[str, str]


def outcomes(host: Host, folder: Path, pack: Path | None) -> Outcomes:
    """How each of ComfyUI's unit tests ended, in a process of its own."""
    report = folder / "report.xml"
    plugins = ("no:cacheprovider", "aiohttp.pytest_plugin", "host_suite_plugin")
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "tests-unit", "-q", "-W", "ignore"),
            *("-c", str(host.tree / "pytest.ini"), "--rootdir", str(host.tree)),
            *(part for plugin in plugins for part in ("-p", plugin)),
            *("-k", LEFT_OUT, "--junit-xml", str(report), "--basetemp", str(folder / "temp")),
        ],
        cwd=host.tree,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPO / "tests"), str(REPO / "tools")]),
            **({} if pack is None else {PACK: str(pack)}),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert report.exists(), ran.stdout + ran.stderr
    ended = {}
    for case in ElementTree.parse(report).iter("testcase"):
        tags = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        ended[f"{case.get('classname')}::{case.get('name')}"] = tags[0] if tags else "passed"
    return ended


@pytest.mark.timeout(1200)
def test_i10_comfyuis_own_unit_tests_end_as_they_do_without_the_pack(host, tmp_path):
    if not (host.tree / "tests-unit").is_dir():
        missing("this ComfyUI has no tests-unit")
    folders = [tmp_path / name for name in ("without", "with")]
    for folder in folders:
        folder.mkdir()
    pack = tmp_path / PACK_NAME
    link_folder(pack, REPO)
    with ThreadPoolExecutor() as both:
        without, beside = both.map(outcomes, [host, host], folders, [None, pack])
    passed = [name for name, ended in without.items() if ended == "passed"]
    print(f"\n{len(without)} tests of ComfyUI {host.version}, {len(passed)} pass without the pack")
    assert len(passed) > 200
    assert beside == without
