"""TAESD's own kernels, as far as no GPU is needed: I6 contained, I12 right colours."""

from __future__ import annotations

import logging

import pytest
import torch
from sidestream.preview.decoders import fused, nvrtc
from sidestream.preview.decoders.convolution import can_fuse
from sidestream.preview.decoders.fused import FusedTaesd, UnsuitableError
from sidestream.preview.decoders.nvrtc import KernelError, NoMemoryError
from sidestream.preview.decoders.taesd import Taesd, TaesdSource, decoder_layers
from sidestream.tests.helpers import CPU, wait_until
from sidestream.tests.launches import WEIGHTS, Launches, Player, loaded
from sidestream.tests.natural import Forced, natural_layers
from torch import nn

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernels_compile(capability):
    try:
        nvrtc.nvrtc()
    except KernelError as error:
        pytest.skip(f"no NVRTC: {error}")
    target, _ = nvrtc._target(nvrtc.nvrtc(), capability)
    if target != f"sm_{capability}":
        pytest.skip(f"this NVRTC does not know {capability}")
    image = nvrtc.compiled(fused.SOURCE.read_text("utf-8"), capability)
    assert image.startswith(b"\x7fELF")
    for name in (b"enter", b"convolve_4_rows", b"convolve_8_rows", b"leave", b"finish"):
        assert name in image


def test_a_mistake_in_the_source_is_said_in_one_line():
    try:
        nvrtc.nvrtc()
    except KernelError as error:
        pytest.skip(f"no NVRTC: {error}")
    with pytest.raises(KernelError, match="error") as raised:
        nvrtc.compiled("int main() { return nothing; }", 80)
    assert "\n" not in str(raised.value)


def test_the_structures_are_as_large_as_in_c():
    sizes = {"Places": 32, "Enter": 16, "Convolution": 64, "Leave": 56, "Finish": 24}
    for name, size in sizes.items():
        assert fused.ctypes.sizeof(getattr(fused, name)) == size


@pytest.fixture(scope="module")
def layers():
    return natural_layers(4)


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (5, 3), (1, 1), (13, 2)])
@pytest.mark.parametrize("skipped", [0, 1, 2, 3])
@pytest.mark.parametrize("band", [1, 1 << 15, 1 << 30])
@torch.inference_mode()
def test_i12_bands_of_rows_are_the_whole_picture(monkeypatch, layers, size, skipped, band):
    monkeypatch.setattr(fused, "BAND", band)
    monkeypatch.setattr(fused, "LEAST_ROWS", 5)
    monkeypatch.setattr(fused, "Launches", Launches)
    latent = torch.randn(1, 4, *size)
    expected = Forced(layers, skipped)(latent, 0)
    plan = fused.Plan(loaded(132), WEIGHTS, latent.shape, (512, 512), skipped)
    calls = plan.launches.calls
    bands = sum(name == "leave" for name, *_ in calls)
    if band == 1:
        assert bands == (1 if skipped == 3 else -(-expected.shape[1] // 5))
    made = Player(layers, latent, plan.unknown).play(calls)
    assert made.shape == expected.shape
    assert (made - expected).abs().max() < 0.02


@pytest.mark.parametrize(
    ("size", "skipped", "megabytes"),
    [((64, 64), 0, 60), ((128, 128), 1, 62), ((128, 128), 0, 108), ((32, 32), 0, 27)],
)
def test_a_picture_takes_little_memory(monkeypatch, size, skipped, megabytes):
    monkeypatch.setattr(fused, "Launches", Launches)
    plan = fused.Plan(loaded(132), WEIGHTS, (1, 4, *size), (4096, 4096), skipped)
    assert megabytes - 2 < plan.bytes / 2**20 < megabytes
    assert plan.unknown % 4 == 0


def multiplied(arranged: torch.Tensor, pixels: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A convolution by the `arranged` weights [tap, output, channel], read as a warp reads them."""
    taps, outputs, channels = arranged.shape
    height, width = pixels.shape[-2:]
    padded = nn.functional.pad(pixels, (1, 1, 1, 1))
    result = torch.zeros(outputs, height, width)
    for tap in range(taps):
        window = padded[:, tap // 3 : tap // 3 + height, tap % 3 : tap % 3 + width]
        for output in range(outputs):
            for part in range(channels // 8):
                at = (part ^ output % 8) * 8
                eight = arranged[tap, output, at : at + 8]
                seen = window[part * 8 : part * 8 + 8]
                result[order[output]] += torch.einsum("c,chw->hw", eight, seen)
    return result


@pytest.mark.parametrize("channels", [4, 16])
def test_i12_the_arranged_weights_are_the_layers(channels):
    convolutions = fused.suitable(natural_layers(channels).half())
    inner, bias, last, last_bias = (each.float() for each in fused.arranged(convolutions))
    order = fused.output_order(CPU)
    assert sorted(order.tolist()) == list(range(64))
    for i in (0, 1, 10, 33):
        conv = convolutions[i].float()
        pixels = torch.randn(conv.in_channels, 3, 5)
        padded = nn.functional.pad(pixels, (0, 0, 0, 0, 0, 64 - conv.in_channels))
        got = multiplied(inner[i], padded, order) + bias[i][:, None, None]
        assert torch.allclose(got, conv(pixels[None])[0], atol=1e-4)
    pixels = torch.randn(64, 3, 5)
    got = multiplied(last[0], pixels, torch.arange(8)) + last_bias[:, None, None]
    assert torch.allclose(got[:3], convolutions[-1].float()(pixels[None])[0], atol=1e-4)
    assert not got[3:].any()


def test_a_lane_writes_eight_outputs_in_a_row():
    order = fused.output_order(CPU).reshape(2, 4, 4, 2)  # side, eight, lane, two
    for side in range(2):
        for lane in range(4):
            first = side * 32 + lane * 8
            assert order[side, :, lane].flatten().tolist() == list(range(first, first + 8))


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (decoder_layers(32, pooled=True).half(), "not support these layers"),
        (nn.Sequential(nn.Conv2d(4, 64, 3)).half(), "not support these layers"),
        (nn.Sequential(), "not support these layers"),
        (decoder_layers(4, pooled=False), "float32"),
        (decoder_layers(4, pooled=False).bfloat16(), "bfloat16"),
        (decoder_layers(4, pooled=False).half(), "cpu"),
    ],
)
def test_unsuitable_layers_are_refused(layers, says):
    with pytest.raises(UnsuitableError, match=says):
        FusedTaesd.of(layers, CPU)


def test_layers_with_other_biases_are_refused():
    layers = natural_layers(4).half()
    convolutions = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]
    convolutions[fused.UPSAMPLED[0]].bias = nn.Parameter(torch.zeros(64).half())
    with pytest.raises(UnsuitableError, match="biases"):
        fused.suitable(layers)


@pytest.mark.parametrize(
    ("cuda", "capability", "says"),
    [(None, (9, 0), "for NVIDIA devices"), ("13.0", (7, 0), "7.0 is below 7.5")],
)
def test_devices_that_the_kernels_are_not_for_are_refused(monkeypatch, cuda, capability, says):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(fused, "compiling", None)
    with pytest.raises(UnsuitableError, match=says):
        fused.kernels_on.__wrapped__(0)


def test_on_the_cpu_torch_decodes():
    decoder = Taesd(decoder_layers(4, pooled=False).half(), packed=False)
    assert decoder.to_picture(torch.zeros(1, 4, 8, 8).half(), 64, 64, 64) is None


def test_the_kernels_get_single_pictures_and_how_much_of_them_is_shown(monkeypatch):
    given = []

    def to_picture(kernels, latent, *size_and_skipped):
        given.append((tuple(latent.shape), *size_and_skipped))
        return "a picture"

    monkeypatch.setattr(fused.WhenReady, "to_picture", to_picture)
    decoder, packed = (Taesd(decoder_layers(4, pooled=False), packed=p) for p in (False, True))
    for shape in ((1, 4, 8, 8), (1, 4, 1, 8, 8), (1, 4, 8, 16)):
        assert decoder.to_picture(torch.zeros(shape), 64, 32, 16) == "a picture"
    whole, halved = ((1, 4, 8, 8), 32, 16, 0), ((1, 4, 8, 16), 32, 16, 1)
    assert given == [whole, whole, halved]
    for shape in ((1, 4, 3, 8, 8), (2, 4, 8, 8)):
        assert decoder.to_picture(torch.zeros(shape), 64, 32, 16) is None
    assert packed.to_picture(torch.zeros(1, 16, 8, 8), 64, 32, 16) is None


def test_a_decoder_that_was_loaded_on_the_cpu_offers_nothing(tmp_path):
    path = tmp_path / "taesd_decoder.pth"
    torch.save(decoder_layers(4, pooled=False).state_dict(), path)
    decoder = TaesdSource.of(str(path), 4).load(CPU)
    assert decoder.to_picture(torch.zeros(1, 4, 8, 8), 64, 64, 64) is None


def test_i6_without_nvrtc_it_says_so_once_and_gives_up(monkeypatch, caplog):
    def compiled(source, capability):
        raise KernelError("libnvrtc.so.13 was not found")

    monkeypatch.setattr(nvrtc, "compiled", compiled)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    fused.compiling.cache_clear()
    try:
        kernels = fused.Kernels(0)
        assert wait_until(kernels.compiled)
        with pytest.raises(KernelError) as raised:
            _ = kernels.loaded
        with caplog.at_level(logging.WARNING):
            kernels.give_up(raised.value)
            kernels.give_up(raised.value)
    finally:
        fused.compiling.cache_clear()
    assert caplog.messages == [
        "[SideStream] TAESD's GPU kernels cannot be used (libnvrtc.so.13 was not found); PyTorch"
        " decodes instead, which takes more of the sampler's time."
    ]
    assert kernels.given_up


class OnAGpu:
    """Passes for a latent in half precision on a GPU."""

    dtype, device = torch.float16, torch.device("cuda", 0)


@pytest.fixture
def ready(monkeypatch):
    """A decoder whose kernels are compiled."""
    kernels = object.__new__(fused.Kernels)
    kernels.given_up = False
    monkeypatch.setattr(fused.Kernels, "compiled", lambda self: True)
    monkeypatch.setattr(fused, "kernels_on", lambda index: kernels)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return fused.WhenReady(natural_layers(4).half()), kernels


@pytest.mark.parametrize("lacking", ["compiled", "not given up", "not recording", "half", "CUDA"])
def test_i1_kernels_that_are_not_ready_are_not_waited_for(ready, monkeypatch, lacking):
    class Latent(OnAGpu):
        dtype = torch.float32 if lacking == "half" else torch.float16
        device = CPU if lacking == "CUDA" else OnAGpu.device

    decoder, kernels = ready
    monkeypatch.setattr(FusedTaesd, "of", lambda *about: lambda *latent: "a picture")
    kernels.given_up = lacking == "not given up"
    monkeypatch.setattr(fused.Kernels, "compiled", lambda self: lacking != "compiled")
    recording = lacking == "not recording"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    assert decoder.to_picture(Latent, 64, 64, 0) is None
    assert decoder._fused is None


@pytest.mark.parametrize(
    "error", [NoMemoryError("cuModuleLoadData"), torch.cuda.OutOfMemoryError("no memory")]
)
def test_i6_kernels_that_found_no_memory_are_tried_again(ready, monkeypatch, caplog, error):
    decoder, kernels = ready

    def full(*about):
        raise error

    monkeypatch.setattr(FusedTaesd, "of", full)
    assert decoder.to_picture(OnAGpu, 64, 64, 0) is None
    monkeypatch.setattr(FusedTaesd, "of", lambda *about: lambda *latent: "a picture")
    assert decoder.to_picture(OnAGpu, 64, 64, 0) == "a picture"
    assert not kernels.given_up
    assert caplog.messages == []


@pytest.mark.parametrize("code", [2, 700])
def test_only_a_lack_of_memory_passes(monkeypatch, code):
    class Driver:
        @staticmethod
        def cuModuleLoadData(*about):
            return code

        cuLaunchKernel = cuModuleLoadData

    monkeypatch.setattr(nvrtc, "driver", lambda holding=True: Driver)
    monkeypatch.setattr(nvrtc, "error_name", lambda code: f"error {code}")
    launches = nvrtc.Launches()
    launches._calls.append(())
    for attempt in (lambda: nvrtc.call("cuModuleLoadData"), launches):
        with pytest.raises(KernelError, match=f"failed with error {code}") as raised:
            attempt()
        assert isinstance(raised.value, NoMemoryError) == (code == 2)


def test_a_latent_that_the_kernels_do_not_know_costs_no_others(ready, monkeypatch):
    def kernels(latent, *size):
        if latent is not OnAGpu:
            raise UnsuitableError("another number of channels")
        return "a picture"

    class Another(OnAGpu):
        pass

    decoder, _ = ready
    monkeypatch.setattr(FusedTaesd, "of", lambda *about: kernels)
    found = [decoder.to_picture(latent, 64, 64, 0) for latent in (OnAGpu, Another, OnAGpu)]
    assert found == ["a picture", None, "a picture"]


def test_layers_that_the_kernels_do_not_know_are_tried_once(ready, monkeypatch):
    decoder, _ = ready
    tries = []

    def of(*about):
        tries.append(about)
        raise UnsuitableError("an older GPU")

    monkeypatch.setattr(FusedTaesd, "of", of)
    assert [decoder.to_picture(OnAGpu, 64, 64, 0) for _ in range(3)] == [None] * 3
    assert len(tries) == 1


def test_i6_convolutions_that_found_no_memory_are_tried_again(monkeypatch):
    outcomes = iter([torch.cuda.OutOfMemoryError("full"), RuntimeError("not supported")])

    def convolution(*about):
        raise next(outcomes)

    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, **about: zeros(*shape))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "enabled", True)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", convolution)
    can_fuse.cache_clear()
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            can_fuse(torch.device("cuda", 0), torch.float16)
        assert [can_fuse(torch.device("cuda", 0), torch.float16) for _ in range(2)] == [False] * 2
    finally:
        can_fuse.cache_clear()


@pytest.mark.parametrize(
    ("cuda", "windows", "name"),
    [
        ("13.0", False, "libnvrtc.so.13"),
        ("12.8", False, "libnvrtc.so.12"),
        ("11.8", False, "libnvrtc.so.11.2"),
        ("13.0", True, "nvrtc64_130_0.dll"),
        ("12.8", True, "nvrtc64_120_0.dll"),
        ("11.8", True, "nvrtc64_112_0.dll"),
    ],
)
def test_nvrtc_is_looked_for_by_its_name(monkeypatch, cuda, windows, name):
    monkeypatch.setattr(nvrtc, "WINDOWS", windows)
    assert nvrtc.library_name(cuda) == name


def test_nvrtc_is_looked_for_in_nvidias_packages(monkeypatch, tmp_path):
    for folder in ("cuda_nvrtc/lib", "cu13/lib", "cu13/bin/x86_64"):
        (tmp_path / "nvidia" / folder).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    folders = list(nvrtc.library_folders())
    for folder in ("cuda_nvrtc/lib", "cu13/lib", "cu13/bin/x86_64"):
        assert tmp_path / "nvidia" / folder in folders


def test_without_cudnn_its_fused_convolutions_are_not_tried(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.backends.cudnn, "enabled", False)
    assert not can_fuse.__wrapped__(torch.device("cuda"), torch.float16)
