"""What the benchmark does around its measuring, which needs a CUDA device (see tests/gpu)."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch
from sidestream.benchmarks import __main__ as entry
from sidestream.benchmarks import callback, measure, models, program, report, stages
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


def test_a_program_of_its_own_saves_what_it_measured(tmp_path, monkeypatch, capsys):
    saved = tmp_path / "callback.json"
    arguments = ["--comfyui", str(tmp_path), "--repetitions", "2", "--output", str(saved)]
    monkeypatch.setattr(sys, "argv", ["callback", *arguments])
    asked = []

    def measured(tree, repetitions):
        asked.append((tree, repetitions))
        part = {"callback_p50_us": 100.0, "parts_us": {"slot": 6.0}}
        return {"device": "a device", "torch": "2", "sd15": part, "sd15-launch": part}

    program.run("callback", "about", measured, repetitions=3)
    assert asked == [(tmp_path, 2)]
    made = report.parts(json.loads(saved.read_text("utf-8")))
    assert "| slot | 6.0 | 6.0 |" in made
    assert "`python -m benchmarks.callback --comfyui" in made


def test_a_program_says_that_it_needs_comfyui(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["callback"])
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(SystemExit):
        program.run("callback", "about", lambda tree, repetitions: {}, repetitions=3)
    assert "where ComfyUI is" in capsys.readouterr().err


def test_a_step_with_a_frame_is_compared_with_the_one_after_it():
    # From the third on 25 ms with a frame and 24 without; the last one is not complete.
    lengths = [90, 80, 25, 24, 25, 24, 25, 24, 70]
    starts = [sum(lengths[:i]) / 1000 for i in range(len(lengths) + 1)]
    having, without = stages.alternating(starts)
    assert having.tolist() == pytest.approx([25, 25, 25])
    assert without.tolist() == pytest.approx([24, 24, 24])
    row = stages.row("captured only", [(having, without)] * 4)
    assert (row["steps"], row["without_ms"], row["extra_ms"]) == (24, 24.0, 1.0)
    assert (row["low_ms"], row["high_ms"], row["extra_percent"]) == (1.0, 1.0, 4.2)
    result = {"case": "a case", "date": "today", "device": "a device", "torch": "2"}
    made = report.stages(result | {"command": "it", "rows": [row]})
    assert "| captured only | 24 | 24.0 | 1.0 | 1.0 to 1.0 | 4.2 |" in made
