"""What the benchmark does around its measuring, which needs a CUDA device (see tests/gpu)."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sidestream.benchmarks import __main__ as entry
from sidestream.benchmarks import (
    callback,
    measure,
    models,
    overlap,
    program,
    report,
    stages,
    standin,
)
from sidestream.benchmarks.server import files, frames, modes, packs, plan, prompts, ratios, tables
from sidestream.benchmarks.server.session import Setup
from sidestream.preview.render.backends.cpu import CpuBackend
from sidestream.tests.conftest import REPO
from sidestream.tools.comfy_client import Event, Frame, Run

SEEN = measure.Measured(seconds=[2.0, 2.2], callbacks_ms=[0.1], peak=3 << 20)
BASE = measure.Measured(seconds=[1.0, 1.1], callbacks_ms=[0.05], peak=1 << 20)
MEASURED = (
    "ComfyUI TAESD",
    "SideStream, every step",
    "SideStream, every step, not sent",
    "SideStream, every step, not decoded",
    "SideStream, every step, captured only",
)


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
    seen, base = replace(SEEN, seconds=[2.1, 1.5, 3.0]), replace(BASE, seconds=[1.0, 1.5, 1.2])
    row = measure.row(models.CASES["sdxl"], "one", seen, base)
    assert (row["ratio_median"], row["ratio_paired"], row["ratio_min"]) == (1.75, 2.1, 1.5)
    assert row["ms_per_step"] == pytest.approx(105.0)
    assert row["peak_mb_above_none"] == 2.0
    assert "–" in report.markdown([["head"], [row["sent_p50_ms"]]])  # no frame: no time


def test_times_are_of_the_half_and_of_all_but_the_slowest():
    ramp = [float(n) for n in range(101)]
    times = {"callbacks_ms": ramp, "sent_ms": [1000 + n for n in ramp], "ready_ms": ramp[:11]}
    row = measure.row(models.CASES["sdxl"], "one", replace(SEEN, **times), BASE)
    assert (row["callback_p50_ms"], row["callback_p99_ms"]) == (50.0, 99.0)
    assert (row["sent_p50_ms"], row["sent_p99_ms"]) == (1050.0, 1099.0)
    assert (row["ready_p50_ms"], row["ready_p99_ms"]) == (5.0, 9.9)


def test_a_picture_of_another_step_than_its_labels_is_wrong():
    black, white = (np.full((8, 8, 3), level, np.uint8) for level in (0, 255))
    encoded = io.BytesIO()
    Image.fromarray(white).save(encoded, "png")
    shown = standin.Picture(2, b"", encoded.getvalue(), 0.0)
    assert not measure.is_wrong(shown, {1: black, 2: white})
    assert measure.is_wrong(shown, {1: white, 2: black})


def test_an_overlap_is_when_both_streams_work():
    sampler = overlap.merged([(20.0, 30.0), (0.0, 4.0), (3.0, 10.0), (10.0, 12.0)])
    preview = overlap.merged([(5.0, 6.0), (11.0, 21.0), (29.0, 40.0)])
    assert sampler == [(0.0, 12.0), (20.0, 30.0)]
    assert overlap.merged(sampler, gap=8.0) == [(0.0, 30.0)]
    both = [(5.0, 6.0), (11.0, 12.0), (20.0, 21.0), (29.0, 30.0)]
    assert overlap.common(sampler, preview) == overlap.common(preview, sampler) == both
    assert overlap.length(both) == 4.0


def test_every_case_can_be_asked_for():
    assert set(entry.CASES) == set(models.CASES)


def test_clocks_tell_a_part_from_the_parts_that_it_calls(monkeypatch):
    moment = [100.0]
    monkeypatch.setattr(callback, "time", types.SimpleNamespace(perf_counter=lambda: moment[0]))

    class Work:
        def inner(self):
            moment[0] += 0.02

        def outer(self):
            self.inner()
            moment[0] += 0.005

    clocks = callback.Clocks()
    clocks.on(Work, "inner", "inner")
    clocks.on(Work, "outer", "outer")
    Work().outer()
    inner, outer = clocks.spent["inner"][0], clocks.spent["outer"][0]
    clocks.off()
    assert (inner, outer) == (pytest.approx(20_000), pytest.approx(5_000))
    Work().outer()
    assert len(clocks.spent["inner"]) == 1
    assert list(clocks.report()) == ["inner", "outer"]


def test_clocks_leave_an_object_as_it_was():
    staging = CpuBackend(torch.device("cpu"))
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
    assert "ComfyUI's folder" in capsys.readouterr().err


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
    noise = np.random.default_rng(0).normal(0.0, 1.0, (2, 400))
    noisy = stages.row("captured only", [(25 + noise[0], 24 + noise[1])])
    # 3.29 standard errors of 1.25 * sqrt(2 / 400), those of two medians.
    assert 0.22 < noisy["high_ms"] - noisy["low_ms"] < 0.37


# In a real ComfyUI


def blocks_taking(providers: list[str], seconds: dict[str, float]) -> list[dict]:
    return [
        {
            "provider": name,
            "step": 6 * at + 1,
            "began": float(at),
            "seconds": seconds[name],
            "callbacks_ms": [0.1] * 5,
        }
        for at, name in enumerate(providers)
    ]


def test_a_block_is_compared_with_its_neighbours():
    compared = ("a", "b")
    order = plan.order(compared, rounds=31, seed=3)
    assert order[::2] == [plan.NONE] * 63
    assert sorted(order[1:4:2]) == ["a", "b"]
    assert order != plan.order(compared, rounds=31, seed=4)
    blocks = blocks_taking(order, {plan.NONE: 1.0, "a": 1.02, "b": 1.5})
    result = {"blocks": blocks, "left_out": {}}
    for index, block in enumerate(blocks):  # a machine that gets slower all the time
        block["seconds"] *= 1 + index / 50
    # Two of ComfyUI's, the latter late; two of SideStream's, by their labels, also late.
    ratios.count_frames(result, [(None, 1.5), (None, 2.1), (19, 4.5), (24, 5.5)])
    assert [blocks[index].get("frames") for index in range(6)] == [None, 2, None, 2, None, None]
    none, a, b = ratios.rows(result, compared)
    assert (none["blocks"], a["pairs"], b["pairs"]) == (61, 30, 30)  # the first round warms up
    assert a["ratio"] == pytest.approx(1.02, abs=1e-3)
    assert b["median_ratio"] == pytest.approx(1.5, abs=1e-3)
    low, high = a["ratio_95"]
    assert low <= a["ratio"] <= high < 1.03
    assert (none["callback_p50_ms"], none["steps"]) == (pytest.approx(0.1), 61 * 6)


def test_an_interval_is_as_wide_as_the_noise():
    noise = np.random.default_rng(0).normal(1.0, 0.2, 400)
    found = ratios.ratio(noise, np.ones(400))
    low, high = found["ratio_95"]
    assert 0.03 < high - low < 0.05  # 4 standard errors of 0.2 / sqrt(400)
    assert ratios.ratio(noise[:1], np.ones(1)) == {}
    noise[::10] *= 5  # which moves the sum, not the median
    found = ratios.ratio(noise, np.ones(400))
    assert found["ratio_95"][0] > 1.2
    assert 0.9 < found["median_ratio_95"][0] < found["median_ratio_95"][1] < 1.1
    # Of one provider alone, neighbouring pairs share a block without previews.
    blocks = blocks_taking(plan.order(("a",), 216, seed=0), {plan.NONE: 1.0, "a": 1.0})
    widths = []
    for seed in range(10):
        noise = iter(np.random.default_rng(seed).normal(1.0, 0.2, len(blocks)))
        blocks = [block | {"seconds": next(noise)} for block in blocks]
        low, high = ratios.ratio(*ratios.pairs(blocks, "a"))["ratio_95"]
        widths.append(high - low)
    assert 0.068 < np.mean(widths) < 0.08  # 3.92 standard errors of 0.2 * sqrt(2 / 216)


def a_frame(step: int, picture: np.ndarray) -> Frame:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "jpeg", quality=85)
    info = {"sidestream": {"step": step, "decoder": "taesd"}}
    return Frame(encoded.getvalue(), "image/jpeg", info, 0.0)


def test_a_picture_of_another_step_is_wrong():
    chance = np.random.default_rng(1)
    right = {
        step: np.kron(chance.integers(0, 256, (8, 8, 1)), np.ones((16, 16, 3))).astype(np.uint8)
        for step in (1, 2, 3)
    }
    sent = [a_frame(1, right[1]), a_frame(2, right[3]), a_frame(3, right[3])]
    seen = frames.judged(sent, 4, {"taesd": right})
    assert (seen["frames"], seen["judged"], seen["wrong"]) == (3, 3, [2])
    assert (seen["missing"], seen["in_order"]) == ([4], True)
    assert not frames.judged(sent[::-1], 4, {"taesd": right})["in_order"]
    assert not frames.judged([sent[0], *sent], 4, {"taesd": right})["in_order"]
    mislabelled = frames.judged([a_frame(0, right[1]), a_frame(5, right[1])], 4, {"taesd": right})
    assert mislabelled["wrong"] == [0, 5]
    unknown = frames.judged(sent, 4, {"taesd": {}})
    assert (unknown["judged"], unknown["wrong"]) == (0, [])


def test_a_picture_is_right_if_it_is_near_to_its_own_step_and_no_nearer_to_others():
    near, far = frames.RIGHT_FROM + 0.5, frames.RIGHT_FROM - 0.5
    assert frames.Comparison(near, (near + 0.9, far)).right
    assert not frames.Comparison(near, (far, near + 1.1)).right
    assert not frames.Comparison(far, ()).right


def test_a_packs_memory_is_what_it_takes_above_none():
    on, off = [{"most_reserved": 30 << 20}], [{"most_reserved": 10 << 20}]
    assert packs.above(on, off) == 20.0
    assert packs.above([], []) is None  # no GPU


def test_a_model_file_that_is_not_finished_is_written_again(tmp_path):
    path = tmp_path / "diffusion_models" / "random.safetensors"

    def interrupted(path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_missing(path, interrupted)
    files.write_missing(path, lambda path: path.write_bytes(b"all"))
    files.write_missing(path, interrupted)
    assert [(each, each.read_bytes()) for each in path.parent.iterdir()] == [(path, b"all")]


def test_memory_is_compared_with_a_run_from_before_any_previews():
    def run(kind, peak):
        least = {"most_reserved": peak << 20, "least_free": (1000 - peak) << 20}
        before = {"allocated": 33 << 20, "reserved": 64 << 20}
        return {"kind": kind, "memory_during": [least], "memory_before": [before]}

    before, after = [run("off", 256), run("off", 288)], [run("off", 384), run("defaults", 360)]
    runs = [*before, run("every step", 352), *after]
    idle = [{"allocated": 38 << 20, "reserved": 96 << 20}]
    assert modes.memory_in_short(runs, idle) == {
        "reserved_above_none_mb": 72.0,
        "free_below_none_mb": 72.0,
        "allocated_when_idle_mb": 5.0,
        "reserved_when_idle_mb": 32.0,
    }
    assert modes.memory_in_short(runs, []) == {}  # no GPU


def test_every_table_can_be_made_of_what_was_left_out_or_failed():
    assert "out of memory" in tables.matrix({"native, none": {"failed": "out of memory"}})
    assert "fewer than two GPUs" in tables.gpus({"left_out": "fewer than two GPUs"})
    rows = [{"provider": "one", "blocks": 0, "left_out": "no such part"}]
    result = {"unets": {"sd15": {"rows": rows}}, "log": [{"level": "WARNING", "text": "a line"}]}
    assert "no such part" in tables.blocks(result)
    assert "- WARNING: a line" in tables.blocks(result)
    assert set(tables.TABLES) == set(modes.MODES)
    about = {"comfyui": "1.2.3", "devices": ["a device"], "torch": "2", "date": "today"}
    shown = report.in_server({**about, "command": "it", "blocks": result})
    assert "ComfyUI 1.2.3 by its main.py: today, a device, torch 2: `it`" in shown
    assert "| one | no such part |" in shown
    assert "a line" not in shown


# Other packs


def test_a_packs_pictures_are_counted_however_it_sends_them():
    picture = np.zeros((16, 24, 3), np.uint8)
    frame = a_frame(1, picture)
    headed = Frame(bytes(24) + frame.image, "image/jpeg", {}, 1.0)  # as VideoHelperSuite's
    told = {"image": base64.b64encode(frame.image).decode()}
    events = [
        Event("kj_preview_override", {**told, "step": 0}, 2.0),  # of the noise
        Event("kj_preview_override", {**told, "step": 3}, 3.0),
        Event("kj_preview_override", {"step": 4}, 4.0),
    ]
    webp = io.BytesIO()
    Image.fromarray(picture).save(webp, "WEBP")
    # As bleh's; compressed data may contain the first bytes of a JPEG.
    other = Frame(webp.getvalue() + b"\xff\xd8", "image/webp", {}, 1.5)
    run = Run("a prompt", [frame, headed, other], events)
    seen = [(sent.step, sent.received_at) for sent in packs.received(run)]
    assert seen == [(1, 0.0), (None, 1.0), (None, 1.5), (3, 3.0)]
    assert all(Image.open(io.BytesIO(sent.image)).size == (24, 16) for sent in packs.received(run))
    found = packs.pictures(run, picture)
    assert (found["arrived"], found["different"], found["size"]) == (4, 2, (24, 16))
    assert found["last_psnr"] > 40
    assert packs.pictures(Run("a prompt"), picture) == {"arrived": 0, "different": 0}


def test_a_packs_node_lies_between_the_model_and_the_sampler():
    graph = prompts.sampled("tiny", 64, 1, 3)
    changed = prompts.through(graph, prompts.node("ANode", given=1))
    way = changed[prompts.SAMPLER]["inputs"]["model"][0]
    assert changed[way]["inputs"] == {"given": 1, "model": [prompts.MODEL, 0]}
    assert prompts.through(graph, None) == graph


@pytest.fixture
def asked(tmp_path):
    kept = tmp_path / "packs"
    (kept / "ComfyUI-KJNodes").mkdir(parents=True)
    (kept / "ComfyUI-KJNodes" / "pyproject.toml").write_text('[project]\nversion = "1.5.0"\n')
    (kept / packs.COMMITS).write_text("ComfyUI-bleh b889683 2026-06-02\n")
    return Setup(tmp_path, tmp_path, ("tiny",), packs=kept)


def test_a_packs_version_is_what_its_files_say(asked):
    found = {each.name: packs.version(asked, each) for each in packs.entrants("a file")}
    assert found["KJNodes"] == {"version": "1.5.0", "commit": None, "date": None}
    assert found["bleh"] == {"version": None, "commit": "b889683", "date": "2026-06-02"}


def test_a_pack_that_fails_costs_no_other(asked, monkeypatch):
    def measured(asked, entrant, right, log):
        packs.others(asked, entrant)
        for variant in entrant.variants:
            if (entrant.name, variant.name) == ("KJNodes", "defaults"):
                raise RuntimeError("it is broken")
            yield {"previews": variant.name, "different": 20, "reserved_above_none_mb": 1.0}

    saved = []
    asked = replace(asked, save=lambda result: saved.append(len(result["rows"])))
    monkeypatch.setattr(packs, "measured", measured)
    rows = packs.packs(asked)["rows"]
    failed = [(row["pack"], row["failed"]) for row in rows if "failed" in row]
    missing = f"FileNotFoundError: {packs.NOT_THERE}"
    bleh, vhs = [("bleh", missing)] * 2, [("VideoHelperSuite", missing)] * 2
    assert failed == [("KJNodes", "RuntimeError: it is broken"), *bleh, *vhs]
    assert saved == [1, 3, 5, 6, 7, 9]
    shown = tables.packs({"rows": rows})
    assert "| bleh | b889683, 2026-06-02 | defaults: failed: FileNotFoundError" in shown
    assert "| KJNodes | 1.5.0 | its own decoder |" in shown


@pytest.mark.timeout(1200)
def test_a_real_comfyui_is_measured(host, tmp_path):
    """All of it at a tiny size: ComfyUI by its own main.py, its loader, a client elsewhere."""
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks.server", "ordinary", "blocks", "hammer"]
    command += ["packs", "--packs", str(tmp_path / "packs")]
    broken = tmp_path / "packs" / "ComfyUI-bleh"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import none_of_this_name\n")
    command += ["--comfyui", str(host.tree), "--models", str(tmp_path / "models")]
    command += ["--tiny", "--cpu", "--steps", "3", "--blocks", "1", "--idle", "0"]
    command += ["--output", str(results)]
    for provider in MEASURED:
        command += ["--provider", provider]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=1100)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(results.read_text("utf-8"))

    tiny = found["ordinary"]["unets"]["tiny"]
    assert tiny["bit_identical"]
    assert tiny["reference_latent_same"]
    kinds = [run["kind"] for run in tiny["runs"]]
    assert kinds == ["off", "off", "off", "every step", "off", "every step", "defaults"]
    for run in tiny["runs"]:
        seen = run["frames"]
        assert (len(seen["wrong"]), seen["in_order"], seen["judged"]) == (0, True, seen["frames"])
        if run["kind"] != "defaults":  # a CPU's budget may be spent before the first frame
            assert (seen["frames"] > 0) == (run["kind"] == "every step")
    own = [line for line in found["ordinary"]["log"] if line["text"].startswith("[SideStream]")]
    assert [line for line in own if line["level"] != "INFO"] == []

    rows = {row["provider"]: row for row in found["blocks"]["unets"]["tiny"]["rows"]}
    assert list(rows) == ["none", *MEASURED]
    assert rows["none"]["frames"] == 0
    assert rows["ComfyUI TAESD"]["frames"] > 0
    every, unsent = rows["SideStream, every step"], rows["SideStream, every step, not sent"]
    assert unsent["frames"] <= unsent["blocks"] < every["frames"]  # the last of a block comes late
    for part in ("not decoded", "captured only"):
        assert rows[f"SideStream, every step, {part}"]["frames"] == 0
    assert rows["ComfyUI TAESD"]["callback_p50_ms"] > rows["none"]["callback_p50_ms"]

    for way in found["hammer"]["unets"]["tiny"]:
        assert way["bit_identical"]
        assert (way["raised"], way["failed"]) == (0, 0)

    rows = {(row["pack"], row["previews"]): row for row in found["packs"]["rows"]}
    assert "did not load" in rows["bleh", "defaults"]["failed"]
    for pack, arrived in (("ComfyUI", {3}), ("SideStream", {2, 3})):  # one may be replaced
        row = rows[pack, "every step"]
        assert row["latent_same"]
        assert row["arrived"] in arrived
        assert row["different"] == row["arrived"]
        assert row["frames"] > 0
        assert row["last_psnr"] > frames.RIGHT_FROM
    assert done.stdout.rstrip().endswith(tables.packs(found["packs"]))
