"""What is kept for 'Side-Stream Frames': bounded, of its step, waited for but not for ever."""

from __future__ import annotations

import gc
import threading
import types
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sidestream.preview.capture import recordings as recordings_module
from sidestream.preview.capture.recordings import (
    EMPTY,
    LATE,
    UNKNOWN,
    Recordings,
    frames_of,
    limit_of,
)
from sidestream.preview.render import recording as recording_module
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.recording import (
    Kept,
    Limit,
    Recording,
    Thinned,
    even_size,
    evenly,
)
from sidestream.tests.helpers import (
    FakeSink,
    FakeSource,
    FlatDecoder,
    FlatVideoDecoder,
    Gate,
    a_book,
    an_engine,
    prove,
    start_run,
    wait_until,
)

MANY = Limit(1000, 1000)


def nobody(done: int, total: int) -> None:
    """Who does not want to know how far it is."""


def recorded_run(*sources, limit=MANY, **settings):
    run = start_run(a_book(), *(sources or [FakeSource()]), **settings)
    run.recording = Recording(limit)
    return run


def record(engine, run, step, latent=None):
    run.at(step, 20)
    run.recording.reach(run)
    latent = torch.full((1, 4, 8, 8), step / 100) if latent is None else latent
    with torch.inference_mode():
        assert engine.record(run, run.recording, latent, range(1), (8, 8))
    latent.fill_(-1)  # samplers go on in place


@given(count=st.integers(1, 300), capacity=st.integers(1, 20))
def test_of_any_number_of_steps_so_many_are_kept_evenly_with_the_newest(count, capacity):
    kept, gone = Thinned(), []
    for step in range(count):
        gone += kept.make_room(capacity)
        kept.add(step)
        assert len(kept.items) <= capacity
        assert kept.items[-1] == step
    assert sorted(kept.items + gone) == list(range(count))
    assert capacity == 1 or kept.items[0] == 0
    if 2 < capacity < count:
        assert len(kept.items) >= capacity // 2
        gaps = set(np.diff(kept.items[:-1]))
        assert len(gaps) <= 1


@given(count=st.integers(1, 100), most=st.integers(1, 50))
def test_fewer_are_taken_evenly_with_both_ends(count, most):
    kept = [Kept(step, np.zeros(0), (1, 1)) for step in range(count)]
    steps = [each.step for each in evenly(kept, most)]
    assert len(steps) == min(count, most)
    assert steps == sorted(set(steps))
    assert steps[-1] == count - 1
    assert most == 1 or steps[0] == 0


def test_the_limits_are_those_of_the_fields_and_of_a_batch_of_images():
    assert limit_of({}) == Limit(128, 1024)
    assert limit_of({"max_frames": ["7", 0], "max_megabytes": 10**9}) == Limit(128, 65536)
    assert limit_of({"max_frames": 20.0, "max_megabytes": np.int64(-1)}) == Limit(20, 16)  # linked
    assert limit_of({"max_frames": float("inf"), "max_megabytes": None}) == Limit(128, 1024)
    assert Limit(1000, 30).of((512, 512)) == 10
    assert Limit(1000, 1).of((4096, 4096)) == 1
    assert [even_size(size) for size in ((5, 3), (1, 4))] == [(4, 2), (2, 4)]


def test_every_step_is_there_and_of_its_step_whatever_the_budget_says():
    engine = an_engine(FakeSink())
    run = recorded_run(budget=1)
    for step in range(1, 21):
        record(engine, run, step)
    run.end()
    found = frames_of(run.recording, MANY, nobody)
    assert found.why == ""
    assert [kept.step for kept in found.kept] == list(range(1, 21))
    levels = [round(float(kept.rgb.mean())) for kept in found.kept]
    assert levels == [round(step / 100 * 255) for step in range(1, 21)]
    engine.close()


def test_i11_pictures_keep_no_run_and_so_no_vae_in_memory():
    engine = an_engine(FakeSink())
    run = recorded_run()
    recording, alive = run.recording, weakref.ref(run)
    record(engine, run, 3)
    run.end()
    assert len(frames_of(recording, MANY, nobody).kept) == 1
    del run
    assert wait_until(lambda: gc.collect() >= 0 and alive() is None)
    again = start_run(a_book(), FakeSource())  # the node's next sampling
    again.at(1, 20)
    assert recording.reach(again) == 4
    engine.close()


def test_i1_slots_are_made_at_the_first_step_and_taken_again_beyond_the_limit(monkeypatch):
    engine = an_engine(FakeSink())
    prove(engine)
    run = recorded_run(limit=Limit(4, 1000))
    made = []
    make = engine.backend.slots
    monkeypatch.setattr(engine.backend, "slots", lambda *kind: made.append(make(*kind)) or made[-1])
    record(engine, run, 1)
    assert len(made) == 4
    for step in range(2, 21):
        record(engine, run, step)
    assert len(made) == 4
    run.end()
    steps = [kept.step for kept in frames_of(run.recording, MANY, nobody).kept]
    assert (steps[0], steps[-1]) == (1, 20)
    assert 2 <= len(steps) <= 4
    engine.close()


def test_i4_slots_that_are_too_many_for_the_device_are_given_back(monkeypatch):
    engine = an_engine(FakeSink())
    prove(engine)
    run, left = recorded_run(), 12
    make = engine.backend.slots

    def slots(count, *kind):
        nonlocal left
        if left == 0:
            raise torch.cuda.OutOfMemoryError("full")
        left -= 1
        return make(count, *kind)

    monkeypatch.setattr(engine.backend, "slots", slots)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        record(engine, run, 1)
    assert run.recording._free == []
    left = 100  # for a node that samples again
    record(engine, run, 2)
    assert [kept.step for kept in frames_of(run.recording, MANY, nobody).kept] == [2]
    engine.close()


def test_of_a_video_the_last_latent_alone_is_kept_and_played(monkeypatch):
    engine = an_engine(FakeSink())
    run = recorded_run(FakeSource(FlatDecoder(), "no video"), FakeSource(FlatVideoDecoder()))
    for step in (1, 2, 3):
        levels = torch.arange(5).view(1, 1, 5, 1, 1) * 20.0 + step
        video = torch.zeros(1, 4, 5, 8, 12) + levels
        video[:, 0] += 10
        record(engine, run, step, video / 255)
    assert len(run.recording._shots.items) == 1
    found = frames_of(run.recording, MANY, nobody)
    assert [round(float(kept.rgb.mean())) for kept in found.kept] == [
        13, 23, 33, 43, 53, 63, 73, 83, 93
    ]  # fmt: skip
    assert {kept.step for kept in found.kept} == {3}
    assert found.rate == pytest.approx(8, rel=0.01)  # of 16 each latent has four, two are made
    fewer = recorded_run(FakeSource(FlatVideoDecoder()), limit=Limit(3, 1000))
    record(engine, fewer, 1, torch.rand(1, 4, 5, 8, 12))
    assert len(frames_of(fewer.recording, Limit(3, 1000), nobody).kept) == 3
    engine.close()


def test_the_wait_ends_where_no_picture_comes_or_the_prompt_is_interrupted(monkeypatch):
    monkeypatch.setattr(recording_module, "PATIENCE", 0.3)
    gate = Gate()
    engine = an_engine(FakeSink())
    run = recorded_run(FakeSource(FlatDecoder(before=gate)))
    record(engine, run, 1)
    found = frames_of(run.recording, MANY, nobody)
    assert (found.kept, found.why) == ([], LATE)
    record(engine, run, 2)

    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        frames_of(run.recording, MANY, interrupted)
    gate.open.set()
    engine.close()


def test_nothing_is_waited_for_from_a_worker_that_is_gone():
    engine = an_engine(FakeSink())
    run = recorded_run()
    record(engine, run, 1)
    engine.close()
    assert frames_of(run.recording, MANY, nobody).why == LATE
    assert frames_of(Recording(MANY), MANY, nobody).why == EMPTY
    assert frames_of(None, MANY, nobody).why == UNKNOWN


def test_i6_a_decoder_that_fails_is_left_for_the_next():
    def fails():
        raise RuntimeError("not today")

    engine = an_engine(FakeSink())
    run = recorded_run(FakeSource(FlatDecoder(before=fails), "bad"), FakeSource())
    record(engine, run, 5)
    assert [kept.step for kept in frames_of(run.recording, MANY, nobody).kept] == [5]
    engine.close()


def test_i11_latents_leave_the_device_when_nothing_samples(monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.05)
    sink, samples, asked = FakeSink(), threading.Event(), threading.Semaphore(0)
    samples.set()
    sink.quiet = lambda: asked.release() or not samples.is_set()
    engine = an_engine(sink)
    run = recorded_run()
    record(engine, run, 7)
    interrupted = recorded_run()
    record(engine, interrupted, 8)
    interrupted.abort()
    assert all(asked.acquire(timeout=30) for _ in range(3))
    assert run.recording.waits
    samples.clear()
    assert wait_until(lambda: not run.recording.waits and not interrupted.recording.waits)
    assert [kept.step for kept in run.recording.pictures] == [7]
    assert interrupted.recording.pictures == []
    assert run.recording._free == []
    engine.close()


class Model:
    """One that can be referred to weakly."""


def test_a_sampling_is_found_by_what_its_output_depends_on_the_nearest_first():
    kept, model = Recordings(), Model()
    far = kept.begin(("p", "1", 0), ["far"], MANY, model)
    near = kept.begin(("p", "2", 0), ["near", "the node that made it"], MANY)
    assert kept.find(["else", "near", "far"], 0) is near
    assert kept.find(["the node that made it"], 0) is near
    assert kept.find(["near", "far"], 0, model) is far
    assert kept.find(["near", "far"], 0, Model()) is near
    assert kept.find(["else"], 0) is None
    # Again in the same call, in another call of the same node, and in a later prompt.
    assert kept.begin(("p", "2", 0), ["near"], MANY) is near
    second = kept.begin(("p", "2", 1), ["near"], MANY)
    # A node that is called more often gets the last one; one that is gone is not replaced.
    assert [kept.find(["near"], index) for index in (0, 1, 2)] == [near, second, second]
    newest = kept.begin(("p", "2.1", 0), ["newest", "the node that made it"], MANY)
    assert kept.find(["the node that made it"], 0) is newest
    # A client that gives all its prompts the same id.
    assert kept.begin(("p", "2.1", 0), ["another"], MANY) is kept.find(["another"], 0)
    assert kept.find(["newest"], 0) is None
    kept.begin(("p", "2.1", 0), ["newest", "the node that made it"], MANY)
    kept.begin(("p", "3", 5), ["rest"], MANY)
    assert kept.find(["rest"], 4) is None
    later = kept.begin(("q", "2", 0), ["near"], MANY)
    assert kept.find(["near"], 0) is later
    kept.clear()
    assert kept.find(["near", "far"], 0) is None


def test_i5_recordings_are_bounded_by_count_and_memory(monkeypatch):
    kept = Recordings()
    for n in range(12):
        kept.begin(("p", str(n), 0), [str(n)], MANY)
    assert [kept.find([str(n)], 0) is not None for n in range(12)] == [False] * 4 + [True] * 8
    calls = [kept.begin(("p", "11", n), ["11"], MANY) for n in range(20)]  # of one node
    assert [kept.find(["11"], n) for n in range(20)] == calls
    calls[-1].keep(None, [Kept(1, np.zeros((8, 8, 3), np.uint8), (8, 8))], 8.0)
    monkeypatch.setattr(recordings_module.Recordings, "MOST_BYTES", 100)
    newest = kept.begin(("p", "new", 0), ["new"], MANY)
    assert len(kept._samplings) == 1
    assert kept.find(["new"], 0) is newest
    gc.collect()


def test_i8_nothing_is_kept_of_a_prompt_without_the_node(stage, pack, client, told):
    kept = pack._recordings
    kept.begin(("p", "1", 0), ["before"], MANY)
    with stage.node():
        stage.sample(stage.demo_model(), steps=2)
    assert kept.find(["before"], 0) is None
    assert not kept._samplings


# What an output depends on


def a_graph(comfy, prompt):
    return comfy("comfy_execution.graph").DynamicPrompt(prompt)


def a_prompt(seed=1, prefix=""):
    node = types.SimpleNamespace(model=f"{prefix}1", sampler=f"{prefix}2", after=f"{prefix}3")
    inputs = {"model": [node.model, 0], "seed": seed}
    return node, {
        node.model: {"class_type": "Loader", "inputs": {"name": "m"}},
        node.sampler: {"class_type": "KSampler", "inputs": inputs},
        node.after: {"class_type": "Frames", "inputs": {"latent": [node.sampler, 0]}},
    }


def test_equal_nodes_have_equal_signatures_whatever_their_ids(comfy):
    from sidestream.preview.host import prompts

    one, prompt = a_prompt()
    other, same = a_prompt(prefix="9")
    different = a_prompt(seed=2)[1]
    first = prompts.signature(a_graph(comfy, prompt), one.sampler)
    assert first == prompts.signature(a_graph(comfy, same), other.sampler)
    assert first != prompts.signature(a_graph(comfy, different), one.sampler)
    changed = {**prompt, one.model: {**prompt[one.model], "is_changed": [2]}}
    assert first != prompts.signature(a_graph(comfy, changed), one.sampler)
    graph = a_graph(comfy, prompt)
    found = list(prompts.upstream_signatures(graph, one.after, "latent"))
    assert found == [prompts.signature(graph, node_id) for node_id in ("2", "1")]
    alike = list(prompts.upstream_signatures(graph, one.after, "latent", like=[one.sampler]))
    assert alike == found[:1]


def test_a_node_made_at_run_time_has_the_signature_of_its_maker_too(comfy):
    from sidestream.preview.host import prompts

    one, prompt = a_prompt()
    made = a_graph(comfy, prompt)
    inner = {"class_type": "KSampler", "inputs": {"model": [one.model, 0], "odd": object()}}
    made.add_ephemeral_node("2.0.1", inner, one.sampler, one.sampler)
    found = prompts.signatures(made, "2.0.1")
    assert list(found) == ["2.0.1", one.sampler]
    assert found[one.sampler] == prompts.signature(made, one.sampler)
    assert found["2.0.1"] != found[one.sampler]


def test_a_circle_or_a_link_to_nothing_ends(comfy):
    from sidestream.preview.host import prompts

    prompt = {
        "1": {"class_type": "A", "inputs": {"x": ["2", 0], "y": ["missing", 0]}},
        "2": {"class_type": "B", "inputs": {"x": ["1", 0]}},
    }
    made = a_graph(comfy, prompt)
    found = list(prompts.upstream_signatures(made, "1", "x"))
    assert found == [prompts.signature(made, node_id) for node_id in ("2", "1")]


def test_i6_a_graph_that_cannot_be_read_costs_the_frames_not_the_prompt(comfy, pack, monkeypatch):
    from sidestream.preview.host import prompts

    one, prompt = a_prompt()
    prompt[one.model]["inputs"]["odd"] = {1: "a graph made at run time may", "hold": "anything"}
    pack._recordings.begin(("p", one.sampler, 0), ["known"], MANY)
    monkeypatch.setattr(prompts, "running_graph", lambda: a_graph(comfy, prompt))
    assert pack.frames(one.after, {}, None, nobody).why == UNKNOWN
