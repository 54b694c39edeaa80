"""TAESD's own kernels on a GPU: I1 never waits, I4 harmless, I6 contained, I12 right colours."""

from __future__ import annotations

import copy
import ctypes
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from sidestream.preview.decoders import fused, nvrtc
from sidestream.preview.decoders.fused import FusedTaesd, UnsuitableError
from sidestream.preview.decoders.nvrtc import KernelError
from sidestream.preview.decoders.taesd import Taesd
from sidestream.preview.render.backends.device import keep_out_of_others_recordings
from sidestream.preview.render.job import cell_size
from sidestream.tests.helpers import wait_until
from sidestream.tests.natural import Forced, natural_layers, painted
from torch import nn

pytestmark = pytest.mark.gpu

SIZES = [(8, 8), (64, 64), (33, 57), (128, 128), (96, 160), (1, 1), (1, 70), (70, 1)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def halved(layers: nn.Sequential, device: torch.device) -> nn.Sequential:
    half = copy.deepcopy(layers).half().to(memory_format=torch.channels_last)
    return half.to(device)


@pytest.fixture(scope="module", params=[4, 16])
def decoders(request, cuda):
    """The layers in float32 and the kernels of the same weights."""
    with torch.inference_mode():
        layers = natural_layers(request.param)
        return layers.to(cuda), FusedTaesd.of(halved(layers, cuda), cuda)


@pytest.fixture
def fused_taesd(cuda):
    return FusedTaesd.of(halved(natural_layers(4), cuda), cuda)


def noise(channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return (torch.randn(1, channels, height, width, generator=generator) * 2).half()


def full(latent: torch.Tensor) -> tuple[int, int]:
    """A width and a height that nothing is shrunk to."""
    return latent.shape[-1] * 8, latent.shape[-2] * 8


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("max_size", [512, 96])
@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
@pytest.mark.parametrize("non_finite", [False, True])
def test_i12_the_picture_is_that_of_float32(cuda, decoders, size, max_size, skipped, non_finite):
    layers, kernels = decoders
    latent = noise(layers[1].in_channels, *size)
    if non_finite:
        latent[0, 0, -1, -1] = float("inf")
        latent[0, 1, size[0] // 2, size[1] // 3] = float("nan")
        latent[0, 2, size[0] // 2, size[1] // 3] = -float("inf")
    latent = latent.to(cuda)
    with torch.backends.cudnn.flags(allow_tf32=False):
        expected, unknown = painted(layers, latent.float(), max_size, skipped)
    asked = cell_size(Forced(layers, skipped), latent.shape, max_size)
    picture, count = kernels(latent, *asked, skipped)
    assert picture.shape == expected.shape
    assert picture.is_contiguous()
    assert int(count) == int(unknown)
    assert expected.min() < expected.max() or non_finite
    difference = (picture.int() - expected.int()).abs()
    assert difference.float().mean() < 0.3
    assert difference.max() <= 2


@pytest.mark.parametrize("target", ["compute_75", "compute_80"])
def test_i12_older_gpus_and_those_that_nvrtc_does_not_know(cuda, decoders, monkeypatch, target):
    layers, kernels = decoders
    latent = noise(layers[1].in_channels, 37, 41).to(cuda)
    expected = kernels(latent, *full(latent), 0)[0].clone()
    monkeypatch.setattr(nvrtc, "_target", lambda library, capability: (target, "PTX"))
    image = nvrtc.compiled(fused.SOURCE.read_text("utf-8"), 0)
    with nvrtc.Context(cuda.index):
        monkeypatch.setattr(kernels, "_loaded", fused.Loaded(image, cuda.index))
    monkeypatch.setattr(kernels, "_plans", {})
    difference = (kernels(latent, *full(latent), 0)[0].int() - expected.int()).abs()
    assert difference.float().mean() < 0.3
    assert difference.max() <= 2


def test_a_latent_with_other_channels_is_refused(cuda, fused_taesd):
    with pytest.raises(UnsuitableError, match=r"\[1, 16, 8, 8\]"):
        fused_taesd(noise(16, 8, 8).to(cuda), 64, 64, 0)


def test_pixels_that_are_no_number_are_grey_and_counted(cuda):
    layers = natural_layers(4)
    layers[-1].bias[1] = float("nan")
    kernels = FusedTaesd.of(halved(layers, cuda), cuda)
    latent = noise(4, 9, 11).to(cuda)
    picture, unknown = kernels(latent, *full(latent), 0)
    assert int(unknown) == 72 * 88
    assert (picture == 128).all()


def test_values_beyond_half_are_clamped_and_not_grey(cuda):
    layers = natural_layers(4)
    layers[-1].bias[:] = torch.tensor([60000.0, -60000.0, 0.5])
    layers[-1].weight *= 1000
    latent = noise(4, 8, 8)
    expected, _ = painted(layers, latent.float(), 64, 0)
    kernels = FusedTaesd.of(halved(layers, cuda), cuda)
    picture, unknown = kernels(latent.to(cuda), 64, 64, 0)
    assert int(unknown) == 0
    assert (picture.cpu()[:, :, :2] == expected[:, :, :2]).all()


def test_a_latent_that_is_no_number_is_a_grey_picture(cuda, fused_taesd):
    latent = torch.full((1, 4, 7, 5), float("nan"), dtype=torch.float16, device=cuda)
    picture, unknown = fused_taesd(latent, 40, 56, 0)
    assert int(unknown) == 35
    assert (picture == 128).all()


def test_a_latent_need_not_be_contiguous(cuda, fused_taesd):
    latent = noise(4, 12, 20).to(cuda)
    expected = fused_taesd(latent, *full(latent), 1)[0].clone()
    apart = latent.to(memory_format=torch.channels_last)
    assert torch.equal(fused_taesd(apart, *full(latent), 1)[0], expected)


def test_more_sizes_than_plans_are_kept(cuda, fused_taesd):
    latents = [noise(4, 5, width).to(cuda) for width in range(1, 2 * FusedTaesd.PLANS)]
    first = [fused_taesd(latent, *full(latent), 0)[0].clone() for latent in latents]
    again = [fused_taesd(latent, *full(latent), 0)[0].clone() for latent in latents]
    assert all(map(torch.equal, first, again))
    assert len(fused_taesd._plans) <= FusedTaesd.PLANS


def test_large_pictures_are_right_to_the_last_pixel(cuda, decoders):
    layers, kernels = decoders
    tile = noise(layers[1].in_channels, 32, 32).to(cuda)
    small = kernels(tile, *full(tile), 0)[0].clone()
    if torch.cuda.mem_get_info(cuda)[0] < 8e9:
        pytest.skip("it takes 7 GB")
    large = tile.repeat(1, 1, 16, 16)
    picture, _ = kernels(large, *full(large), 0)
    assert picture.shape == (4096, 4096, 3)
    # What is 160 pixels away, no pixel depends on.
    last = picture[-256:, -256:]
    assert torch.equal(last[160:, 160:], small[160:, 160:])


def test_i1_a_call_never_waits(cuda, fused_taesd):
    latent = noise(4, 64, 64).to(cuda)
    stream = torch.cuda.Stream(cuda)
    with torch.cuda.stream(stream):
        fused_taesd(latent, 512, 512, 0)
        stream.synchronize()
        torch.cuda._sleep(500_000_000)
        start = time.perf_counter()
        fused_taesd(latent, 512, 512, 0)
        took = time.perf_counter() - start
        assert not stream.query()
        assert took < 0.1
        stream.synchronize()


def test_i1_to_load_the_kernels_beside_a_busy_device_stops_no_other_thread(cuda):
    major, minor = torch.cuda.get_device_capability(cuda)
    image, index = fused.compiling(10 * major + minor).result(), torch.cuda.current_device()
    context = nvrtc.Context(index)

    def load() -> None:
        with context:
            fused.Loaded(image, index)

    torch.cuda._sleep(2 * 10**9)  # cycles: more than a second
    thread = threading.Thread(target=load)
    longest, before = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    assert longest < 0.1  # as long as the GIL was held


@pytest.mark.parametrize(("size", "skipped"), [((64, 64), 0), ((128, 128), 1), ((150, 70), 0)])
def test_bands_of_rows_are_the_whole_picture(cuda, decoders, monkeypatch, size, skipped):
    layers, kernels = decoders
    latent = noise(layers[1].in_channels, *size).to(cuda)
    latent[0, 2, size[0] // 2, size[1] // 3] = float("nan")
    monkeypatch.setattr(kernels, "_plans", {})
    pictures, sizes = [], []
    for band in (1 << 40, fused.BAND, 1):
        monkeypatch.setattr(fused, "BAND", band)
        kernels._plans.clear()
        kernels.rest()
        picture, unknown = kernels(latent, *full(latent), skipped)
        assert int(unknown) == 1
        pictures.append(picture.cpu())
        sizes.append(next(iter(kernels._plans.values())).bytes)
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
    assert sizes[0] > sizes[1] >= sizes[2]


def test_a_picture_takes_little_memory_which_is_kept(cuda, fused_taesd):
    for size, skipped in ((64, 0), (128, 1)):
        latent = noise(4, size, size).to(cuda)
        fused_taesd(latent, 512, 512, skipped)
        torch.cuda.synchronize(cuda)
        if torch.cuda.get_allocator_backend() != "native":
            pytest.skip("this allocator does not tell")
        fused_taesd.rest()
        before = torch.cuda.memory_allocated(cuda)
        torch.cuda.reset_peak_memory_stats(cuda)
        fused_taesd(latent, 512, 512, skipped)
        kept = torch.cuda.memory_allocated(cuda) - before
        assert 60e6 < kept < 67e6
        fused_taesd(latent, 512, 512, skipped)
        assert torch.cuda.max_memory_allocated(cuda) - before == kept
        fused_taesd.rest()
        assert torch.cuda.memory_allocated(cuda) == before


def test_memory_is_kept_for_one_stream_and_similar_sizes(cuda, fused_taesd):
    large, small = noise(4, 64, 64).to(cuda), noise(4, 16, 16).to(cuda)
    expected = [fused_taesd(latent, 128, 128, 0)[0].cpu() for latent in (large, small)]
    others = [torch.cuda.Stream(cuda) for _ in range(2)]
    torch.cuda.synchronize(cuda)
    made = []
    for nth in range(60):
        with torch.cuda.stream(others[nth // 2 % 2]):
            latent = (large, small)[nth // 3 % 2]
            made.append(fused_taesd(latent, 128, 128, 0)[0].clone())
    torch.cuda.synchronize(cuda)
    for nth, picture in enumerate(made):
        assert torch.equal(picture.cpu(), expected[nth // 3 % 2])
    fused_taesd.rest()


def test_another_thread_needs_no_context(cuda, fused_taesd):
    latent = noise(4, 8, 8).to(cuda)
    expected = fused_taesd(latent, 64, 64, 0)[0].cpu()
    fused_taesd(latent, 64, 64, 0)  # its memory is kept, so that the thread asks CUDA for none
    torch.cuda.synchronize(cuda)
    made = []
    thread = threading.Thread(target=lambda: made.append(fused_taesd(latent, 64, 64, 0)[0]))
    thread.start()
    thread.join()
    assert torch.equal(made[0].cpu(), expected)


def test_paint_offers_pictures_once_the_kernels_are_compiled(cuda):
    decoder = Taesd(halved(natural_layers(4), cuda), packed=False)
    latent = noise(4, 64, 64).to(cuda)
    assert wait_until(lambda: decoder.to_picture(latent, 512, 512, 512) is not None, 60)
    picture, unknown = decoder.to_picture(latent, 512, 512, 512)
    picture = picture.clone()
    assert picture.shape == (512, 512, 3)
    assert int(unknown) == 0
    assert decoder.to_picture(latent, 256, 256, 256)[0].shape == (256, 256, 3)
    assert torch.equal(decoder.to_picture(latent[:, :, None], 512, 512, 512)[0], picture)
    assert decoder.to_picture(latent.float(), 512, 512, 512) is None
    assert decoder.to_picture(latent.repeat(2, 1, 1, 1), 512, 512, 512) is None


def test_i6_what_cannot_be_launched_is_given_up(cuda, monkeypatch, caplog):
    decoder = Taesd(halved(natural_layers(4), cuda), packed=False)
    latent = noise(4, 8, 8).to(cuda)
    assert wait_until(lambda: decoder.to_picture(latent, 64, 64, 64) is not None, 60)
    kernels = fused.kernels_on(cuda.index)
    monkeypatch.setattr(kernels, "given_up", False)
    monkeypatch.setattr(kernels.loaded.leave, "shared", 1 << 20)  # more than there is
    latent = noise(4, 8, 9).to(cuda)  # another plan
    assert decoder.to_picture(latent, 72, 72, 72) is None
    assert decoder.to_picture(latent, 72, 72, 72) is None
    assert len(caplog.messages) == 1
    assert "PyTorch decodes instead" in caplog.messages[0]
    torch.cuda.synchronize(cuda)


BESIDE = """
import sys, types
pack = types.ModuleType("sidestream")
pack.__path__ = ["."]
sys.modules["sidestream"] = pack
from sidestream.tests.gpu import test_fused
test_fused.paint_beside_others()
"""


def paint_beside_others() -> None:
    """300 pictures while other threads wait for the device, empty caches and record graphs."""
    cuda = torch.device("cuda", 0)
    errors: list[BaseException] = []
    done = threading.Event()
    turns = dict.fromkeys(("wait", "empty", "record"), 0)
    with torch.inference_mode():
        kernels = FusedTaesd.of(halved(natural_layers(4), cuda), cuda)
    latent = noise(4, 64, 64).to(cuda)
    expected = kernels(latent, 512, 512, 0)[0].cpu()
    numbers = torch.randn(256, 256, device=cuda)

    def record() -> None:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="global"):
            _ = numbers * 2 + 1
        graph.replay()

    def again(name, work) -> None:
        try:
            while not done.is_set():
                work()
                turns[name] += 1
        except BaseException as error:
            errors.append(error)

    def paint() -> None:
        keep_out_of_others_recordings()
        with torch.cuda.stream(torch.cuda.Stream(cuda, priority=-1)), torch.inference_mode():
            for _ in range(300):
                picture, unknown = kernels(latent, 512, 512, 0)
                assert torch.equal(picture.cpu(), expected)
                assert int(unknown) == 0

    def paint_in_a_thread() -> None:
        failed: list[BaseException] = []

        def work() -> None:
            try:
                paint()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(120)
        assert not thread.is_alive()
        assert not failed, failed

    # While a thread records, no other may wait for the device: so these take turns.
    for others in (("wait", "empty"), ("record",)):
        done.clear()
        works = {
            "wait": lambda: torch.cuda.synchronize(cuda),
            "empty": torch.cuda.empty_cache,
            "record": record,
        }
        threads = [threading.Thread(target=again, args=(name, works[name])) for name in others]
        for thread in threads:
            thread.start()
        try:
            paint_in_a_thread()
        finally:
            done.set()
            for thread in threads:
                thread.join(60)
        assert not errors, errors
        assert all(turns[name] > 0 for name in others), turns


@pytest.mark.parametrize("allocator", ["native", "cudaMallocAsync"])
def test_i4_it_works_beside_others_with_any_allocator(allocator, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", f"backend:{allocator}")
    repository = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", BESIDE]
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr


def test_i6_a_lost_device_is_told_as_such():
    """In a process of its own, whose device is then lost: by the kernels, or by torch before."""
    repository = Path(__file__).resolve().parents[2]
    script = BESIDE.replace("paint_beside_others", "paint_on_a_lost_device")
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, timeout=250
    )
    told = [line for line in ran.stdout.splitlines() if line.startswith("told: ")]
    assert told, ran.stdout + ran.stderr
    assert "CUDA_ERROR_" in told[0] or "CUDA error" in told[0]


def paint_on_a_lost_device() -> None:
    cuda = torch.device("cuda", 0)
    decoder = Taesd(halved(natural_layers(4), cuda), packed=False)
    latent = noise(4, 8, 8).to(cuda)
    assert wait_until(lambda: decoder.to_picture(latent, 64, 64, 64) is not None, 60)
    torch.cuda.synchronize(cuda)
    stream = torch.cuda.current_stream(cuda)
    plan = next(iter(decoder._fused._fused._plans.values()))
    plan.places.memory = 8  # nobody's
    plan.launches.stream.value = stream.cuda_stream
    with nvrtc.Context(0):
        plan.launches()
        nvrtc.driver().cuStreamSynchronize(ctypes.c_void_p(stream.cuda_stream))
    try:
        decoder.to_picture(latent, 64, 64, 64)
    except KernelError:
        raise
    except RuntimeError as error:
        print("told:", error, flush=True)
