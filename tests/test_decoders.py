"""Decoders and pictures: I12 right colours, I11 loaded once, I6 broken files."""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import pickle
import struct
import tracemalloc
import weakref
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sidestream.preview.decoders import files, taesd
from sidestream.preview.decoders.cache import DecoderCache
from sidestream.preview.decoders.latent2rgb import Latent2RGBSource
from sidestream.preview.decoders.picture import (
    contained,
    on_chequerboard,
    shrunk,
    to_uint8,
    without_nans,
)
from sidestream.preview.decoders.protocols import DecoderError
from sidestream.preview.decoders.taesd import (
    Layout,
    TaesdSource,
    decoder_layers,
    layers_of,
    left_out,
    unpacked,
)
from sidestream.preview.render.job import EVERYTHING, RenderJob, shown_size
from sidestream.tests.helpers import CPU, FakeSource, FlatDecoder

FACTORS = [[0.35, 0.2, 0.1], [0.1, -0.3, 0.2], [-0.2, 0.2, 0.3], [-0.1, 0.0, -0.4]]
BIAS = [-0.05, 0.02, 0.1]


def latent2rgb(**changes) -> Latent2RGBSource:
    arguments = {"factors": FACTORS, "bias": BIAS, "reshape": None, "scale": 8} | changes
    return Latent2RGBSource("Test", **arguments)


def write_decoder(path, channels=4, pooled=False, seed=0):
    """A decoder file of random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(decoder_layers(channels, pooled).state_dict(), path)
    return str(path)


def test_i12_float_to_uint8_rounds_to_nearest():
    levels = torch.arange(0, 256, dtype=torch.float64)
    for off in (-0.49, -0.2, 0.0, 0.2, 0.49):
        rgb = ((levels + off) / 255).float().expand(3, 1, 256)
        assert to_uint8(rgb).numpy()[0, :, 0].tolist() == list(range(256))


def test_i12_values_beyond_the_range_are_clamped():
    rgb = torch.tensor([-3.0, -0.01, 1.01, 40.0]).expand(3, 1, 4)
    assert to_uint8(rgb)[0, :, 1].tolist() == [0, 0, 255, 255]


def test_i12_latent2rgb_is_within_one_level_of_the_float64_reference():
    latent = torch.randn(1, 4, 40, 56) * 2
    rgb = np.einsum("chw,ck->hwk", latent[0].double().numpy(), np.array(FACTORS)) + BIAS
    expected = np.clip((rgb + 1) / 2, 0, 1) * 255
    picture = RenderJob(latent2rgb().load(CPU), 4096)(latent)[0].numpy()
    assert picture.shape == (40, 56, 3)
    assert np.abs(picture - expected).max() <= 0.51


def test_latent2rgb_takes_the_first_frame_of_a_video_and_reshapes():
    decoder = latent2rgb(bias=None).load(CPU)
    video = torch.randn(1, 4, 5, 6, 7)
    assert torch.equal(decoder(video, 512), decoder(video[:, :, 0], 512))
    packed = latent2rgb(bias=None, reshape=unpacked, scale=16).load(CPU)
    assert packed(torch.randn(1, 16, 6, 7), 512).shape == (3, 12, 14)


@pytest.mark.parametrize("change", [{"factors": FACTORS[::-1]}, {"scale": 16}])
def test_i12_latent2rgb_of_other_factors_or_sizes_is_another(change):
    cache, one, other = DecoderCache(), latent2rgb(), latent2rgb(**change)
    assert cache.get(one, CPU) is cache.get(latent2rgb(), CPU)
    assert cache.get(one, CPU) is not cache.get(other, CPU)


@pytest.mark.parametrize(
    ("width", "height", "max_size", "expected"),
    [
        (1024, 1024, 512, (512, 512)),
        (1024, 512, 512, (512, 256)),
        (832, 1216, 512, (350, 512)),
        (512, 512, 512, (512, 512)),
        (64, 48, 512, (64, 48)),
        (8192, 8, 512, (512, 1)),
    ],
)
def test_pictures_are_contained_with_their_aspect(width, height, max_size, expected):
    assert contained(width, height, max_size) == expected


def test_shrinking_is_the_mean_and_never_enlarges():
    rgb = torch.rand(3, 64, 32)
    assert torch.allclose(shrunk(rgb, 16, 32), torch.nn.functional.avg_pool2d(rgb, 2))
    assert shrunk(rgb, 64, 128) is rgb


def test_a_picture_larger_than_asked_is_shrunk_and_a_smaller_one_left():
    decoder = latent2rgb().load(CPU)
    latent = torch.randn(1, 4, 200, 100)
    assert shown_size(decoder, latent.shape, 64) == (32, 64)
    assert RenderJob(decoder, 64)(latent)[0].shape == (64, 32, 3)
    assert shown_size(decoder, latent.shape, 512) == (256, 512)
    assert RenderJob(decoder, 512)(latent)[0].shape == (200, 100, 3)


def by_layers(weights, latent, colours=3, patch=1):
    """What a decoder's file gives by its layers' numbers: [colours, h, w]."""

    def conv(name, x, padding=1):
        weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, padding=padding)

    x = conv("1", torch.tanh(latent / 3) * 3).relu()
    last = max(int(name.split(".")[0]) for name in weights)
    for number in range(3, last):
        if number % 5 == 1:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif number % 5 == 2:
            x = conv(str(number), x)
        else:
            if f"{number}.pool.0.weight" in weights:  # FLUX.2's
                norm = (weights[f"{number}.pool.1.{part}"] for part in ("weight", "bias"))
                pooled = F.group_norm(conv(f"{number}.pool.0", x, 0), 4, *norm).relu()
                x = x + conv(f"{number}.pool.3", pooled, 0)
            y = conv(f"{number}.conv.2", conv(f"{number}.conv.0", x).relu()).relu()
            x = (conv(f"{number}.conv.4", y) + x).relu()
    patches = conv(str(last), x)[0].reshape(colours, patch, patch, *x.shape[2:])
    return patches.permute(0, 3, 1, 4, 2).reshape(colours, patch * x.shape[2], patch * x.shape[3])


@pytest.mark.parametrize(("channels", "pooled"), [(4, False), (16, False), (32, True)])
def test_taesd_reads_its_layout_off_the_file(tmp_path, channels, pooled):
    path = write_decoder(tmp_path / "taesd_decoder.pth", channels, pooled)
    latent = torch.randn(1, channels, 5, 7)
    picture = TaesdSource.of(path, channels).load(CPU)(latent, 512)
    expected = by_layers(torch.load(path, weights_only=True), latent)
    assert picture.shape == (3, 40, 56)
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)


def test_a_latent_that_was_staged_for_another_decoder_is_decoded_in_this_ones_precision(tmp_path):
    decoder = TaesdSource.of(write_decoder(tmp_path / "taesd_decoder.pth"), 4).load(CPU)
    latent = torch.randn(1, 4, 3, 5).half()
    assert torch.equal(decoder(latent, EVERYTHING), decoder(latent.float(), EVERYTHING))


def test_taesd_unpacks_flux2_latents(tmp_path):
    path = write_decoder(tmp_path / "taef2_decoder.pth", 32, pooled=True)
    decoder = TaesdSource.of(path, 128).load(CPU)
    assert decoder.scale == 16
    assert decoder(torch.randn(1, 128, 3, 2), 512).shape == (3, 48, 32)


@pytest.mark.parametrize("packed", [False, True])
def test_taesd_takes_the_first_frame_of_a_video(tmp_path, packed):
    channels = 128 if packed else 16
    path = write_decoder(tmp_path / "taesd.pth", 32 if packed else 16, pooled=packed)
    decoder = TaesdSource.of(path, channels).load(CPU)
    video = torch.randn(1, channels, 3, 2, 3)
    assert torch.equal(decoder(video, 512), decoder(video[:, :, 0], 512))


@pytest.mark.parametrize(
    ("height", "width", "min_side", "longer"),
    [
        (8, 8, 512, 8),
        (512, 512, 512, 512),
        (1024, 1024, 512, 512),
        (1024, 1024, 513, 1024),
        (2048, 1024, 256, 1024),  # once is all that small pictures are halved
        (4096, 4096, 512, 2048),
        (8192, 8192, 512, 2048),
        (8192, 8192, 2048, 2048),
        (8192, 8192, 2049, 4096),
        (8192, 1024, 512, 4096),  # not so many pixels
        (16384, 16384, 512, 2048),
        (65536, 65536, 512, 8192),  # there is no more to leave out
        (8192, 8192, EVERYTHING, 8192),
    ],
)
def test_a_huge_picture_is_decoded_at_a_size_that_fits(height, width, min_side, longer):
    assert max(height, width) >> left_out(height, width, min_side) == longer


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_what_is_left_out_makes_the_picture_smaller(tmp_path, monkeypatch, count):
    monkeypatch.setattr(taesd, "LARGEST", 0)
    decoder = TaesdSource.of(write_decoder(tmp_path / "taesd_decoder.pth"), 4).load(CPU)
    latent = torch.randn(1, 4, 3, 5)
    assert decoder(latent, 40 >> count).shape == (3, 24 >> count, 40 >> count)


def test_unpacking_is_flux2s_order():
    latent = torch.arange(2 * 4 * 3 * 5.0).reshape(1, 8, 3, 5)
    whole = unpacked(latent)
    for c, y, x in [(0, 0, 0), (1, 5, 9), (0, 3, 4)]:
        assert whole[0, c, y, x] == latent[0, c * 4 + (y % 2) * 2 + x % 2, y // 2, x // 2]


def test_safetensors_files_load_too(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = write_decoder(tmp_path / "a.pth")
    weights = torch.load(path, weights_only=True)
    weights["steps"] = torch.zeros(1, dtype=torch.int64)  # which no decoder needs
    safetensors.save_file(weights, tmp_path / "a.safetensors")
    latent = torch.randn(1, 4, 4, 4)
    one = TaesdSource.of(path, 4).load(CPU)(latent, 512)
    other = TaesdSource.of(str(tmp_path / "a.safetensors"), 4).load(CPU)(latent, 512)
    assert torch.equal(one, other)


QWEN = Layout(64, widths=(16, 8, 4, 4), colours=4, patch=2)
SANA = Layout(32, widths=(16, 8, 4, 4, 4, 4))


def loaded(tmp_path, layout, seed=4):
    """A decoder of random weights of that layout, and these."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = layers_of(layout).state_dict()
    torch.save(weights, tmp_path / "decoder.pth")
    return TaesdSource.of(str(tmp_path / "decoder.pth"), layout.channels).load(CPU), weights


def test_i12_qwen_image_21_is_laid_on_a_chequerboard_where_it_is_transparent(tmp_path):
    decoder, weights = loaded(tmp_path, QWEN)
    latent = torch.randn(1, 64, 9, 17)
    expected = by_layers(weights, latent, colours=4, patch=2)
    assert decoder.scale == 16
    picture = decoder(latent, EVERYTHING)
    assert picture.shape == (3, 144, 272)
    assert expected[:3].std() > 1e-3
    side = 272 // 64
    for y, x, ground in [(0, 0, 0.8), (0, side, 0.6), (side, side, 0.8), (3 * side, side * 2, 0.6)]:
        rgb, alpha = expected[:3, y, x], expected[3, y, x].clamp(0, 1)
        torch.testing.assert_close(picture[:, y, x], rgb * alpha + ground * (1 - alpha))
    assert decoder(latent, 100).shape == (3, 72, 136)


def test_i12_what_is_transparent_is_the_same_chequerboard_at_each_size():
    clear, opaque = torch.rand(4, 192, 256), torch.rand(4, 192, 256)
    clear[3], opaque[3] = -0.5, 1.5
    whole = on_chequerboard(clear)
    assert torch.equal(on_chequerboard(opaque), opaque[:3])
    assert torch.equal(whole.unique(), torch.tensor([0.6, 0.8]))
    assert torch.equal(shrunk(whole, 128, 96), on_chequerboard(clear[:, ::2, ::2]))


def test_i12_a_small_pictures_chequerboard_has_squares_of_a_pixel():
    [red, *_] = on_chequerboard(torch.zeros(4, 2, 3))
    assert torch.equal(red, torch.tensor([[0.8, 0.6, 0.8], [0.6, 0.8, 0.6]]))


def test_pixels_that_are_no_numbers_are_grey_and_counted():
    rgb = torch.rand(3, 4, 5)
    rgb[0, 1, 2] = rgb[:, 3, 3] = torch.nan
    bad = rgb.isnan().any(dim=0)
    grey, count = without_nans(rgb)
    assert int(count) == 2
    assert (grey[:, bad] == 0.5).all()
    assert torch.equal(grey[:, ~bad], rgb[:, ~bad])


def test_i12_sana_doubles_the_size_five_times(tmp_path):
    decoder, weights = loaded(tmp_path, SANA)
    latent = torch.randn(1, 32, 3, 5)
    expected = by_layers(weights, latent)
    assert decoder.scale == 32
    picture = decoder(latent, EVERYTHING)
    assert picture.shape == (3, 96, 160)
    assert expected.std() > 1e-3
    torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)
    assert decoder(latent, 80).shape == (3, 48, 80)


def test_a_file_of_diffusers_is_the_same_decoder(tmp_path):
    decoder, weights = loaded(tmp_path, Layout(4))
    theirs = {"encoder.layers.0.weight": torch.zeros(64, 3, 3, 3)}
    for name, weight in weights.items():
        number, rest = name.split(".", 1)
        theirs[f"decoder.layers.{int(number) - 1}.{rest}"] = weight
    torch.save(theirs, tmp_path / "other.pth")
    other = TaesdSource.of(str(tmp_path / "other.pth"), 4).load(CPU)
    latent = torch.randn(1, 4, 3, 5)
    assert torch.equal(other(latent, EVERYTHING), decoder(latent, EVERYTHING))


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("must-not-exist",))

NEEDS_PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no such pipes")


def spoilt(kind, path):
    """Make a file of another kind of what lies at `path`."""
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1")
    elif kind == "page":
        path.write_text("<!DOCTYPE html><title>404</title>")
    elif kind == "text":
        path.write_text("nothing of the kind")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "other":
        torch.save({"weight": torch.zeros(3)}, path)
    elif kind == "encoder":
        layers = {"0.weight": torch.zeros(64, 3, 3, 3), "1.weight": torch.zeros(64, 64, 3, 3)}
        torch.save(layers, path)
    elif kind == "gone":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "code":
        torch.save(Malicious(), path)
    elif kind == "old":
        torch.save({"1.weight": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("truncated", "is damaged or not a TAESD decoder"),
        ("pointer", "a Git LFS pointer"),
        ("page", "a web page"),
        ("text", "its format is unknown"),
        ("empty", "it is empty"),
        ("other", "it has no 1.weight"),
        ("encoder", "it has no 7.weight"),
        ("gone", "no longer exists"),
        ("folder", "it is not a file"),
        pytest.param("pipe", "it is not a file", marks=NEEDS_PIPES),
        ("list", "no named weights"),
        ("code", "contains more than weights"),
        ("old", "PyTorch before 1.6"),
    ],
)
def test_i6_a_file_that_is_something_else_is_called_so(tmp_path, monkeypatch, kind, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "taesd_decoder.pth"
    write_decoder(path)
    spoilt(kind, path)
    with pytest.raises(DecoderError, match=rf"^taesd_decoder\.pth .*{says}"):
        TaesdSource.of(str(path), 4).load(CPU)
    assert not (tmp_path / "must-not-exist").exists()


def safetensors_of(path, header, data=b""):
    """Write a .safetensors file of that header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def claiming(path, shapes):
    """Write a .safetensors file that has weights of these shapes, all 0, and takes no room."""
    place, header = 0, {}
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [place, place + size]}
        place += size
    safetensors_of(path, header)
    os.truncate(path, path.stat().st_size + place)


@pytest.mark.parametrize(
    ("widths", "says"),
    [((1028, 8, 8, 8), r"\[1028, 8, 8, 8\] wide"), ((1024,) * 4, "more than any decoder")],
)
def test_i6_a_network_larger_than_any_decoder_is_refused_unread(
    tmp_path, monkeypatch, widths, says
):
    path = tmp_path / "taesd_decoder.safetensors"
    with torch.device("meta"):
        weights = layers_of(Layout(4, widths)).state_dict()
    claiming(path, {name: list(weight.shape) for name, weight in weights.items()})
    monkeypatch.setattr(files, "_numbers", None)
    with pytest.raises(DecoderError, match=says):
        TaesdSource.of(str(path), 4).load(CPU)


@pytest.mark.parametrize("offsets", [[0, 4], [0, 12], [4, 12], [-8, 0], [8, 0]])
def test_i6_a_header_that_says_other_than_its_file_holds_is_refused(tmp_path, offsets):
    path = tmp_path / "taesd_decoder.safetensors"
    entry = {"dtype": "F32", "shape": [2], "data_offsets": offsets}
    safetensors_of(path, {"1.weight": entry}, bytes(8))
    with pytest.raises(DecoderError, match="its header does not match its size"):
        TaesdSource.of(str(path), 4).load(CPU)


def test_i6_a_file_that_claims_gigabytes_is_refused_before_anything_is_built(tmp_path, monkeypatch):
    path = tmp_path / "taesd_decoder.safetensors"
    claiming(
        path,
        {
            name: [1_400_000 if length == 4 else length for length in weight.shape]
            for name, weight in decoder_layers(4, False).state_dict().items()
        },
    )
    built = []
    monkeypatch.setattr(taesd, "Conv2d", lambda *sizes, **options: built.append(sizes))
    with pytest.raises(DecoderError, match=r"1\.weight is \[64, 1400000, 3, 3\]"):
        TaesdSource.of(str(path), 4).load(CPU)
    assert built == []


def test_i6_a_file_cannot_write_the_log(tmp_path):
    path = tmp_path / "taesd_decoder.safetensors"
    safetensors_of(path, b'{"' + b"[SideStream] forged\\n" * 40_000 + b'": 1}')
    with pytest.raises(DecoderError) as caught:
        TaesdSource.of(str(path), 4).load(CPU)
    assert len(str(caught.value)) <= 200
    assert "\n" not in str(caught.value)
    safetensors_of(path, b'{"' + b"a" * 5_000_000 + b'": 1}')
    with pytest.raises(DecoderError, match="its header has 5,000,007 bytes"):
        TaesdSource.of(str(path), 4).load(CPU)


def rewritten(path, change):
    """Write the archive at `path` anew, with each member as `change` makes it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, *change(name, content))


def test_i6_an_archive_whose_list_says_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "taesd_decoder.pth"
    write_decoder(path)
    first = "data/0"  # the weights of the first layer
    rewritten(path, lambda name, content: [content[:9] if name.endswith(first) else content])
    with pytest.raises(DecoderError, match="does not match"):
        TaesdSource.of(str(path), 4).load(CPU)


HUGE = pickle.BYTEARRAY8 + struct.pack("<Q", 1 << 50)
"""The beginning of a list of weights that wants as much memory as it says."""


@pytest.mark.parametrize(
    ("member", "content", "says"),
    [
        ("byteorder", b"big", "it has another byte order"),
        ("data.pkl", bytes(2 << 20), "its list of weights is too large"),
        ("data.pkl", pickle.PROTO + b"\5" + HUGE, "is damaged"),
    ],
)
def test_i6_an_archive_whose_list_is_no_decoders_is_refused(tmp_path, member, content, says):
    path = tmp_path / "taesd_decoder.pth"
    write_decoder(path)
    rewritten(path, lambda name, old: [content if name.endswith(f"/{member}") else old])
    with pytest.raises(DecoderError, match=says):
        TaesdSource.of(str(path), 4).load(CPU)


def test_i6_an_archive_of_very_many_members_is_refused(tmp_path):
    path = tmp_path / "taesd_decoder.pth"
    write_decoder(path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(6000):
            archive.writestr(f"{number:0200}", b"")
    with pytest.raises(DecoderError, match="its directory is too large"):
        TaesdSource.of(str(path), 4).load(CPU)


def test_i6_weights_with_gaps_between_their_numbers_are_refused(tmp_path):
    path = tmp_path / "taesd_decoder.pth"
    weights = torch.load(write_decoder(path), weights_only=True)
    weights["3.conv.0.bias"] = torch.zeros(128)[::2]
    torch.save(weights, path)
    with pytest.raises(DecoderError, match="not contiguous"):
        TaesdSource.of(str(path), 4).load(CPU)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error"),
        (MemoryError(), "cannot be read: not enough memory"),
    ],
)
def test_i6_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch, error, says):
    def fail(*about):
        raise error

    source = TaesdSource.of(write_decoder(tmp_path / "taesd_decoder.pth"), 4)
    cache = DecoderCache()
    with monkeypatch.context() as patched:
        patched.setattr(files, "_weights", fail)
        with pytest.raises(DecoderError, match=says):
            cache.get(source, CPU)
    assert not cache.is_broken(source)
    cache.get(source, CPU)


def test_i6_a_bomb_of_an_archive_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "taesd_decoder.pth"
    write_decoder(path)
    bomb = bytes(100 << 20)
    rewritten(
        path,
        lambda name, content: (
            [bomb, zipfile.ZIP_DEFLATED] if name.endswith("data/0") else [content]
        ),
    )
    assert path.stat().st_size < 10 << 20
    tracemalloc.start()
    try:
        with pytest.raises(DecoderError, match="it is compressed"):
            TaesdSource.of(str(path), 4).load(CPU)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_weights_within_a_checkpoint_and_views_of_one_storage_load_too(tmp_path):
    path = tmp_path / "taesd_decoder.pth"
    weights = torch.load(write_decoder(tmp_path / "a.pth"), weights_only=True)
    latent = torch.randn(1, 4, 4, 4)
    expected = TaesdSource.of(str(tmp_path / "a.pth"), 4).load(CPU)(latent, 512)
    whole = torch.cat([weight.reshape(-1) for weight in weights.values()])
    views, place = {}, 0
    for name, weight in weights.items():
        views[name] = whole[place : place + weight.numel()].view(weight.shape)
        place += weight.numel()
    channels_last = {
        name: weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight
        for name, weight in weights.items()
    }
    parameters = {name: torch.nn.Parameter(weight) for name, weight in weights.items()}
    for kind in ({"state_dict": weights}, views, channels_last, parameters):
        torch.save(kind, path)
        assert torch.equal(TaesdSource.of(str(path), 4).load(CPU)(latent, 512), expected)


@pytest.mark.parametrize("name", ["taesd_decoder \U0001f600.pth", "taesd_decoder\udcff.pth"])
def test_i6_files_of_any_name_load_and_are_called_by_what_can_be_printed(tmp_path, name):
    path = tmp_path / name
    try:
        write_decoder(tmp_path / "good.pth")
        os.rename(tmp_path / "good.pth", path)
    except (OSError, UnicodeError):
        pytest.skip("no such names on this disk")
    cache = DecoderCache()
    cache.get(TaesdSource.of(str(path), 4), CPU)
    assert all(said.isascii() for said in cache.names())
    path.write_bytes(b"")
    with pytest.raises(DecoderError) as caught:
        cache.get(TaesdSource.of(str(path), 4), CPU)
    assert str(caught.value).isascii()
    assert cache.broken() == [str(caught.value)]


def test_i6_a_mended_file_of_the_same_time_is_a_new_one(tmp_path):
    path = tmp_path / "taesd_decoder.pth"
    path.write_bytes(b"broken")
    os.utime(path, (1_000_000, 1_000_000))
    cache = DecoderCache()
    broken = TaesdSource.of(str(path), 4)
    with pytest.raises(DecoderError):
        cache.get(broken, CPU)
    write_decoder(path)
    os.utime(path, (1_000_000, 1_000_000))
    mended = TaesdSource.of(str(path), 4)
    assert cache.is_broken(broken)
    assert not cache.is_broken(mended)
    cache.get(mended, CPU)


def test_i6_what_is_remembered_of_broken_files_is_bounded():
    cache = DecoderCache()
    for source in [FakeSource(broken=True) for _ in range(DecoderCache.REMEMBERED + 50)]:
        with pytest.raises(DecoderError):
            cache.get(source, CPU)
    assert len(cache._broken) == DecoderCache.REMEMBERED


def test_i11_a_heavy_decoder_stays_only_where_a_run_holds_it_or_nothing_else_is_shown():
    cache = DecoderCache()
    first, second, light = (
        FakeSource(FlatDecoder(light=light)) for light in (False, False, True)
    )
    a, b = cache.get(first, CPU), cache.get(second, CPU)
    assert cache.get(first, CPU) is a  # two samplings at the same time
    assert (first.loads, second.loads) == (1, 1)
    held = weakref.ref(b)
    del b, second
    gc.collect()
    assert held() is not None  # the next run may be of the same VAE
    cache.get(light, CPU)
    gc.collect()
    assert held() is None
    assert len(cache.names()) == 2
    cache.get(first, CPU)
    assert first.loads == 1
    cache.release(CPU)
    assert cache.names() == [f"flat on {CPU}"]


def test_i6_a_decoder_for_other_latents_is_refused(tmp_path):
    path = write_decoder(tmp_path / "taesd_decoder.pth", 4)
    with pytest.raises(DecoderError, match="4 channels, this model's have 16"):
        TaesdSource.of(path, 16).load(CPU)


def test_i11_a_decoder_is_loaded_once_and_a_changed_file_again(tmp_path):
    path = write_decoder(tmp_path / "taesd_decoder.pth")
    cache = DecoderCache()
    first = cache.get(TaesdSource.of(path, 4), CPU)
    assert cache.get(TaesdSource.of(path, 4), CPU) is first
    write_decoder(path, seed=1)
    os.utime(path, (1, 1))
    assert cache.get(TaesdSource.of(path, 4), CPU) is not first


def test_i11_the_cache_is_bounded():
    cache = DecoderCache()
    sources = [FakeSource() for _ in range(10)]
    for source in sources:
        cache.get(source, CPU)
    assert len(cache.names()) == DecoderCache.LIMIT
    cache.get(sources[-1], CPU)
    assert sources[-1].loads == 1


def test_i11_what_was_used_last_stays_in_the_cache():
    cache = DecoderCache()
    first, *others = [FakeSource() for _ in range(DecoderCache.LIMIT + 1)]
    for source in (first, *others[:-1], first, others[-1], first):
        cache.get(source, CPU)
    assert first.loads == 1


def test_i12_a_decoder_in_another_precision_is_another():
    cache, source = DecoderCache(), FakeSource()
    for precision in (torch.float32, torch.float16, torch.float32):
        source.precision = precision
        cache.get(source, CPU)
    assert source.loads == 2


def test_i11_what_lies_on_another_device_stays_there():
    cache, elsewhere = DecoderCache(), torch.device("meta")
    cache.get(FakeSource(FlatDecoder(light=False)), elsewhere)
    gc.collect()
    cache.get(FakeSource(), CPU)
    cache.release(CPU)
    assert cache.names() == [f"flat on {elsewhere}", f"flat on {CPU}"]
    cache.release(elsewhere)
    assert cache.names() == [f"flat on {CPU}"]


class Resting(FlatDecoder):
    """Counts how often it was told to free what it keeps."""

    rested = 0

    def to_picture(self, latent, min_side, width, height):
        return None

    def rest(self):
        self.rested += 1


def test_i11_what_decoders_of_an_idle_device_keep_is_freed():
    cache, other, busy = DecoderCache(), FakeSource(), FakeSource(Resting())
    cache.get(other, CPU)
    cache.get(busy, torch.device("meta"))
    idle = FakeSource(Resting())
    cache.get(idle, CPU)
    cache.rest(CPU)
    assert (idle.decoder.rested, busy.decoder.rested) == (1, 0)


def test_i6_a_broken_source_is_remembered():
    cache, source = DecoderCache(), FakeSource(broken=True)
    with pytest.raises(DecoderError):
        cache.get(source, CPU)
    assert cache.is_broken(source)
    assert not cache.is_broken(FakeSource())


def test_real_flux2_weights_decode_to_the_real_encoders_input(shared_data):
    """TAEF2's encoder and decoder are each other's inverse: a drawn scene survives both."""
    height, width = 128, 192
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    disc = ((x - 0.5) ** 2 + (y - 0.45) ** 2 < 0.06).float()
    scene = torch.stack([0.2 + 0.6 * disc, 0.3 + 0.4 * y, 0.8 - 0.5 * disc * x])
    encoder = torch.load(shared_data / "taef2_encoder.pth", weights_only=True)
    latent = flux2_encode(encoder, scene[None])
    source = TaesdSource.of(str(shared_data / "taef2_decoder.pth"), 32)
    decoded = source.load(CPU)(latent, 512)
    error = (decoded - scene).square().mean()
    assert -10 * torch.log10(error) > 24  # dB


def flux2_encode(weights, image):
    """TAEF2's encoder, from the layer numbers of its file."""

    def conv(name, x, **kwargs):
        weight, bias = weights[f"{name}.weight"].float(), weights.get(f"{name}.bias")
        bias = None if bias is None else bias.float()
        return torch.nn.functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, **kwargs)

    def block(i, x):
        if f"{i}.pool.0.weight" in weights:
            wide = conv(f"{i}.pool.0", x)
            norm = [weights[f"{i}.pool.1.{part}"].float() for part in ("weight", "bias")]
            wide = torch.nn.functional.group_norm(wide, 4, *norm).relu()
            x = x + conv(f"{i}.pool.3", wide)
        y = conv(f"{i}.conv.0", x).relu()
        y = conv(f"{i}.conv.2", y).relu()
        return (conv(f"{i}.conv.4", y) + x).relu()

    x = block(1, conv("0", image))
    for layer in range(2, 14):
        x = conv(str(layer), x, stride=2) if layer in (2, 6, 10) else block(layer, x)
    return conv("14", x)
