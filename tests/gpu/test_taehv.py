"""Video decoders on a GPU: I12 right colours in half precision, I5 bounded memory."""

from __future__ import annotations

import pytest
import torch
from sidestream.preview.decoders.memory import SUPER, WIDE
from sidestream.preview.decoders.taehv import LEAK, Affine, Layout, Network, Taehv
from sidestream.preview.render.job import EVERYTHING

pytestmark = pytest.mark.gpu

WIDTHS = (256, 128, 64, 64)
LAYOUTS = {
    "taehv": Layout(16, WIDTHS, (1, 2, 2), 1),
    "lighttaew2_2": Layout(48, WIDTHS, (1, 2, 2), 2),
    "lighttaehy1_5": Layout(32, WIDTHS, (1, 2, 2), 2),
    "taeltx_2": Layout(128, WIDTHS, (2, 2, 2), 4),
    "taeh3": Layout(24, WIDTHS, (1, 2, 2), 2),
    "taew2_2_super": Layout(48, (512, 256, 128, 64), (1, 2, 2), 2, SUPER),
    "taeltx2_3_wide": Layout(128, (1024, 512, 256, 64), (2, 2, 2), 4, WIDE),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def decoder_of(layout, device, dtype):
    """A decoder of random weights, the same for every device and type."""
    signed = layout == LAYOUTS["lighttaehy1_5"]
    network = Network(layout, LEAK if signed else 0.0)
    layers = network.numbered().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in layers.parameters():
        fan_in = weight[0].numel() if weight.ndim == 4 else 100
        weight.normal_(0, (1.5 / fan_in) ** 0.5, generator=generator)
    channels = (1, layout.channels, 1, 1)
    factor = torch.linspace(0.5, 2, layout.channels).reshape(channels)
    layers.to(dtype).to(memory_format=torch.channels_last).to(device)
    return Taehv(network, layout, Affine(factor, 1 - factor).to(device), signed)


def random_latent(layout, frames=3, height=15, width=26):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, layout.channels, frames, height, width, generator=generator)


def every_picture(decoder, latent):
    streaming = decoder.streaming()
    return torch.cat([streaming(frame, EVERYTHING) for frame in latent.split(1, dim=2)])


@each_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_i12_half_precision_on_the_gpu_stays_near_float32_on_the_cpu(layout, dtype):
    latent = random_latent(layout)
    expected = every_picture(decoder_of(layout, torch.device("cpu"), torch.float32), latent)
    latent = latent.to("cuda", dtype)
    decoder = decoder_of(layout, torch.device("cuda"), dtype)
    pictures = every_picture(decoder, latent).float().cpu()
    noise = (pictures - expected).square().mean().sqrt() / expected.std()
    assert noise < (0.005 if dtype == torch.float16 else 0.04)
    still = decoder(latent, EVERYTHING).float().cpu()
    noise = (still - expected[decoder.frames_each - 1]).square().mean().sqrt() / expected.std()
    assert noise < (0.005 if dtype == torch.float16 else 0.04)


@each_layout
def test_a_rewound_streaming_decoder_gives_the_same_video_again(layout):
    decoder = decoder_of(layout, torch.device("cuda"), torch.float16)
    videos = [random_latent(layout).cuda().half(), random_latent(layout).cuda().half().flip(2)]
    expected = [every_picture(decoder, video) for video in videos]
    streaming = decoder.streaming()
    for video, same in zip(videos, expected, strict=True):
        streaming.rewind()
        again = [streaming(frame, EVERYTHING).clone() for frame in video.split(1, dim=2)]
        torch.testing.assert_close(torch.cat(again), same, rtol=0, atol=0.01)


def test_i5_a_wan_video_of_480_by_832_needs_less_than_250_mb():
    decoder = decoder_of(LAYOUTS["taehv"], torch.device("cuda"), torch.float16)
    latent = random_latent(LAYOUTS["taehv"], frames=1, height=60, width=104).cuda().half()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    streaming = decoder.streaming()
    for _ in range(3):
        streaming(latent, EVERYTHING)
    torch.cuda.synchronize()
    assert (torch.cuda.max_memory_allocated() - before) / 1e6 < 250
