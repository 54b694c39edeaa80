"""What the benchmark does around its measuring, which needs a CUDA device (see tests/gpu)."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch
from sidestream.benchmarks import __main__ as entry
from sidestream.benchmarks import callback, measure, models, report
from sidestream.preview.lane import CudaStaging

SEEN = measure.Measured(seconds=[2.0, 2.2], callbacks_ms=[0.1], peak=3 << 20)
BASE = measure.Measured(seconds=[1.0, 1.1], callbacks_ms=[0.05], peak=1 << 20)


def a_result(case: str) -> dict:
    rows = [measure.row(models.CASES[case], "one", SEEN, BASE)]
    return {
        "case": case,
        "steps": 20,
        "repetitions": 2,
        "rows": rows,
        "latents_differ": [],
        "mb_left_when_idle": 8.0,
    }


def test_a_result_is_saved_and_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entry, "bench", lambda case, *limits: a_result(case))
    monkeypatch.setattr(entry, "enter_comfyui", lambda tree: sys.path.insert(0, str(tree)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a device")
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    arguments = ["--comfyui", str(tmp_path), "--case", "wan", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    entry.main()
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "out" / "wan.json").read_text("utf-8"))
    assert report.table(saved) in printed
    assert "a device" in printed


def test_ratios_are_of_medians_of_pairs_and_of_minima():
    row = measure.row(models.CASES["sdxl"], "one", SEEN, BASE)
    assert (row["ratio_median"], row["ratio_paired"], row["ratio_min"]) == (2.0, 2.0, 2.0)
    assert row["ms_per_step"] == pytest.approx(105.0)
    assert row["peak_mb_above_none"] == 2.0
    assert "–" in report.markdown([["head"], [row["sent_p50_ms"]]])  # no frame: no time


def test_every_case_can_be_asked_for():
    assert set(entry.CASES) == set(models.CASES)


def test_clocks_tell_a_part_from_the_parts_that_it_calls():
    class Work:
        def inner(self):
            time.sleep(0.02)

        def outer(self):
            self.inner()
            time.sleep(0.005)

    clocks = callback.Clocks()
    clocks.on(Work, "inner", "inner")
    clocks.on(Work, "outer", "outer")
    Work().outer()
    inner, outer = clocks.spent["inner"][0], clocks.spent["outer"][0]
    clocks.off()
    assert inner >= 20_000 > outer >= 5_000
    Work().outer()
    assert len(clocks.spent["inner"]) == 1
    assert list(clocks.report()) == ["inner", "outer"]


def test_clocks_leave_an_object_as_it_was():
    staging = CudaStaging(torch.device("cpu"))
    clocks = callback.Clocks()
    clocks.on(staging, "settled", "settled")
    assert "settled" in vars(staging)
    clocks.off()
    assert "settled" not in vars(staging)


def test_what_the_clocks_saw_is_saved_as_the_documents_take_it(tmp_path, monkeypatch, capsys):
    seen = {"callback_p50_us": 100.0, "parts_us": {"slot": 6.0}}
    profiled = {"device": "a device", "torch": "2", "sd15": seen, "sd15-launch": seen}
    monkeypatch.setattr(callback, "profiled", lambda tree, repetitions: profiled)
    saved = tmp_path / "callback.json"
    arguments = ["--comfyui", str(tmp_path), "--output", str(saved)]
    monkeypatch.setattr(sys, "argv", ["callback", *arguments])
    callback.main()
    assert "| slot | 6.0 | 6.0 |" in report.parts(json.loads(saved.read_text("utf-8")))
