"""The side stream: I1 never waits, I2 ordered, I3 true, I4 harmless, I6 contained, I11 light."""

from __future__ import annotations

import gc
import io
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sidestream.preview import records
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.taesd import TaesdSource, decoder_layers
from sidestream.preview.render import worker as engine_module
from sidestream.preview.render.backends import backends_for
from sidestream.preview.render.backends.device import StreamDevice
from sidestream.preview.render.backends.host_copy import HostCopyBackend
from sidestream.preview.render.backends.side_stream import SideStreamBackend
from sidestream.preview.render.engines import Engines
from sidestream.preview.render.job import RenderJob
from sidestream.preview.render.worker import Engine
from sidestream.tests.helpers import (
    FakeSink,
    FakeSource,
    FlatDecoder,
    a_book,
    stage,
    start_run,
    wait_until,
)

pytestmark = pytest.mark.gpu

SHAPE = (1, 4, 64, 64)


@pytest.fixture
def engine_of():
    made = []

    def make(device, source=None, sink=None):
        sink = sink or FakeSink()
        engine = Engine(backends_for(device, source or device), DecoderCache(), sink)
        made.append(engine)
        return engine, sink

    yield make
    for engine in made:
        engine.close(5)


def half(device):
    return torch.float16


def taesd_source(tmp_path, precision=half):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        path = tmp_path / "taesd_decoder.pth"
        torch.save(decoder_layers(4, pooled=False).state_dict(), path)
    return TaesdSource.of(str(path), 4, precision)


def grey(frame):
    pixels = np.asarray(Image.open(io.BytesIO(frame.data)))
    assert pixels.min() == pixels.max(), f"step {frame.label.step} is a mixture"
    return int(pixels[0, 0, 0])


def test_i2_i3_500_frames_behind_a_slow_kernel_and_before_an_overwrite(cuda, engine_of):
    engine, sink = engine_of(cuda)
    run = start_run(a_book(), FakeSource())
    stream = torch.cuda.Stream(cuda)
    latent = torch.zeros(SHAPE, device=cuda)
    frames = 500
    with torch.cuda.stream(stream), torch.inference_mode():
        for step in range(1, frames + 1):
            level = step % 251 + 1
            latent.fill_(255)
            torch.cuda._sleep(400_000)  # a reader that does not wait sees 255
            latent.fill_(level / 255)
            run.at(level, 1000)
            stage(engine, run, latent)
            latent.fill_(0)  # a reader that comes late sees 0
            assert wait_until(lambda: run.open_frames == 0)
    assert len(sink.frames) == frames
    assert [grey(frame) for frame in sink.frames] == [frame.label.step for frame in sink.frames]


def test_i3_frames_that_were_replaced_leave_no_trace_in_those_that_were_not(cuda, engine_of):
    engine, sink = engine_of(cuda)
    run = start_run(a_book(), FakeSource())
    streams = [torch.cuda.Stream(cuda) for _ in range(3)]
    latent = torch.zeros(SHAPE, device=cuda)
    with torch.inference_mode():
        for step in range(1, 2000):
            level = step % 251 + 1
            stream = streams[step % 3]  # a sampler that goes from stream to stream
            stream.wait_stream(streams[(step - 1) % 3])
            with torch.cuda.stream(stream):
                latent.fill_(level / 255)
                run.at(level, 5000)
                stage(engine, run, latent)
                latent.fill_(0)
    assert wait_until(lambda: run.open_frames == 0, 20)
    assert run.outcomes[records.REPLACED] + run.outcomes[records.BUSY] > 100
    assert len(sink.frames) > 50
    assert [grey(frame) for frame in sink.frames] == [frame.label.step for frame in sink.frames]


def test_i1_the_samplers_thread_makes_no_call_that_waits(cuda, engine_of, tmp_path):
    engine, _ = engine_of(cuda)
    run = start_run(a_book(), taesd_source(tmp_path))
    latent = torch.randn(SHAPE, device=cuda)

    def sample(steps):
        for step in range(1, steps):
            run.at(step, 1000)
            with torch.profiler.record_function("callback"):
                stage(engine, run, latent)
            time.sleep(0.004)

    sample(20)
    assert wait_until(lambda: run.open_frames == 0, 20)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        sample(100)
        assert wait_until(lambda: run.open_frames == 0, 20)
    events = profile.profiler.kineto_results.events()
    here = threading.get_native_id()
    callbacks = [
        (e.start_ns(), e.end_ns())
        for e in events
        if e.name() == "callback" and e.device_resource_id() == here
    ]
    assert len(callbacks) == 99
    calls = {
        e.name()
        for e in events
        if e.name().startswith("cu")
        and e.device_resource_id() == here
        and any(start <= e.start_ns() <= end for start, end in callbacks)
    }
    assert calls == {"cudaLaunchKernel", "cudaEventRecordWithFlags", "cudaStreamIsCapturing"}


def test_i4_a_sampler_that_draws_noise_is_undisturbed(cuda, engine_of, tmp_path):
    torch.manual_seed(11)
    expected = [torch.randn(64, device=cuda) for _ in range(3000)]
    state = torch.cuda.get_rng_state(cuda)
    engine, sink = engine_of(cuda)
    source = taesd_source(tmp_path)
    book = a_book()
    torch.manual_seed(11)
    drawn = []
    for step in range(3000):
        if step % 100 == 0:  # another size
            run = start_run(book, source, max_size=64 + step // 100)
        run.at(step + 1, 3000)
        stage(engine, run, torch.ones(SHAPE, device=cuda))
        drawn.append(torch.randn(64, device=cuda))
        time.sleep(0.001)
    assert all(torch.equal(a, b) for a, b in zip(expected, drawn, strict=True))
    assert torch.equal(state, torch.cuda.get_rng_state(cuda))
    assert wait_until(lambda: len(sink.frames) > 20, 20)


def test_i4_nothing_leaks_into_the_samplers_thread(cuda, engine_of):
    engine, _ = engine_of(cuda)
    run = start_run(a_book(), FakeSource())
    stream = torch.cuda.Stream(cuda)
    with torch.cuda.stream(stream):
        for step in range(1, 30):
            run.at(step, 30)
            stage(engine, run, torch.zeros(SHAPE, device=cuda))
            assert torch.cuda.current_stream() == stream
            assert torch.is_grad_enabled()
            assert not torch.is_inference_mode_enabled()
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_a_sampler_may_record_graphs_of_its_own(cuda, engine_of, tmp_path, mode, caplog):
    engine, sink = engine_of(cuda)
    source, book = taesd_source(tmp_path), a_book()
    latent = torch.randn(SHAPE, device=cuda)
    weight = torch.randn(512, 512, device=cuda)
    static = torch.randn(512, 512, device=cuda)
    side = torch.cuda.Stream(cuda)
    with torch.cuda.stream(side):
        static @ weight
    side.synchronize()
    with caplog.at_level(logging.WARNING):
        for round_ in range(12):
            run = start_run(book, source, max_size=64 + 8 * (round_ % 6))
            for step in range(1, 8):
                run.at(step, 8)
                stage(engine, run, latent)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.stream(side):
                    graph.capture_begin(capture_error_mode=mode)
                    result = static
                    for _ in range(20):
                        result = (result @ weight).tanh()
                    time.sleep(0.002)
                    graph.capture_end()
                graph.replay()
            assert wait_until(lambda run=run: run.open_frames == 0, 20)
    torch.cuda.synchronize()
    assert torch.isfinite(result).all()
    assert len(sink.frames) >= 12
    assert caplog.records == []


def test_nothing_is_staged_into_a_samplers_recording(cuda):
    streams = StreamDevice(cuda)
    backend = SideStreamBackend(streams, streams)
    (slot,) = backend.slots(1, torch.Size(SHAPE), torch.float32)
    latent = torch.ones(SHAPE, device=cuda)
    stream = torch.cuda.Stream(cuda)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        copied = latent * 2
        assert not backend.stage(slot, latent)
        graph.capture_end()
    graph.replay()
    assert float(copied.sum()) == 2 * latent.numel()


class Greedy(FlatDecoder):
    """A decoder that wants more memory than there is."""

    def __call__(self, latent, min_side):
        torch.empty(1 << 46, dtype=torch.uint8, device=latent.device)
        return super().__call__(latent, min_side)


def test_i6_a_real_out_of_memory_steps_down_and_sampling_goes_on(cuda, engine_of, caplog):
    engine, sink = engine_of(cuda)
    run = start_run(a_book(), FakeSource(Greedy(), name="greedy"), FakeSource())
    latent = torch.zeros(SHAPE, device=cuda)
    for step in range(1, 8):
        latent.fill_(step / 255)
        run.at(step, 8)
        stage(engine, run, latent)
        assert wait_until(lambda: run.open_frames == 0)
    assert [grey(frame) for frame in sink.frames] == list(range(1, 8))
    assert "greedy previews failed (OutOfMemoryError" in caplog.text
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_i11_memory_goes_back_when_nothing_samples(cuda, engine_of, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "IDLE_SECONDS", 0.3)
    gc.collect()
    others = torch.cuda.memory_allocated(cuda)
    engine, _ = engine_of(cuda)
    source = taesd_source(tmp_path)

    def sample(seconds):
        """Until so much time is over: the kernels are compiled meanwhile."""
        run, end = start_run(a_book(), source), time.monotonic() + seconds
        latent = torch.randn(1, 4, 128, 128, device=cuda)
        while time.monotonic() < end:
            run.at(run.step + 1, 10_000)
            stage(engine, run, latent)
            assert wait_until(lambda: run.open_frames == 0)
        run.end()

    sample(5)
    assert wait_until(lambda: not engine._station.slots._free)
    gc.collect()
    torch.cuda.empty_cache()
    weights, reserved = torch.cuda.memory_allocated(cuda), torch.cuda.memory_reserved(cuda)
    assert weights - others < 16 << 20
    sample(0.2)
    assert torch.cuda.memory_allocated(cuda) > weights  # the slots
    assert wait_until(lambda: torch.cuda.memory_allocated(cuda) <= weights)
    torch.cuda.empty_cache()  # what is idle is the sampler's to take
    assert torch.cuda.memory_reserved(cuda) <= reserved + (4 << 20)


def psnr(one, other):
    error = (one.float() - other.float()).square().mean()
    return float(20 * torch.log10(255 / error.sqrt()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_i12_half_precision_is_within_its_tolerance(cuda, shared_data, dtype):
    """Real FLUX.2 weights: at least 55 dB for float16 and 45 dB for bfloat16 against float32."""
    latent = torch.randn(1, 32, 64, 64, device=cuda, generator=torch.Generator(cuda).manual_seed(3))
    path = str(shared_data / "taef2_decoder.pth")
    reference = TaesdSource.of(path, 32).load(cuda)
    decoder = TaesdSource.of(path, 32, lambda device: dtype).load(cuda)
    with torch.inference_mode():
        exact, _ = RenderJob(reference, 512)(latent)
        fast, _ = RenderJob(decoder, 512)(latent.to(dtype))
    limit = {torch.float16: 55, torch.bfloat16: 45}[dtype]
    assert psnr(fast, exact) > limit


def test_decoding_on_the_cpu_what_a_gpu_samples(cuda, engine_of):
    engine, sink = engine_of(torch.device("cpu"), source=cuda)
    assert isinstance(engine.backend, HostCopyBackend)
    run = start_run(a_book(), FakeSource())
    latent = torch.zeros(SHAPE, device=cuda)
    for step in range(1, 30):
        with torch.inference_mode():
            torch.cuda._sleep(400_000)
            latent.fill_(step / 255)
            run.at(step, 30)
            stage(engine, run, latent)
            latent.fill_(0)
        assert wait_until(lambda: run.open_frames == 0)
    assert [grey(frame) for frame in sink.frames] == list(range(1, 30))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize(("sampled", "painted"), [(1, 1), (0, 1), (1, 0)])
def test_two_devices(engine_of, tmp_path, sampled, painted):
    source, target = torch.device("cuda", sampled), torch.device("cuda", painted)
    engine, sink = engine_of(target, source=source)
    run = start_run(a_book(), FakeSource())
    stream = torch.cuda.Stream(source)
    latent = torch.zeros(SHAPE, device=source)
    with torch.cuda.device(source), torch.cuda.stream(stream), torch.inference_mode():
        for step in range(1, 200):
            torch.cuda._sleep(400_000)
            latent.fill_(step / 255)
            run.at(step, 200)
            stage(engine, run, latent)
            latent.fill_(0)
            assert wait_until(lambda: run.open_frames == 0)
    assert len(sink.frames) == 199
    assert [grey(frame) for frame in sink.frames] == list(range(1, 200))
    assert torch.cuda.current_device() == 0
    # The sampler's kernels, which take most of the time, are not counted.
    assert engine.status()["share"] < 0.1


def test_latents_that_are_elsewhere_for_some_steps(cuda):
    """On the CPU, though the model samples on a GPU, and on each GPU in turn."""
    sink = FakeSink()
    engines = Engines(DecoderCache(), sink)
    run = start_run(a_book(), FakeSource())
    gpus = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    devices = [*gpus, torch.device("cpu")]
    with torch.inference_mode():
        for step in range(1, 100):
            device = devices[step % len(devices)]
            run.at(step, 100)
            stage(engines.of(device), run, torch.full(SHAPE, step / 255, device=device))
            assert wait_until(lambda: run.open_frames == 0)
    assert [grey(frame) for frame in sink.frames] == list(range(1, 100))
    assert len(engines.all()) == len(devices)
    engines.close()


@pytest.mark.parametrize("decoder", ["taesd", "flat"])
def test_i4_nothing_of_another_thread_ever_raises(cuda, engine_of, tmp_path, decoder, caplog):
    """It waits for the device, empties caches, allocates and draws noise without pause."""
    stop, calls, raised = threading.Event(), Counter(), []

    def hammer(name, call):
        while not stop.is_set():
            try:
                call()
                calls[name] += 1
            except Exception as error:
                raised.append(f"{name}: {error!s:.100}")

    blows = {
        "synchronize": torch.cuda.synchronize,
        "empty_cache": torch.cuda.empty_cache,
        "noise": lambda: torch.randn(64, device=cuda),
        "allocate": lambda: torch.empty(8 << 20, dtype=torch.uint8, device=cuda),
    }
    threads = [threading.Thread(target=hammer, args=blow) for blow in blows.items()]
    for thread in threads:
        thread.start()
    try:
        engine, sink = engine_of(cuda)
        source = taesd_source(tmp_path) if decoder == "taesd" else FakeSource()
        book, sent = a_book(), 0
        for size in range(64, 104):
            run = start_run(book, source, max_size=2 * size)
            for step in range(1, 6):
                run.at(step, 1000)
                stage(engine, run, torch.full((1, 4, size, 64), 0.5, device=cuda))
                assert wait_until(lambda run=run: run.open_frames == 0, 20)
            sent += run.outcomes.sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert raised == []
    assert min(calls.values()) > 50
    assert sent == len(sink.frames) == 200
    assert caplog.records == []


@pytest.mark.parametrize("mode", ["global", "thread_local"])
def test_i4_another_thread_may_record_for_long(cuda, engine_of, tmp_path, mode, caplog):
    """50 ms in recording, while the worker decodes: neither fails."""
    engine, sink = engine_of(cuda)
    source, book = taesd_source(tmp_path), a_book()
    latent = torch.randn(SHAPE, device=cuda)
    stop, raised, recorded = threading.Event(), [], []

    def record():
        stream = torch.cuda.Stream(cuda)
        static = torch.randn(256, 256, device=cuda)
        with torch.cuda.stream(stream):
            static @ static
            stream.synchronize()
            while not stop.is_set():
                try:
                    graph = torch.cuda.CUDAGraph()
                    graph.capture_begin(capture_error_mode=mode)
                    result = (static @ static).tanh()
                    time.sleep(0.05)
                    graph.capture_end()
                    graph.replay()
                    stream.synchronize()
                    assert torch.isfinite(result).all()
                    recorded.append(graph)
                except Exception as error:
                    raised.append(f"{error!s:.100}")
                    return
                time.sleep(0.01)

    thread = threading.Thread(target=record)
    thread.start()
    try:
        for size in range(64, 84):
            run = start_run(book, source, max_size=2 * size)
            for step in range(1, 6):
                run.at(step, 1000)
                stage(engine, run, latent)
                assert wait_until(lambda run=run: run.open_frames == 0, 20)
    finally:
        stop.set()
        thread.join()
    assert raised == []
    assert len(recorded) > 3
    assert len(sink.frames) == 100
    assert caplog.records == []


def test_stress_with_another_thread_allocating_and_freeing(cuda, engine_of, tmp_path):
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            torch.empty(64 << 20, dtype=torch.uint8, device=cuda)
            torch.cuda.empty_cache()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        engine, sink = engine_of(cuda)
        run = start_run(a_book(), FakeSource())
        for step in range(1, 251):
            run.at(step, 1000)
            stage(engine, run, torch.full(SHAPE, step / 255, device=cuda))
            assert wait_until(lambda: run.open_frames == 0, 20)
        assert [grey(frame) for frame in sink.frames] == list(range(1, 251))
    finally:
        stop.set()
        thread.join()


POISONED = """
import contextlib, logging, sys, threading, time
import torch
sys.path.insert(0, {tests!r})
import conftest  # names the pack
from sidestream.preview import records
from sidestream.tests.helpers import FakeSink, FakeSource, a_book, start_run, stage
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.render.engines import Engines
from sidestream.preview.render.worker import Engine
from sidestream.preview.render.backends import StagingError, backends_for

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
cuda = torch.device("cuda", 0)
previews = sys.argv[1] == "with"
if previews:
    engine, book = Engine(backends_for(cuda, cuda), DecoderCache(), FakeSink()), a_book()
    run = start_run(book, FakeSource(name="one"), FakeSource(name="other"))
latent = torch.rand(1, 4, 64, 64, device=cuda)
places = torch.zeros(4, dtype=torch.long, device=cuda)
try:
    for step in range(1, 21):
        if step == 10:
            latent[0, 0, 0, :4] = latent.view(-1)[places + (1 << 40)]  # out of bounds
        latent = latent * 0.9
        if previews:
            run.at(step, 20)
            if run.wants(records.now()):
                with contextlib.suppress(StagingError):  # as the previewer does
                    stage(engine, run, latent)
        time.sleep(0.005)
    torch.cuda.synchronize()
except Exception as error:
    print("SAMPLER", "device-side assert" in str(error), repr(error)[:200])
if previews:
    run.abort()
    start = time.monotonic()
    engine.close()
    engine.backend.release()
    print("CLOSED", not engine.alive, run.open_frames)
print("END")
"""


def test_i6_a_samplers_own_fatal_error_is_the_samplers(tmp_path):
    """A device-side assert ends all work on the device, and only in a process of its own."""
    script = tmp_path / "poisoned.py"
    script.write_text(POISONED.format(tests=str(Path(__file__).resolve().parent.parent)), "utf-8")
    results = {}
    for previews in ("without", "with"):
        command = [sys.executable, str(script), previews]
        # A hang at exit is a timeout here; an abort, then or before, is a return code.
        results[previews] = subprocess.run(command, capture_output=True, text=True, timeout=120)
    for done in results.values():
        assert done.returncode == results["without"].returncode, done.stderr
        assert "SAMPLER True" in done.stdout
        assert done.stdout.endswith("END\n")
        assert "Exception in thread" not in done.stderr
    assert "CLOSED True 0" in results["with"].stdout
    # The chain's two steps at most, the backend's and one of the worker: each a line.
    assert results["with"].stdout.count("[SideStream]") <= 4
