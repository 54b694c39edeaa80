"""docs/coverage.md is true, and no format has less of SideStream than of ComfyUI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sidestream.tests.conftest import HostModules
from sidestream.tools import coverage
from sidestream.tools.coverage import NOTHING, Row, Shown
from sidestream.tools.host import Host


@pytest.fixture(scope="module")
def rows(comfy: HostModules) -> list[Row]:
    return coverage.all_rows()


def everywhere(without: str, best: str) -> dict[str, Shown]:
    return dict.fromkeys(coverage.METHODS, Shown(without, best))


BOTH = Row(
    format="Both",
    channels=4,
    dimensions=2,
    decoder="taesd_decoder",
    comfyui=everywhere("Latent2RGB", "TAESD"),
    sidestream=everywhere("Latent2RGB", "TAESD"),
    animated=Shown(NOTHING, NOTHING),
)


def test_no_format_has_less_of_sidestream(rows):
    assert {row.format: row.lacking() for row in rows if row.lacking()} == {}
    assert len(rows) >= 20


def test_by_default_every_format_that_comfyui_can_show_is_shown(rows):
    for row in rows:
        best = [row.comfyui[method].best for method in coverage.METHODS]
        if set(best) != {NOTHING}:
            assert row.sidestream["default"].without != NOTHING, row.format
            assert row.dimensions < 3 or row.animated.without != NOTHING, row.format


def test_comfyui_was_really_asked(rows):
    shown = {row.format: row.comfyui for row in rows}
    assert shown["SD15"] == {
        "default": Shown(NOTHING, NOTHING),
        "auto": Shown("Latent2RGB", "Latent2RGB"),
        "latent2rgb": Shown("Latent2RGB", "Latent2RGB"),
        "taesd": Shown("Latent2RGB", "TAESD"),
    }
    assert shown["StableAudio1"] == everywhere(NOTHING, NOTHING)


@pytest.mark.parametrize("side", ["without", "best"])
def test_less_would_be_noticed(side):
    assert BOTH.lacking() == []
    less = BOTH.sidestream["taesd"]._replace(**{side: NOTHING})
    row = replace(BOTH, sidestream=BOTH.sidestream | {"taesd": less})
    assert row.lacking() == ["taesd"]
    assert replace(row, comfyui=everywhere(NOTHING, NOTHING)).lacking() == []


def test_the_page_says_of_this_comfyui_what_is_true(host: Host, rows):
    text = coverage.PAGE.read_text("utf-8")
    if host.own and f"## ComfyUI {host.version}\n" not in text:
        pytest.skip(f"the page is not about ComfyUI {host.version}")
    assert text.startswith(coverage.INTRODUCTION)
    assert coverage.section(coverage.version(host.tree), rows) in text


def test_asking_leaves_comfyui_as_it_was(comfy: HostModules, rows):
    before: dict[Any, Any] = {
        module: dict(vars(comfy(module)))
        for module in ("latent_preview", "comfy.utils", "folder_paths")
    }
    places = dict(comfy.folder_paths.folder_names_and_paths)
    method = comfy("comfy.cli_args").args.preview_method
    coverage.all_rows()
    assert {module: dict(vars(comfy(module))) for module in before} == before
    assert comfy.folder_paths.folder_names_and_paths == places
    assert "vae_approx" not in comfy.folder_paths.filename_list_cache
    assert comfy("comfy.cli_args").args.preview_method == method


def test_a_row_survives_its_way_between_processes(rows):
    import json
    from dataclasses import asdict

    sent = json.loads(json.dumps([asdict(row) for row in rows]))
    assert [coverage.row_of_json(row) for row in sent] == rows
