"""Every latent format of the ComfyUI at hand has its previews: I12 right colours, right aspect."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sidestream.benchmarks.weights import video_decoder
from sidestream.preview import decoder_files
from sidestream.preview.decoders.latent2rgb import Latent2RGBSource
from sidestream.preview.decoders.spectrogram import SpectrogramSource
from sidestream.preview.decoders.taehv import Layout, TaehvSource
from sidestream.preview.decoders.taesd import TaesdSource, decoder_layers
from sidestream.preview.render.job import RenderJob, shown_size
from sidestream.tests.conftest import HostModules
from sidestream.tests.helpers import CPU
from sidestream.tests.pictures import decoded, psnr
from sidestream.tests.stage import all_told

HEIGHT, WIDTH, FRAMES = 6, 10, 3
EVERY_PIXEL = 1 << 20

PIXELS_EACH = {
    "SC_Prior": 42,
    "SC_B": 4,
    "SD_X4": 4,
    "Flux2": 16,
    "LTXV": 32,
    "LTXAV": 32,
    "Wan22": 16,
    "HunyuanImage21": 32,
    "HunyuanImage21Refiner": 16,
    "HunyuanVideo15": 16,
    "MiniMaxH3Video": 16,
    "MiniMaxH3AV": 16,
    "ChromaRadiance": 1,
    "ZImagePixelSpace": 1,
    "HiDreamO1Pixel": 1,
    "PixelDiTPixel": 1,
}
"""Pixels that the models' own VAEs make of a latent pixel, each way; of all others 8."""

SHOWN_BY_NONE = {
    "HunyuanImage21Refiner",
    "CogVideoX",
    "CogVideoX1_5",
    "SeedVR2",
    "TripoSplat",
    "Trellis2",
    "Trellis2SLAT",
    "Trellis2ShapeSLAT",
    "Trellis2TexSLAT",
}
"""Formats with neither factors nor a decoder, that are no sound."""

Find = Callable[[str, Any], list[Any]]


@pytest.fixture
def formats(comfy: HostModules) -> dict[str, Any]:
    """An instance of every latent format, by the names of their classes."""
    module = comfy("comfy.latent_formats")
    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass)]
    base = module.LatentFormat
    return {kind.__name__: kind() for kind in kinds if issubclass(kind, base) and kind is not base}


@pytest.fixture
def find(comfy: HostModules) -> Find:
    """Which decoders SideStream has for a method and a format."""
    from sidestream.preview.capture import sources

    return lambda method, format: sources.find(method, format, lambda level, line: None)


@pytest.fixture
def vae_approx(comfy: HostModules, monkeypatch, tmp_path) -> Path:
    """ComfyUI's only folder of decoder files."""
    paths = comfy("folder_paths")
    _, extensions = paths.folder_names_and_paths["vae_approx"]
    monkeypatch.setitem(
        paths.folder_names_and_paths, "vae_approx", ([str(tmp_path)], extensions)
    )
    monkeypatch.setattr(paths, "cached_filename_list_", lambda name: None)
    return tmp_path


@pytest.fixture
def truncated(comfy: HostModules) -> Callable[[Any, torch.Tensor], np.ndarray]:
    """Call it for ComfyUI's picture, whose levels are cut off to whole ones: uint8 [H, W, 3]."""
    return lambda previewer, latent: np.asarray(previewer.decode_latent_to_preview(latent))


@pytest.fixture
def exact(comfy: HostModules, monkeypatch) -> Callable[[Any, torch.Tensor], np.ndarray]:
    """Call it for ComfyUI's picture before that: levels of 0 to 255 with their fractions."""

    def levels(rgb: torch.Tensor, do_scale: bool = True) -> np.ndarray:
        return ((rgb + 1) / 2 if do_scale else rgb).clamp(0, 1).mul(255).numpy()

    def picture(previewer: Any, latent: torch.Tensor) -> np.ndarray:
        with monkeypatch.context() as patched:
            patched.setattr(comfy.latent_preview, "preview_to_image", levels)
            return previewer.decode_latent_to_preview(latent)

    return picture


def random_latent(format: Any, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """What a sampler has of the format: [1, C, T], [1, C, h, w] or [1, C, T, h, w]."""
    factors = format.latent_rgb_factors
    # Formats of video with sound count the channels of the larger of the two.
    whole = factors is None or getattr(format, "latent_rgb_factors_reshape", None) is not None
    channels = format.latent_channels if whole else len(factors)
    size = {1: (width,), 2: (height, width), 3: (FRAMES, height, width)}
    return torch.randn(1, channels, *size[format.latent_dimensions])


def own_latent2rgb(comfy: HostModules, format: Any) -> Any:
    """ComfyUI's previewer by factors."""
    names = ("latent_rgb_factors", "latent_rgb_factors_bias", "latent_rgb_factors_reshape")
    known = [getattr(format, name) for name in names if hasattr(format, name)]
    return comfy.latent_preview.Latent2RGBPreviewer(*known)


def present(formats: dict[str, Any], name: str) -> Any:
    """The format of that name; skips the test where this ComfyUI has none."""
    return formats[name] if name in formats else pytest.skip(f"this ComfyUI has no {name}")


def picture(decoder: Any, latent: torch.Tensor) -> np.ndarray:
    """SideStream's picture with every pixel that the decoder gives: uint8 [H, W, 3]."""
    return RenderJob(decoder, EVERY_PIXEL, full=True)(latent)[0].numpy()


def test_i12_every_format_with_factors_is_within_one_level_of_comfyuis_picture(
    comfy, formats, find, exact, truncated
):
    compared = 0
    for name, format in formats.items():
        if format.latent_rgb_factors is None:
            continue
        [source] = find("latent2rgb", format)
        assert isinstance(source, Latent2RGBSource), name
        latent = random_latent(format)
        ours, own = picture(source.load(CPU), latent), own_latent2rgb(comfy, format)
        assert ours.std() > 5, f"{name}: there is nothing to compare"
        assert np.abs(ours - exact(own, latent)).max() <= 0.501, name
        # ComfyUI cuts fractions off where SideStream rounds: never more than that.
        above = ours.astype(int) - truncated(own, latent)
        assert (above.min(), above.max()) >= (0, 0), name
        assert above.max() <= 1, name
        compared += 1
    assert compared >= 15


def test_i12_the_real_wan_latent_is_within_one_level_of_comfyuis_picture(
    comfy, formats, find, exact, shared_data
):
    latent = torch.load(shared_data / "wan_latents.pth", "cpu", weights_only=True).float()
    format = formats["Wan21"]
    [source] = find("latent2rgb", format)
    ours = picture(source.load(CPU), latent)
    assert ours.shape == (40, 64, 3)
    assert ours.std() > 20
    assert np.abs(ours - exact(own_latent2rgb(comfy, format), latent)).max() <= 0.501


def test_i12_flux2s_latents_are_unpacked_before_their_factors(formats, find):
    format = present(formats, "Flux2")
    [source] = find("latent2rgb", format)
    decoder, latent = source.load(CPU), torch.randn(1, 128, HEIGHT, WIDTH)
    assert picture(decoder, latent).shape == (2 * HEIGHT, 2 * WIDTH, 3)
    assert shown_size(decoder, latent.shape, EVERY_PIXEL) == (16 * WIDTH, 16 * HEIGHT)


IMAGE_DECODERS = decoder_files.names(decoder_files.IMAGE)


def write_taesd(path: Path, channels: int) -> None:
    """A TAESD file of random weights whose pictures use the whole range."""
    with torch.random.fork_rng():
        torch.manual_seed(channels)
        layers = decoder_layers(channels, pooled=False)
        with torch.no_grad():
            rgb = layers(torch.randn(1, channels, 8, 8))
            spread, mean = rgb.std(), rgb.mean()
            layers[-1].weight.mul_(0.2 / spread)
            layers[-1].bias.copy_(0.5 + (layers[-1].bias - mean) * 0.2 / spread)
    torch.save(layers.state_dict(), path)


def test_i12_every_format_with_a_taesd_is_within_one_level_of_comfyuis_picture(
    comfy, formats, find, vae_approx, exact, monkeypatch
):
    from sidestream.preview import host

    args = comfy("comfy.cli_args").args
    monkeypatch.setattr(args, "preview_method", comfy("comfy.cli_args").LatentPreviewMethod.TAESD)
    compared = 0
    for name, format in formats.items():
        file = format.taesd_decoder_name
        if file not in IMAGE_DECODERS or file in ("taef2_decoder", "taeqi2_1_decoder"):
            continue  # these have another layout: tests/test_decoders.py
        path = vae_approx / f"{file}.pth"
        if not path.exists():
            write_taesd(path, format.latent_channels)
        [source, factors] = find("taesd", format)
        assert isinstance(source, TaesdSource), name
        assert isinstance(factors, Latent2RGBSource), name
        latent = random_latent(format, 3, 5)
        own = comfy.latent_preview.get_previewer(CPU, format)
        with torch.no_grad():
            reference = exact(own, latent)
        full = TaesdSource.of(source.path, format.latent_channels).load(CPU)
        assert full.scale == host.models.picture_scale(format), name
        ours = picture(full, latent)
        assert ours.std() > 20, f"{name}: there is nothing to compare"
        assert np.abs(ours - reference).max() <= 0.51, name
        halved = TaesdSource.of(source.path, format.latent_channels, lambda _: torch.bfloat16)
        close = picture(halved.load(CPU), latent.bfloat16())
        assert psnr(close, reference) > 40, name
        compared += 1
    assert compared >= 5


def test_a_file_of_a_video_decoder_is_found_for_its_formats(formats, find, vae_approx):
    wanted = {name: f.taesd_decoder_name for name, f in formats.items() if f.taesd_decoder_name}
    videos = {name: file for name, file in wanted.items() if file not in IMAGE_DECODERS}
    if not videos:
        pytest.skip("this ComfyUI names no decoders of video")
    for name, file in videos.items():
        for method in ("auto", "taesd"):
            assert isinstance(find(method, formats[name])[0], Latent2RGBSource), name
        path = vae_approx / f"{file}.safetensors"
        path.touch()
        for method in ("auto", "taesd"):
            [best, factors] = find(method, formats[name])
            assert isinstance(best, TaehvSource), name
            assert best.path == str(path)
            assert isinstance(factors, Latent2RGBSource), name
        assert [type(source) for source in find("latent2rgb", formats[name])] == [Latent2RGBSource]
        path.unlink()


def test_every_preview_has_the_size_of_the_final_picture(formats, find):
    from sidestream.preview import host

    for name, format in formats.items():
        each = PIXELS_EACH.get(name, 8)
        assert host.models.picture_scale(format) == each, name
        for source in find("latent2rgb", format):
            if not isinstance(source, SpectrogramSource):
                decoder, latent = source.load(CPU), random_latent(format)
                full = (each * WIDTH, each * HEIGHT)
                assert shown_size(decoder, latent.shape, EVERY_PIXEL) == full, name
                assert max(shown_size(decoder, latent.shape, 5)) == 5, name


def test_what_comfyui_says_of_a_formats_size_goes_before_what_is_known_of_an_older_class(formats):
    from sidestream.preview import host

    class Newer(type(formats["LTXV"])):
        spacial_downscale_ratio = 64

    class Newest(Newer):
        pass

    class Other(type(formats["LTXV"])):
        pass

    assert [host.models.picture_scale(kind()) for kind in (Newer, Newest, Other)] == [64, 64, 32]


def test_decoders_that_this_comfyui_does_not_name_are_found_too(formats, find, vae_approx):
    base = type(formats["SD15"]).__base__
    tried = 0
    for kind in decoder_files.KINDS:
        source_kind = TaesdSource if kind.family == decoder_files.IMAGE else TaehvSource
        for name, file in itertools.product(kind.formats, [*kind.names, kind.file]):
            older = type(name, (base,), {"taesd_decoder_name": None})()
            assert find("taesd", older) == []
            path = vae_approx / f"{file.partition('.')[0]}.pth"
            path.touch()
            [source] = find("taesd", older)
            assert isinstance(source, source_kind)
            assert source.path == str(path)
            path.unlink()
            tried += 1
    assert tried > 20


def test_a_file_that_only_its_format_knows_is_told_by_its_layers(formats, find, vae_approx):
    newest = type("Newest", (type(formats["SD15"]),), {})()
    newest.taesd_decoder_name = "mine"
    path = vae_approx / "mine.pth"
    write_taesd(path, 4)
    assert isinstance(find("taesd", newest)[0], TaesdSource)
    torch.save(video_decoder(Layout(4, (8, 8, 8, 8), (1, 2, 2), 1)), path)
    assert isinstance(find("taesd", newest)[0], TaehvSource)
    path.write_bytes(b"something else")
    assert [type(source) for source in find("taesd", newest)] == [Latent2RGBSource]


def test_comfyuis_own_name_goes_before_those_of_others(formats, find, vae_approx):
    wan = present(formats, "Wan21")
    (vae_approx / "taew2_1.safetensors").touch()
    assert find("taesd", wan)[0].path == str(vae_approx / "taew2_1.safetensors")
    (vae_approx / "lighttaew2_1.pth").touch()
    assert find("taesd", wan)[0].path == str(vae_approx / "lighttaew2_1.pth")


def test_a_name_is_not_taken_for_a_shorter_one(formats, find, vae_approx):
    """`taehv1_5` is for HunyuanVideo 1.5, and begins as the one for HunyuanVideo does."""
    (vae_approx / "taehv1_5_super.pth").touch()
    assert not isinstance(find("taesd", present(formats, "HunyuanVideo"))[0], TaehvSource)
    assert isinstance(find("taesd", present(formats, "HunyuanVideo15"))[0], TaehvSource)
    (vae_approx / "taehv-mine.pth").touch()
    assert find("taesd", formats["HunyuanVideo"])[0].path == str(vae_approx / "taehv-mine.pth")


def test_formats_of_video_with_sound_have_the_channels_of_the_video(formats, find, vae_approx):
    class VideoWithSound(type(formats["HunyuanVideo"])):
        latent_channels = 48  # of the sound

    (vae_approx / "taehv.pth").touch()
    format = VideoWithSound()
    format.taesd_decoder_name = "taehv"
    assert find("taesd", format)[0].latent_channels == 16


def test_formats_whose_factors_are_for_another_shape_have_all_channels(formats, find, vae_approx):
    (vae_approx / "taef2_decoder.pth").touch()
    assert find("taesd", present(formats, "Flux2"))[0].latent_channels == 128


def test_formats_without_a_picture_have_a_spectrogram(formats, find):
    shown = {name for name, f in formats.items() if find("auto", f) == [SpectrogramSource()]}
    assert shown >= {
        "StableAudio1", "ACEAudio", "Hunyuan3Dv2", "Hunyuan3Dv2_1", "Hunyuan3Dv2mini"
    }
    assert all(f.latent_dimensions == 1 for n, f in formats.items() if n in shown - {"ACEAudio"})
    for name in shown:
        decoder, latent = SpectrogramSource().load(CPU), random_latent(formats[name], 16, 300)
        pixels = picture(decoder, latent)
        assert pixels.shape == (latent.numel() // 300, 300, 3)
        assert pixels.std() > 20


def test_only_formats_that_nothing_is_known_of_have_no_preview(formats, find):
    nothing = {name for name, format in formats.items() if not find("auto", format)}
    assert nothing == SHOWN_BY_NONE & set(formats)


class Nested:
    """Latents of video with sound, as newer versions of ComfyUI hand them to callbacks."""

    is_nested = True

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors


def previewed(stage: Any, pack: Any, client: Any, format: Any, latent: Any) -> tuple[Any, Any]:
    """The last of two frames that a client gets of `latent`, and its picture [H, W, 3]."""
    with stage.node():
        previewer = stage.comfy.latent_preview.get_previewer(CPU, format)
        stills = {"format": "png", "video_frames": 1}
        pack.change("c", {"throttle_ms": 0, "budget": 0, **stills})
        for _ in range(2):
            previewer.decode_latent_to_preview_image("JPEG", latent)
            stage.wait_for_frames()
        del previewer
        assert all_told(pack)
    return client.frames[-1], decoded(client.frames[-1].image)


def test_the_picture_of_nested_latents_is_that_of_the_first(stage, pack, client, told, formats):
    format = formats["Wan21"]
    video, audio = random_latent(format), torch.full((1, 8, 16, 30), 50.0)
    frame, pixels = previewed(stage, pack, client, format, Nested(video, audio))
    assert frame.sidestream["decoder"] == "latent2rgb"
    assert pixels.shape == (8 * HEIGHT, 8 * WIDTH, 3)
    _, alone = previewed(stage, pack, client, format, video)
    assert np.array_equal(pixels, alone)


@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("StableAudio1", (1, 64, 1024), (512, 256)),
        ("StableAudio1", (1, 64, 40), (256, 256)),
        ("ACEAudio", (1, 8, 16, 646), (512, 406)),
        ("Hunyuan3Dv2", (1, 64, 3072), (512, 256)),
    ],
)
def test_sound_is_shown_as_a_spectrogram_and_marked(
    stage, pack, client, told, formats, name, shape, size
):
    frame, pixels = previewed(stage, pack, client, formats[name], torch.randn(shape))
    assert frame.sidestream["decoder"] == "spectrogram"
    assert pixels.shape[1::-1] == size
    assert pixels.std() > 20


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4, 1, 300), (1, 4, 77, 101)])
def test_odd_sizes_keep_their_aspect(stage, pack, client, told, formats, shape):
    _, pixels = previewed(stage, pack, client, formats["SD15"], torch.randn(shape))
    height, width = (8 * side for side in shape[-2:])
    scale = min(1, 512 / max(height, width))
    assert pixels.shape[:2] == (max(1, round(height * scale)), max(1, round(width * scale)))
