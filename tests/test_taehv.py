"""Video decoders: I12 right colours and frames, I5 bounded memory, I6 broken files."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from sidestream.preview import decoder_files
from sidestream.preview.decoders.memory import PLAIN, SUPER, WIDE
from sidestream.preview.decoders.protocols import DecoderError, VideoDecoder
from sidestream.preview.decoders.taehv import (
    Layout,
    Network,
    Taehv,
    TaehvSource,
    needed_of_each,
)
from sidestream.preview.decoders.taesd import TaesdSource, decoder_layers
from sidestream.preview.render.job import EVERYTHING
from sidestream.tests.helpers import CPU
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

HEIGHT, WIDTH = 5, 7  # of latents


@dataclass(frozen=True)
class Member:
    """One of the family, as narrow as it can be: what the layout must be read off."""

    channels: int
    strides: tuple[int, ...] = (1, 2, 2)
    patch: int = 1
    leak: float = 0.0
    signed: bool = False  # pictures are -1 to 1
    widths: tuple[int, ...] = (16, 12, 8, 4)
    kind: str = PLAIN
    file: str = "taehv"

    def shapes(self):
        """The shapes in a file, by the names that they have there."""
        w = self.widths
        if self.kind == SUPER:
            yield "0.weight", (w[0], self.channels, 1, 1)
        else:
            yield "1.weight", (w[0], self.channels, 3, 3)
            yield "1.bias", (w[0],)
        for stage, first in enumerate(self.firsts):
            width, narrower = w[stage], w[stage + 1]
            for block in range(first, first + 3):
                for layer, shape, has_bias in self.block(width):
                    yield f"{block}.conv.{layer}.weight", shape
                    if has_bias:
                        yield f"{block}.conv.{layer}.bias", shape[:1]
            if self.kind == SUPER:
                yield f"{first + 3}.weight", (4 * narrower, width, 3, 3)
                yield f"{first + 3}.bias", (4 * narrower,)
                yield f"{first + 6}.conv.weight", (narrower * self.strides[stage], narrower, 1, 1)
            else:
                yield f"{first + 4}.conv.weight", (width * self.strides[stage], width, 1, 1)
                yield f"{first + 5}.weight", (narrower, width, 3, 3)
        yield "22.weight", (3 * self.patch**2, w[3], 3, 3)
        yield "22.bias", (3 * self.patch**2,)

    def block(self, width):
        """Number, shape and whether it has a bias of each convolution of a block."""
        if self.kind == SUPER:
            yield 0, (2 * width, 1, 7, 7), False
            yield 1, (4 * width, 2 * width, 1, 1), True
            yield 3, (width, 4 * width, 1, 1), False
            return
        if self.kind == PLAIN:
            yield 0, (width, 2 * width, 3, 3), True
            yield 2, (width, width, 3, 3), True
            yield 4, (width, width, 3, 3), True
            return
        together = width // max(1, width // 64)
        yield 0, (width, 2 * width, 1, 1), True
        yield 2, (width, together, 3, 3), True
        yield 4, (width, width, 1, 1), True
        yield 6, (width, together, 3, 3), True

    @property
    def firsts(self):
        """The number of each stage's first block."""
        return (1, 8, 15) if self.kind == SUPER else (3, 9, 15)

    @property
    def frames_each(self):
        return self.strides[0] * self.strides[1] * self.strides[2]

    @property
    def layout(self):
        return Layout(self.channels, self.widths, self.strides, self.patch, self.kind)


MEMBERS = {
    "taehv": Member(16),
    "lighttaew2_2": Member(48, patch=2, file="lighttaew2_2"),
    "lighttaehy1_5": Member(32, patch=2, leak=0.2, signed=True, file="lighttaehy1_5"),
    "taehv1_5": Member(32, patch=2, file="taehv1_5"),
    "taeltx_2": Member(128, strides=(2, 2, 2), patch=4),
    "taeh3": Member(24, patch=2),
    "taew2_2_super": Member(48, patch=2, kind=SUPER, file="taew2_2_super"),
    "taehv1_5_super": Member(32, patch=2, kind=SUPER, file="lighttaehy1_5"),
    "taeltx2_3_wide": Member(128, (2, 2, 2), patch=4, widths=(128, 16, 8, 4), kind=WIDE),
}
each_member = pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)


def random_like(shape):
    """Weights that keep the variance of what goes through them, and biases."""
    fan_in = shape[1] * shape[2] * shape[3] if len(shape) == 4 else 100
    return torch.randn(shape) * (1.5 / fan_in) ** 0.5


def random_weights(shapes, dtype=torch.float32, seed=0):
    """Random weights of a decoder, and one of its encoder, which must not matter."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = {f"decoder.{name}": random_like(shape).to(dtype) for name, shape in shapes}
    return weights | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}


def random_latent(channels, frames, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, channels, frames, HEIGHT, WIDTH, generator=generator) * 1.5


def load(path, weights, channels, file="taehv", **options):
    torch.save(weights, path / f"{file}.pth")
    return TaehvSource.of(str(path / f"{file}.pth"), channels, **options).load(CPU)


def loaded(path, member, weights, **options):
    return load(path, weights, member.channels, member.file, **options)


def every_picture(member, weights, latent, half=False):
    """All that the network makes of `latent` [1, C, T, h, w]: [n, 3, H, W].

    Written for all frames at once and without any care for work or memory. `half` is without the
    last upsampling.
    """

    def conv(name, x):
        weight, bias = weights[f"decoder.{name}.weight"], weights.get(f"decoder.{name}.bias")
        groups = x.shape[1] // weight.shape[1]
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    def act(x):
        return F.leaky_relu(x, member.leak)

    def block(name, x):
        both = torch.cat([x, F.pad(x, (0, 0, 0, 0, 0, 0, 1, 0))[: len(x)]], 1)
        numbers = [number for number, *_ in member.block(x.shape[1])]
        y = conv(f"{name}.conv.{numbers[0]}", both)
        if member.kind == SUPER:
            return conv(f"{name}.conv.3", conv(f"{name}.conv.1", y).relu()) + x
        for number in numbers[1:]:
            y = conv(f"{name}.conv.{number}", act(y))
        return act(y + x)

    x = latent[0].movedim(1, 0)
    x = conv(0, x) if member.kind == SUPER else act(conv(1, torch.tanh(x / 3) * 3))
    for first in member.firsts:
        for number in range(first, first + 3):
            x = block(number, x)
        if member.kind == SUPER:
            x = F.pixel_shuffle(conv(first + 3, x).relu(), 2)
            width = x.shape[1]
            x = conv(f"{first + 6}.conv", x)
            x = x.reshape(-1, width, *x.shape[-2:])
            continue
        width = x.shape[1]
        x = x if half and first == 15 else F.interpolate(x, scale_factor=2)
        x = conv(f"{first + 4}.conv", x)
        x = conv(first + 5, x.reshape(-1, width, *x.shape[-2:]))
    x = F.pixel_shuffle(conv(22, x if member.kind == SUPER else act(x)), member.patch)
    return (x + 1) / 2 if member.signed else x


def as_a_video(decoder, latent, min_side=EVERYTHING):
    """The frames [n, 3, H, W] of the video, streamed."""
    streaming = decoder.streaming()
    return torch.cat(
        [
            streaming(frame, min_side)[list(decoder.visible_frames(index))]
            for index, frame in enumerate(latent.split(1, dim=2))
        ]
    )


def assert_same(pictures, expected):
    """Within a fortieth of what makes a level of a picture's 256.

    The layers that nothing limits give more than a picture's range, of random weights.
    """
    tolerance = 1e-4 * max(1.0, float(expected.std()))
    torch.testing.assert_close(pictures, expected, rtol=0, atol=tolerance)


# Against a slow reference


@each_member
def test_i12_a_streaming_decoder_gives_every_picture_of_the_whole_decode(tmp_path, member):
    weights = random_weights(member.shapes())
    decoder = loaded(tmp_path, member, weights)
    latent = random_latent(member.channels, frames=4)
    streaming = decoder.streaming()
    streamed = torch.cat([streaming(frame, EVERYTHING) for frame in latent.split(1, dim=2)])
    expected = every_picture(member, weights, latent)
    assert isinstance(decoder, VideoDecoder)
    assert len(streamed) == 4 * decoder.frames_each
    assert streamed.shape[-2:] == (HEIGHT * decoder.scale, WIDTH * decoder.scale)
    assert expected.std() > 0.1
    assert_same(streamed, expected)


@each_member
def test_i12_the_still_is_the_first_frame_of_the_video(tmp_path, member):
    weights = random_weights(member.shapes())
    decoder = loaded(tmp_path, member, weights)
    latent = random_latent(member.channels, frames=2)
    still = decoder(latent, EVERYTHING)
    assert_same(still, every_picture(member, weights, latent)[decoder.frames_each - 1])
    assert torch.equal(still, decoder(latent[:, :, 0], EVERYTHING))
    assert_same(still, as_a_video(decoder, latent)[0])


@pytest.mark.parametrize("frames_each", [1, 2, 4, 8])
def test_the_still_is_right_however_the_frames_multiply(tmp_path, frames_each):
    strides = {1: (1, 1, 1), 2: (2, 1, 1), 4: (4, 1, 1), 8: (1, 2, 4)}[frames_each]
    member = Member(16, strides=strides)
    weights = random_weights(member.shapes())
    decoder = load(tmp_path, weights, 16)
    latent = random_latent(16, frames=1)
    assert_same(decoder(latent, EVERYTHING), every_picture(member, weights, latent)[-1])


def test_a_rewound_streaming_decoder_starts_a_video_anew_in_the_same_memory(tmp_path):
    member = MEMBERS["taehv"]
    decoder = load(tmp_path, random_weights(member.shapes()), 16)
    latent, streaming = random_latent(16, frames=2), decoder.streaming()
    first, second = latent.split(1, dim=2)
    streaming.rewind()
    before = streaming(first, EVERYTHING)
    places = [seen.data_ptr() for stage in streaming._memory for seen in stage]
    continued = streaming(second, EVERYTHING)
    assert not torch.allclose(continued, decoder.streaming()(second, EVERYTHING))
    streaming.rewind()
    assert torch.equal(streaming(first, EVERYTHING), before)
    assert places == [seen.data_ptr() for stage in streaming._memory for seen in stage]


def test_reels_and_stills_do_not_disturb_each_other(tmp_path):
    decoder = load(tmp_path, random_weights(MEMBERS["taehv"].shapes()), 16)
    latent, one, other = random_latent(16, frames=2), decoder.streaming(), decoder.streaming()
    expected = as_a_video(decoder, latent)
    pictures = []
    for index, frame in enumerate(latent.split(1, dim=2)):
        pictures.append(one(frame, EVERYTHING)[list(decoder.visible_frames(index))])
        other(torch.randn_like(frame), EVERYTHING)
        decoder(torch.randn_like(frame), EVERYTHING)
    assert torch.equal(torch.cat(pictures), expected)


# Which pictures are frames


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (2, 5), (3, 9), (21, 81)])
def test_the_first_latent_frame_is_a_single_one(tmp_path, frames, expected):
    decoder = load(tmp_path, random_weights(MEMBERS["taehv"].shapes()), 16)
    assert sum(len(decoder.visible_frames(index)) for index in range(frames)) == expected
    assert decoder.visible_frames(0) == range(3, 4)
    assert decoder.visible_frames(frames) == range(4)


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (2, 5), (7, 22), (12, 39), (32, 107)])
def test_minimax_h3_begins_anew_every_fifth_latent_frame(tmp_path, frames, expected):
    decoder = load(tmp_path, random_weights(MEMBERS["taeh3"].shapes()), 24)
    assert sum(len(decoder.visible_frames(index)) for index in range(frames)) == expected
    # ComfyUI's rule: pad to whole cycles of 20, cut 3 off the start of each, 12 off the end.
    pictures = list(range(4 * frames)) + [-1] * (-4 * frames % 20)
    cut = [picture for picture in pictures if picture % 20 >= 3 or picture == -1]
    rule = pictures[3:4] if frames == 1 else cut[:-12]
    assert [4 * i + p for i in range(frames) for p in decoder.visible_frames(i)] == rule


# Spaces


AFFINE = torch.linspace(0.5, 2, 48).reshape(1, 48, 1, 1, 1)


def process_out(latent):
    channels = latent.shape[1]
    return latent * AFFINE[:, :channels] + AFFINE.flip(1)[:, :channels] - 1


@pytest.mark.parametrize(
    ("file", "name", "dtype", "applied"),
    [
        ("taehv", "taehv", torch.float16, False),
        ("taehv", "taehv", torch.float32, False),
        ("taecvx", "taehv", torch.float32, False),
        ("taew2_1", "taehv", torch.float32, False),
        ("lighttaew2_1", "taehv", torch.float16, False),  # the same, renamed
        ("lighttaew2_1", "taehv", torch.bfloat16, True),
        ("lighttaew2_1", "taehv", torch.float32, True),
        ("lighttaehy1_5", "lighttaehy1_5", torch.float32, False),
        ("taehv1_5", "taehv1_5", torch.float32, False),
        ("lighttaew2_2", "lighttaew2_2", torch.float16, True),
        ("taew2_2", "lighttaew2_2", torch.float16, False),
        ("lighttaew2_2", "taew2_2_super", torch.float16, False),  # renamed
    ],
)
def test_i12_latents_are_taken_to_the_space_that_the_file_was_made_for(
    tmp_path, file, name, dtype, applied
):
    member = MEMBERS[name]
    weights = random_weights(member.shapes(), dtype)
    latent = random_latent(member.channels, frames=2)
    options = {"space": "test", "process_out": process_out}
    decoder = load(tmp_path, weights, member.channels, file, **options)
    plain = load(tmp_path, weights, member.channels, file)
    expected = as_a_video(plain, process_out(latent) if applied else latent)
    assert_same(as_a_video(decoder, latent), expected)
    assert_same(decoder(latent, EVERYTHING), expected[0])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda latent: latent * float("nan"),
        lambda latent: latent / 0,
        lambda latent: latent**2,
        lambda latent: latent.flip(1),
        lambda latent: latent[:, :8],
        lambda latent: latent + torch.zeros(1, 5, 1, 1, 1),
    ],
    ids=["nan", "infinite", "square", "mixed", "fewer", "other"],
)
def test_i6_a_space_that_is_no_factor_and_offset_is_refused(tmp_path, wrong):
    weights = random_weights(MEMBERS["taehv"].shapes())
    with pytest.raises(DecoderError, match=r"lighttaew2_1\.pth"):
        load(tmp_path, weights, 16, "lighttaew2_1", space="wrong", process_out=wrong)


def test_i11_sources_are_equal_by_file_and_space(tmp_path):
    path = str(tmp_path / "taehv.pth")
    source = TaehvSource.of(path, 16, space="Wan21", process_out=lambda latent: latent)
    again = TaehvSource.of(path, 16, space="Wan21", process_out=lambda latent: latent)
    other = TaehvSource.of(path, 16, space="HunyuanVideo")
    assert source == again
    assert hash(source) == hash(again)
    assert source.key == again.key
    assert source.key != other.key
    assert source.name == "taehv"


# Half the size, half the precision


def test_the_last_upsampling_is_left_out_where_half_the_size_is_enough(tmp_path):
    member = MEMBERS["taehv"]
    weights = random_weights(member.shapes())
    decoder = load(tmp_path, weights, 16)
    latent = random_latent(16, frames=2)
    min_side = WIDTH * 4
    assert decoder(latent, min_side + 1).shape == (3, HEIGHT * 8, WIDTH * 8)
    expected = every_picture(member, weights, latent, half=True)[3:]
    assert expected.shape == (5, 3, HEIGHT * 4, WIDTH * 4)
    assert_same(decoder(latent, min_side), expected[0])
    assert_same(as_a_video(decoder, latent, min_side), expected)


def test_patches_come_in_their_full_size(tmp_path):
    for name in ("lighttaew2_2", "taew2_2_super"):
        decoder = load(tmp_path, random_weights(MEMBERS[name].shapes()), 48)
        assert decoder(random_latent(48, frames=1), 8).shape == (3, HEIGHT * 16, WIDTH * 16)


@each_member
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_i12_half_precision_stays_near_float32(tmp_path, member, dtype):
    weights = random_weights(member.shapes(), torch.bfloat16)
    latent = random_latent(member.channels, frames=2).to(dtype)
    expected = as_a_video(loaded(tmp_path, member, weights), latent.float())
    decoder = loaded(tmp_path, member, weights, precision=lambda device: dtype)
    video = as_a_video(decoder, latent)
    assert video.dtype == decoder(latent, EVERYTHING).dtype == dtype
    noise = (video.float() - expected).square().mean().sqrt() / expected.std()
    assert noise < (0.003 if dtype == torch.float16 else 0.025)


# Work and memory


def flops(decode, *arguments):
    with FlopCounterMode(display=False) as counter:
        decode(*arguments)
    return counter.get_total_flops()


def test_the_still_costs_only_what_its_picture_needs(tmp_path):
    """One picture of the last four, one block less, and no work on memories that are empty."""
    member = MEMBERS["taehv"]
    decoder = load(tmp_path, random_weights(member.shapes()), 16)
    first, second, third, last = member.widths

    def conv(channels, out, doubled):
        """Of one 3×3 convolution, `doubled` times the latent's size."""
        return 2 * 9 * channels * out * HEIGHT * WIDTH * 4**doubled

    def growth(width, doubled):
        return 2 * width * width * HEIGHT * WIDTH * 4**doubled

    needed = (
        conv(16, first, 0)
        + 3 * 3 * conv(first, first, 0)
        + growth(first, 0)
        + conv(first, second, 1)
        + 3 * 3 * conv(second, second, 1)
        + 2 * growth(second, 1)
        + 2 * conv(second, third, 2)
        + (2 * 3 + 3 * 4) * conv(third, third, 2)  # two blocks alone, three with a frame before
        + growth(third, 2)
        + conv(third, last, 3)
        + conv(last, 3, 3)
    )
    latent = random_latent(16, frames=1)
    assert flops(decoder, latent, EVERYTHING) == needed
    assert needed < 0.66 * flops(decoder.streaming(), latent, EVERYTHING)


@pytest.mark.parametrize(
    ("strides", "needed"), [((1, 2, 2), [5, 4, 1]), ((8, 1, 1), [7, 4, 1]), ((2, 4, 8), [4, 4, 1])]
)
def test_each_block_of_a_still_adds_one_frame_before(strides, needed):
    assert needed_of_each(strides, 1) == needed


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and keeps the most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._tensors = Counter()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        made = operator(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            storage = tensor.untyped_storage()
            self._add(storage._cdata, storage.nbytes())
            weakref.finalize(tensor, self._drop, storage._cdata, storage.nbytes())
        return made

    def _add(self, storage, size):
        self._tensors[storage] += 1
        if self._tensors[storage] == 1:
            self.now += size
            self.most = max(self.most, self.now)

    def _drop(self, storage, size):
        self._tensors[storage] -= 1
        if self._tensors[storage] == 0:
            self.now -= size


def test_i5_a_wan_video_of_480_by_832_needs_less_than_250_mb():
    """At the real widths, in float16; the device `meta` knows sizes and computes nothing."""
    layout = Layout(16, (256, 128, 64, 64), (1, 2, 2), 1)
    with torch.device("meta"):
        network = Network(layout)
        network.numbered().requires_grad_(False).to(torch.float16)
        latent = torch.zeros(1, 16, 1, 60, 104, dtype=torch.float16)
    streaming = Taehv(network, layout, None).streaming()
    most = []
    with Live() as live:
        for _ in range(3):
            assert streaming(latent, EVERYTHING).shape == (4, 3, 480, 832)
            most.append(live.most / 1e6)
    assert 100 < most[0] < 250
    assert most[-1] < most[0] + 1


# Files


@each_member
def test_the_layout_is_read_off_the_file(tmp_path, member):
    decoder = loaded(tmp_path, member, random_weights(member.shapes()))
    assert decoder._layout == member.layout
    assert decoder.scale == 8 * member.patch
    assert decoder.frames_each == member.frames_each


def test_a_file_of_the_decoder_alone_is_the_same_decoder(tmp_path):
    """As one for MiniMax H3 is also offered: without the encoder, and without the prefix."""
    weights = random_weights(MEMBERS["taeh3"].shapes())
    alone = {name[8:]: weight for name, weight in weights.items() if name.startswith("decoder.")}
    one, other = (load(tmp_path, each, 24, "taeh3") for each in (weights, alone))
    latent = random_latent(24, frames=1)
    assert torch.equal(one(latent, EVERYTHING), other(latent, EVERYTHING))


def test_i4_loading_draws_no_random_number(tmp_path):
    """A sampler draws its noise from the same generator, maybe at this moment."""
    weights = random_weights(MEMBERS["taehv"].shapes())
    torch.save(decoder_layers(4, pooled=False).state_dict(), tmp_path / "taesd_decoder.pth")
    before = torch.get_rng_state()
    load(tmp_path, weights, 16)
    TaesdSource.of(str(tmp_path / "taesd_decoder.pth"), 4).load(CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_safetensors_files_load_too(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    weights = random_weights(MEMBERS["taehv"].shapes(), torch.float16)
    safetensors.save_file(weights, tmp_path / "taehv.safetensors")
    latent = random_latent(16, frames=1)
    source = TaehvSource.of(str(tmp_path / "taehv.safetensors"), 16, process_out=process_out)
    one, other = source.load(CPU), load(tmp_path, weights, 16)
    assert torch.equal(one(latent, EVERYTHING), other(latent, EVERYTHING))


def without(name):
    return lambda weights: weights.pop(f"decoder.{name}")


def cut(name):
    def cut_in(weights):
        weights[f"decoder.{name}"] = weights[f"decoder.{name}"][1:]

    return cut_in


@pytest.mark.parametrize(
    "spoil",
    [
        without("1.weight"),
        without("4.conv.0.weight"),
        without("13.conv.weight"),
        without("22.bias"),
        cut("22.bias"),
        cut("13.conv.weight"),
        cut("9.conv.4.bias"),
        lambda weights: weights.update({"decoder.23.weight": torch.zeros(3)}),
        lambda weights: weights.update({"decoder.7.conv.weight": torch.zeros(3)}),
        lambda weights: weights.update({"decoder.7.conv.weight": {}}),
        dict.clear,
    ],
)
def test_i6_a_file_of_another_network_is_refused(tmp_path, spoil):
    weights = random_weights(MEMBERS["taehv"].shapes())
    spoil(weights)
    with pytest.raises(DecoderError, match=r"taehv\.pth is not a TAEHV decoder"):
        load(tmp_path, weights, 16)


@pytest.mark.parametrize(
    "member",
    [
        Member(16, strides=(4, 2, 2)),
        Member(16, patch=5),
        Member(16, widths=(16, 12, 8, 1028)),
    ],
    ids=["frames", "patch", "wide"],
)
def test_i6_a_network_that_makes_more_than_any_of_the_family_is_refused(tmp_path, member):
    with pytest.raises(DecoderError, match="its layers are inconsistent"):
        load(tmp_path, random_weights(member.shapes()), 16)


def test_i6_a_bad_file_gives_an_error_that_names_it(tmp_path):
    path = tmp_path / "taehv.pth"
    with pytest.raises(DecoderError, match=r"taehv\.pth no longer exists"):
        TaehvSource.of(str(path), 16).load(CPU)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DecoderError, match=r"taehv\.pth is not a TAEHV decoder .*Git LFS"):
        TaehvSource.of(str(path), 16).load(CPU)


def test_i6_a_decoder_for_other_latents_is_refused(tmp_path):
    weights = random_weights(MEMBERS["taehv"].shapes())
    with pytest.raises(DecoderError, match="16 channels, this model's have 48"):
        load(tmp_path, weights, 48)


# Against ComfyUI's own

FAMILY = decoder_files.names(decoder_files.VIDEO)


def host_formats(comfy):
    """ComfyUI's latent formats whose decoders are of the family, by their names."""
    module = comfy("comfy.latent_formats")
    classes = [kind for kind in vars(module).values() if isinstance(kind, type)]
    formats = [kind() for kind in classes if kind.__module__ == module.__name__]
    return {type(f).__name__: f for f in formats if f.taesd_decoder_name in FAMILY}


def test_the_family_is_comfyuis(comfy):
    known = comfy.latent_preview.VIDEO_TAES
    assert set(known) <= set(FAMILY)
    assert {f.taesd_decoder_name for f in host_formats(comfy).values()} <= set(known)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("HunyuanVideo", torch.float16),
        ("HunyuanVideo15", torch.float32),
        ("Wan21", torch.float32),
        ("Wan22", torch.float32),
        ("LTXAV", torch.float32),
        ("MiniMaxH3Video", torch.float32),
    ],
)
def test_i12_pictures_are_those_of_comfyuis_vae(comfy, tmp_path, name, dtype):
    """Which loads the same file, and is given the VAE's latents, as its previews do."""
    latent_format = host_formats(comfy).get(name)
    if latent_format is None:
        pytest.skip(f"this ComfyUI has no video decoder for {name}")
    channels, process_out = latent_format.latent_channels, latent_format.process_out
    network = comfy("comfy.taesd.taehv").TAEHV(channels)
    shapes = {key: weight.shape for key, weight in network.state_dict().items()}
    with torch.random.fork_rng():
        torch.manual_seed(3)  # with which rounding takes little of the tolerance
        weights = {key: random_like(shape).to(dtype) for key, shape in shapes.items()}
    vae = comfy("comfy.sd").VAE(dict(weights), device=CPU, dtype=torch.float32)
    file, options = latent_format.taesd_decoder_name, {"space": name, "process_out": process_out}
    decoder = load(tmp_path, weights, channels, file, **options)
    latent = random_latent(channels, frames=2)
    with torch.inference_mode():
        expected = vae.decode(process_out(latent))[0].movedim(-1, 1)
        first = vae.decode(process_out(latent[:, :, :1]))[0, 0].movedim(-1, 0)
    assert expected.clamp(0, 1).std() > 0.1
    assert_same(as_a_video(decoder, latent).clamp(0, 1), expected.clamp(0, 1))
    assert_same(decoder(latent, EVERYTHING).clamp(0, 1), first.clamp(0, 1))
