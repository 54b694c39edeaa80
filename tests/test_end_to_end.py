"""SideStream in a real ComfyUI, seen by real websocket clients: what it must show.

One server serves most tests. Others are started, asked and stopped.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from sidestream.preview.settings import FIELDS, Choice
from sidestream.tests.graphs import (
    MODEL,
    NODE,
    SAMPLER,
    SAVE,
    a_sampler,
    demo_graph,
    insert,
    new_seed,
    settled,
)
from sidestream.tests.helpers import SAMPLES_ON, wait_until
from sidestream.tests.pictures import decoded, label_of, psnr
from sidestream.tools.comfy_client import Event, Frame, RequestRefused

if TYPE_CHECKING:
    from sidestream.tools.comfy_client import ComfyClient, Run
    from sidestream.tools.server import RunningHost

SEED = 7
FREE = {"throttle_ms": 0, "budget": 0}
LATENT2RGB = {"method": "latent2rgb", **FREE}

# With a prompt that has no node. One decode that the machine held up must not use up the budget.
NO_BUDGET = {"sidestream": {"budget": 0}}

Connect = Callable[..., "ComfyClient"]


@dataclass(frozen=True)
class Reference:
    """What a ComfyUI without the pack makes of the demo graph with `SEED`."""

    frames: list[Frame]
    latents: dict[str, bytes]
    """By sampler."""


@pytest.fixture(scope="module")
def reference(comfy_host: Any) -> Reference:
    from sidestream.tools.comfy_client import ComfyClient

    running = comfy_host(
        "--preview-method", "latent2rgb", pack=False, hostpack=("demo_model_only",)
    )
    runs = {}
    with ComfyClient(running.url) as client:
        for sampler in ("euler", "euler_ancestral"):
            runs[sampler] = client.run(demo_graph(seed=SEED, sampler=sampler))
        latents = {name: client.saved_latent(run.prompt_id, SAVE) for name, run in runs.items()}
    assert not any(frame.sidestream for frame in runs["euler"].frames)
    return Reference(runs["euler"].frames, latents)


@pytest.fixture(scope="module")
def running(reference: Reference, comfy_host: Any) -> RunningHost:
    """ComfyUI with SideStream, started without any word about previews."""
    return comfy_host()


@pytest.fixture
def client(running: RunningHost, connect: Connect) -> ComfyClient:
    return connect(running)


def steps(run: Run) -> list[int]:
    """The labels of SideStream's frames; 0 for a frame that is not SideStream's."""
    return [frame.sidestream.get("step", 0) for frame in run.frames]


def log_lines(running: RunningHost, since: int, *parts: str) -> list[str]:
    """Lines of the log after position `since` that have all `parts`."""
    lines = running.log_text[since:].splitlines()
    return [line for line in lines if all(part in line for part in parts)]


# First light


def test_20_steps_give_20_frames_that_are_comfyuis_own_pictures(reference, client):
    assert len(reference.frames) == 20
    run = client.run(settled(demo_graph(LATENT2RGB, seed=SEED)))
    assert run.outcome == "success"
    assert steps(run) == list(range(1, 21))
    for frame, own in zip(run.frames, reference.frames, strict=True):
        # On a GPU, ComfyUI's own copy does not wait: it may be of another step.
        assert SAMPLES_ON != "cpu" or psnr(decoded(frame.image), decoded(own.image)) >= 30
    assert client.saved_latent(run.prompt_id, SAVE) == reference.latents["euler"]


def test_a_frame_says_what_it_is_in_one_message(client):
    seed, began = new_seed(), time.monotonic()
    run = client.run(demo_graph(LATENT2RGB, seed=seed))
    assert {frame.mime for frame in run.frames} == {"image/jpeg"}
    for frame in run.frames:
        assert decoded(frame.image).shape == (512, 512, 3)
        ids = ("node_id", "display_node_id", "real_node_id")
        assert [frame.metadata[key] for key in ids] == [SAMPLER] * 3
        assert frame.metadata["prompt_id"] == run.prompt_id
        own = frame.sidestream
        assert (own["total_steps"], own["width"], own["height"]) == (20, 512, 512)
        assert own["decoder"] == "latent2rgb"
        assert 0 <= own["captured_to_sent_ms"] < 1000 * (frame.received_at - began)
        assert own["decode_ms"] > 0
        assert own["seed"] == seed
        assert label_of(frame.image) == {"prompt_id": run.prompt_id, "node_id": SAMPLER} | own
    events = [*run.events, *client.listen(0.5).events]
    # All that is SideStream's besides the pictures: the run's start, its sampling and its end.
    start, sampling, end = [each.data for each in events if each.type.startswith("sidestream")]
    assert [each["state"] for each in (start, sampling, end)] == ["start", "sampling", "end"]
    assert [each["can_finish"] for each in (start, sampling, end)] == [False, True, False]
    assert end["sent"] == len(run.frames)
    assert sum(end["outcomes"].values()) == end["sent"] + end["dropped"] == 20


@pytest.mark.parametrize(("kind", "mime"), [("png", "image/png"), ("webp", "image/webp")])
def test_other_formats_arrive(client, kind, mime):
    run = client.run(demo_graph({**LATENT2RGB, "format": kind, "max_size": 128}, steps=4))
    assert {frame.mime for frame in run.frames} == {mime}
    assert {decoded(frame.image).shape for frame in run.frames} == {(128, 128, 3)}
    assert [label_of(frame.image)["step"] for frame in run.frames] == steps(run)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
@pytest.mark.parametrize("node", [None, {"method": "off"}, {**LATENT2RGB, "every_n_steps": 2}])
def test_i4_the_latents_bytes_are_those_without_the_pack(reference, client, sampler, node):
    run = client.run(demo_graph(node, seed=SEED, sampler=sampler), NO_BUDGET)
    assert bool(run.frames) == (node != {"method": "off"})
    assert client.saved_latent(run.prompt_id, SAVE) == reference.latents[sampler]


def test_every_5th_of_20_steps_is_previewed(client):
    run = client.run(settled(demo_graph({**LATENT2RGB, "every_n_steps": 5})))
    assert steps(run) == [1, 6, 11, 16, 20]


def test_500_ms_lie_between_two_frames_but_the_last(client):
    prompt = settled(demo_graph({**LATENT2RGB, "throttle_ms": 500}, steps=20, seconds=0.1))
    shown = steps(client.run(prompt))
    assert (shown[0], shown[-1]) == (1, 20)
    assert len(shown) >= 4
    began = client.get("/clock")  # each step's callback, which captures the frame of the step
    for step, following in itertools.pairwise(shown[:-1]):  # the last one comes in addition
        assert began[following] - began[step - 1] >= 0.5  # when it was over, and before it


# I1: never waits


def test_i1_a_decoder_of_2_s_leaves_the_sampler_its_time(client):
    def sampled(name: str, method: str, decoder_seconds: float) -> dict[str, Any]:
        prompt = demo_graph({**FREE, "method": method}, steps=20, seconds=0.05)
        insert(prompt, "9", "ProbeSampling", name=name, decoder_seconds=decoder_seconds)
        run = client.run(prompt)
        assert run.outcome == "success"
        return client.get(f"/probe/{name}")

    without = sampled("none", "off", 0.0)
    assert len(without["callbacks"]) == 20
    spent: list[float] = []
    while len(spent) < 3 and min(spent, default=2.0) > 1.0:  # the machine has other work
        slow = sampled(f"slow-{len(spent)}", "latent2rgb", 2.0)
        assert len(slow["callbacks"]) == 20
        spent.append(sum(slow["callbacks"]))
    assert min(spent) < 1.0  # to wait for the decoder but once takes 2 s
    assert wait_until(lambda: frames_under_way(client) == 0, 60)


def frames_under_way(client: ComfyClient) -> int:
    return client.get("/sidestream/status")["counters"]["active_runs"]


# I7: timely


def slow_graph(decoder_seconds: float, **changes: Any) -> dict[str, Any]:
    prompt = demo_graph(LATENT2RGB, **changes)
    insert(prompt, "9", "ProbeSampling", name="slow", decoder_seconds=decoder_seconds)
    return prompt


def test_i7_frames_that_are_late_for_an_output_node_are_dropped_and_counted(client):
    before = Counter(client.get("/sidestream/status")["counters"]["frames"])
    prompt = slow_graph(30.0, steps=5, seconds=0.0)
    prompt[SAMPLER]["class_type"] = "SampleAsOutput"
    for message in client.messages(client.queue(prompt)):
        assert isinstance(message, Event)
        if message.type == "executed" and message.data["node"] == SAMPLER:
            client.post("/probe/release", {})
    assert wait_until(lambda: frames_under_way(client) == 0, 30)
    frames = Counter(client.get("/sidestream/status")["counters"]["frames"]) - before
    # The first, two that wait for it, and the last; on a busy machine, the first may wait, too.
    assert frames["late"] in (3, 4)
    assert frames == {"late": frames["late"], "replaced": 5 - frames["late"]}


def test_i7_after_an_interrupt_nothing_more_is_sent(client):
    prompt_id = client.queue(demo_graph(LATENT2RGB, steps=200, seconds=0.05))
    frames = 0
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            frames += 1
            if frames == 3:
                client.interrupt()
        elif message.type == "execution_interrupted":
            break
    rest = client.collect(prompt_id)
    assert rest.frames == client.listen(0.5).frames == []
    assert 3 <= frames < 200
    assert wait_until(lambda: frames_under_way(client) == 0)
    again = client.run(demo_graph(LATENT2RGB, steps=4))
    assert again.outcome == "success"
    assert again.frames


def test_i7_an_interrupt_during_a_decode_keeps_that_frame_back(client):
    prompt_id = client.queue(slow_graph(30.0, steps=200, seconds=0.05))
    for message in client.messages(prompt_id):
        assert isinstance(message, Event)
        if message.type == "progress" and message.data["value"] == 2:
            client.interrupt()
        elif message.type == "execution_interrupted":
            client.post("/probe/release", {})
            break
    run = client.collect(prompt_id)
    assert run.frames == []
    assert wait_until(lambda: frames_under_way(client) == 0)
    assert client.listen(0.5).frames == []


# Finish here


def test_a_run_that_is_finished_early_goes_on_with_what_was_seen(
    reference, running, client, connect
):
    since = len(running.log_text)
    other = connect(running)
    prompt_id = client.queue(demo_graph(LATENT2RGB, steps=200, seconds=0.2))
    for message in client.messages(prompt_id):
        if not isinstance(message, Frame):
            continue
        run = message.sidestream["run"]
        with pytest.raises(RequestRefused) as refused:
            other.post("/sidestream/finish", {"client_id": other.client_id, "run": run})
        assert refused.value.status == 400
        assert "run must be the id of a run of this client" in str(refused.value)
        state = client.post("/sidestream/finish", {"client_id": client.client_id, "run": run})
        assert state["runs"][0]["can_finish"]
        break
    rest = client.collect(prompt_id)
    assert rest.outcome == "success"
    late = client.listen(0.5)
    [end] = [
        event.data
        for event in rest.events_of("sidestream.run") + late.events_of("sidestream.run")
        if event.data["state"] == "end"
    ]
    last = (rest.frames + late.frames)[-1].sidestream
    assert end["finished_early"] == last["step"] < 50
    assert last["total_steps"] == 200
    assert len(client.saved_latent(prompt_id, SAVE)) == len(reference.latents["euler"])
    [line] = log_lines(running, since, "finished early")
    assert line.endswith(f"at step {last['step']} of 200.")
    again = client.run(demo_graph(LATENT2RGB, seed=SEED))
    assert again.outcome == "success"
    assert client.saved_latent(again.prompt_id, SAVE) == reference.latents["euler"]


# I8: private


def test_i8_only_the_client_that_queued_gets_frames(running, client, connect):
    others = [connect(running), connect(running, announce_features=False)]
    assert client.run(demo_graph(FREE, steps=6)).frames
    for other in others:
        seen = other.listen(0.3)
        assert seen.frames == []
        assert not [event for event in seen.events if event.type.startswith("sidestream")]


def test_a_prompt_without_a_client_is_shown_to_everybody(running, client, connect):
    other, legacy = connect(running), connect(running, announce_features=False)
    # Settled: a client that has not taken the last frame is not given the next.
    prompt_id = client.queue(settled(demo_graph(FREE, steps=6)), anonymous=True)
    seen = [each.collect(prompt_id) for each in (client, other, legacy)]
    assert [frame.metadata for frame in seen[2].frames] == [{}] * 6
    assert steps(seen[0]) == steps(seen[1]) == [1, 2, 3, 4, 5, 6]


def test_a_legacy_client_gets_event_1(running, connect):
    legacy = connect(running, announce_features=False)
    run = legacy.run(settled(demo_graph({**LATENT2RGB, "format": "webp"}, steps=6)))
    assert len(run.frames) == 6
    assert {frame.mime for frame in run.frames} == {"image/jpeg"}
    assert all(frame.metadata == {} for frame in run.frames)
    shown = [label_of(frame.image)["step"] for frame in run.frames]
    assert shown == sorted(set(shown))
    assert {decoded(frame.image).shape for frame in run.frames} == {(512, 512, 3)}
    assert not [event for event in run.events if event.type.startswith("sidestream")]


# I10: polite


def test_i4_i10_a_sampler_that_looks_at_previews_gets_comfyuis_and_passes_them_on(
    reference, client
):
    prompt = demo_graph(seed=SEED)
    prompt[SAMPLER]["class_type"] = "SampleAndLook"
    run = client.run(prompt, {"sidestream": {"throttle_ms": 0, "budget": 0}})
    assert run.outcome == "success"
    assert client.saved_latent(run.prompt_id, SAVE) == reference.latents["euler"]
    # The first one is SideStream's: so far nobody knew that the pictures are looked at.
    assert sorted(steps(run)) == [0] * 19 + [1]
    theirs = [frame for frame in run.frames if not frame.sidestream]
    for frame, own in zip(theirs, reference.frames[1:], strict=True):
        assert SAMPLES_ON != "cpu" or psnr(decoded(frame.image), decoded(own.image)) >= 30


# I9: obedient


def test_i9_where_nobody_chose_a_method_there_are_previews(client):
    run = client.run(demo_graph(), NO_BUDGET)
    assert run.frames
    assert 0 not in steps(run)
    assert {frame.sidestream["decoder"] for frame in run.frames} == {"latent2rgb"}


def test_i9_where_none_was_chosen_only_the_node_brings_previews(comfy_host, connect):
    running = comfy_host("--preview-method", "none", fresh=True)
    try:
        client = connect(running)
        for node in (None, {}, {"method": "host"}):
            run = client.run(demo_graph(node, steps=6, seconds=0.05))
            assert run.outcome == "success"
            assert run.frames == []
            assert [e.data["state"] for e in run.events_of("sidestream.run")] == ["none"]
        node = {"method": "latent2rgb"}
        run = client.run(settled(demo_graph(node, steps=6, seconds=0.05)), NO_BUDGET)
        assert steps(run)[0] == 1
        assert len(run.frames) >= 2
    finally:
        running.stop()


# The node


def test_the_node_changes_nothing_on_another_branch_or_in_a_later_prompt(client):
    prompt = demo_graph({"method": "off"}, steps=8)
    other = {"throttle_ms": 0, "every_n_steps": 3}
    prompt["6"] = {"class_type": "SideStreamPreview", "inputs": {"model": [MODEL, 0], **other}}
    branches = {"5": [MODEL, 0], "7": ["6", 0]}
    for key, model in branches.items():
        settles = {"name": key, "decoder_seconds": 0.0, "settles": True}
        prompt[f"{key}-settled"] = {
            "class_type": "ProbeSampling",
            "inputs": {"model": model, **settles},
        }
        prompt[key] = a_sampler([f"{key}-settled", 0], 8, "euler", new_seed())
        inputs = {"samples": [key, 0], "filename_prefix": "test"}
        prompt[f"{key}-save"] = {"class_type": "SaveLatent", "inputs": inputs}
    run = client.run(prompt, NO_BUDGET)
    by_node: dict[str, list[int]] = {SAMPLER: [], "5": [], "7": []}
    for frame in run.frames:
        by_node[frame.metadata["node_id"]].append(frame.sidestream["step"])
    assert by_node[SAMPLER] == []
    assert by_node["7"] == [1, 4, 7, 8]
    later = client.run(settled(demo_graph(steps=8)), NO_BUDGET)
    for labels in (by_node["5"], steps(later)):  # by the defaults: neither off nor every third
        assert (labels[0], labels[-1]) == (1, 8)
        assert len(labels) >= 3
        assert labels != by_node["7"]


def bad_widgets() -> list[tuple[str, Any]]:
    """For each setting, values right outside its range."""
    found: list[tuple[str, Any]] = [("quality", "high"), ("max_size", 1)]
    for name, field in FIELDS.items():
        # -1 says 'as in my settings'.
        bad = ("best",) if isinstance(field, Choice) else (min(field.low - 1, -2), field.high + 1)
        found += [(name, value) for value in bad]
    return found


@pytest.mark.parametrize(("widget", "value"), bad_widgets())
def test_a_bad_widget_is_refused_with_the_fields_name(client, widget, value):
    with pytest.raises(RequestRefused) as refused:
        client.queue(demo_graph({widget: value}))
    assert refused.value.status == 400
    assert refused.value.body["node_errors"].keys() == {NODE}
    errors = refused.value.body["node_errors"][NODE]["errors"]
    assert errors
    assert all(widget in error["details"] for error in errors)


def test_a_choice_that_is_none_is_refused_by_name_whatever_else_is_set(client):
    with pytest.raises(RequestRefused) as refused:
        client.queue(demo_graph({"max_size": 64, "format": "png", "method": "best"}))
    errors = refused.value.body["node_errors"][NODE]["errors"]
    assert all("method must be one of host, auto" in error["details"] for error in errors)


def test_a_bad_value_from_another_node_stops_the_prompt_with_the_fields_name(client):
    prompt = demo_graph({"throttle_ms": ["8", 0]})
    prompt["8"] = {"class_type": "PrimitiveInt", "inputs": {"value": -7}}
    run = client.run(prompt)
    assert run.outcome == "error"
    [error] = run.events_of("execution_error")
    assert error.data["node_id"] == NODE
    assert "throttle_ms must be a whole number from 0 to 60000" in error.data["exception_message"]


# What the client sends


def test_settings_sent_with_the_prompt_are_honoured(client):
    sent = {"sidestream": {"every_n_steps": 5, **FREE, "max_size": 64}}
    run = client.run(settled(demo_graph()), sent)
    assert steps(run) == [1, 6, 11, 16, 20]
    assert {decoded(frame.image).shape for frame in run.frames} == {(64, 64, 3)}


def test_bad_settings_sent_with_a_prompt_are_warned_of_once_and_the_good_ones_kept(running, client):
    since = len(running.log_text)
    sent = {"sidestream": {"every_n_steps": 5, **FREE, "quality": 500, "colour": 1}}
    for _ in range(2):
        run = client.run(settled(demo_graph(seconds=0.04)), sent)
        assert run.outcome == "success"
        assert steps(run) == [1, 6, 11, 16, 20]
    assert len(log_lines(running, since, "quality must be a whole number from 1 to 100")) == 1
    assert len(log_lines(running, since, "'colour' is not a setting")) == 1
    for nonsense in ("all", 5, [FREE], None):
        run = client.run(demo_graph(FREE, steps=3, seconds=0.02), {"sidestream": nonsense})
        assert run.outcome == "success"
        assert run.frames


# Live changes


def test_a_live_change_reaches_that_clients_run_and_nobody_elses(running, client, connect):
    other = connect(running)
    throttled = {**LATENT2RGB, "throttle_ms": 60_000}
    prompt_id = client.queue(settled(demo_graph(throttled, steps=200)))
    shown: list[int] = []
    changed = 0.0
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            shown.append(message.sidestream["step"])
            if len(shown) == 14:
                client.interrupt()
        elif message.type == "progress" and message.data["value"] == 5:
            answer = other.post("/sidestream/live", {"client_id": other.client_id, **FREE})
            assert answer["runs"] == []
        elif message.type == "progress" and message.data["value"] == 15:
            answer = client.post(
                "/sidestream/live", {"client_id": client.client_id, "throttle_ms": 0}
            )
            assert len(answer["runs"]) == 1
            changed = time.monotonic()
    assert shown[0] == 1
    began = client.get("/clock")  # each step's callback
    assert 15 <= shown[1] <= 1 + next(at for at, moment in enumerate(began) if moment > changed)
    assert shown[1:] == list(range(shown[1], shown[1] + len(shown) - 1))
    # The change ends with the run that it was for.
    again = client.run(settled(demo_graph(throttled, steps=10)))
    assert steps(again) == [1, 10]


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ({"throttle_ms": -1}, ["throttle_ms", "from 0 to 60000"]),
        ({"throttle_ms": 0, "quality": 101}, ["quality", "from 1 to 100"]),
        ({"throttle_ms": 0, "rate": 5}, ["'rate'", "throttle_ms"]),
    ],
)
def test_a_bad_live_change_gives_400_and_changes_nothing(client, bad, parts):
    prompt_id = client.queue(settled(demo_graph({**LATENT2RGB, "throttle_ms": 60_000}, steps=10)))
    shown: set[int] = set()
    for message in client.messages(prompt_id):
        if isinstance(message, Frame):
            shown.add(message.sidestream["step"])
        elif message.type == "progress" and message.data["value"] == 3:
            with pytest.raises(RequestRefused) as refused:
                client.post("/sidestream/live", {"client_id": client.client_id, **bad})
            assert refused.value.status == 400
            assert all(part in refused.value.body["error"] for part in parts)
            state = client.get(f"/sidestream/client?client_id={client.client_id}")
            assert state["live"] == {}
    assert shown - {10} == {1}


def test_status_says_what_is_installed(host, client):
    client.run(demo_graph(LATENT2RGB, steps=2))
    status = client.get("/sidestream/status")
    assert status["provider"]["installed"] is True
    assert status["provider"]["problem"] is None
    assert status["comfyui"] == host.version
    assert [device["device"] for device in status["devices"]] == [SAMPLES_ON]
    assert any("latent2rgb" in name for name in status["decoders"])
    assert status["counters"]["frames"]["sent"] > 0


# Decoders that are not there


@pytest.mark.parametrize("content", ["truncated", "wrong"])
def test_i6_a_bad_decoder_file_gives_one_warning_and_latent2rgb(running, client, content):
    import torch
    from sidestream.preview.decoders.taesd import decoder_layers

    path = running.base_dir / "models" / "vae_approx" / "taesd_decoder.pth"
    since = len(running.log_text)
    try:
        if content == "truncated":
            torch.save(decoder_layers(4, False).state_dict(), path)
            path.write_bytes(path.read_bytes()[:100_000])
        else:
            torch.save({"weight": torch.zeros(3)}, path)
        for node in (FREE, {**FREE, "method": "taesd"}):
            run = client.run(settled(demo_graph(node, steps=6)))
            assert run.outcome == "success"
            assert steps(run) == [1, 2, 3, 4, 5, 6]
            assert {frame.sidestream["decoder"] for frame in run.frames} == {"latent2rgb"}
    finally:
        path.unlink()
    [warning] = log_lines(running, since, "[SideStream]")
    assert "taesd_decoder.pth" in warning
    assert "latent2rgb" in warning
    assert "Traceback" not in running.log_text[since:]


def test_a_good_decoder_file_is_used(running, client):
    import torch
    from sidestream.preview.decoders.taesd import decoder_layers

    path = running.base_dir / "models" / "vae_approx" / "taesd_decoder.pth"
    try:
        torch.save(decoder_layers(4, False).state_dict(), path)
        run = client.run(demo_graph(FREE, steps=4, seconds=0.3, size=128))
    finally:
        path.unlink()
    assert {frame.sidestream["decoder"] for frame in run.frames} == {"taesd"}
    assert {decoded(frame.image).shape for frame in run.frames} == {(128, 128, 3)}


def test_a_format_with_neither_decoder_nor_factors_gives_one_info_line(running, client):
    since = len(running.log_text)
    for _ in range(2):
        prompt = demo_graph(FREE, steps=4, seconds=0.02)
        insert(prompt, "9", "ProbeBareFormat")
        run = client.run(prompt)
        assert run.outcome == "success"
        assert run.frames == []
    [line] = log_lines(running, since, "[SideStream]")
    assert "BareFormat latents have no previews" in line
