"""The real page in a real browser: the sampler node shows what SideStream sent."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sidestream.tests.graphs import demo_graph
from sidestream.tests.pictures import decoded, psnr
from sidestream.tools.comfy_client import parse_frame
from sidestream.tools.page import PanelPage

pytestmark = pytest.mark.browser

# The picture that the node draws, as PNG; null as long as there is none.
SHOWN = """() => {
    const node = app.graph.nodes.find((node) => node.type === 'KSampler');
    const image = node?.imgs?.[0];
    if (!image?.complete || !image.naturalWidth) return null;
    const canvas = document.createElement('canvas');
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    canvas.getContext('2d').drawImage(image, 0, 0);
    return { id: String(node.id), png: canvas.toDataURL('image/png') };
}"""


def test_the_page_shows_on_the_sampler_node_a_preview_that_sidestream_sent(
    comfy_host, browser_page
):
    running, page = comfy_host(), browser_page.page
    frames: list[Any] = []

    def receive(payload: str | bytes) -> None:
        if isinstance(payload, bytes):
            frames.append(parse_frame(payload, 0.0))

    page.on("websocket", lambda socket: socket.on("framereceived", receive))
    panel = PanelPage(page, running.url)
    panel.open()
    panel.load(demo_graph({"throttle_ms": 0, "budget": 0}, seconds=0.3))
    panel.queue()
    shown = page.wait_for_function(SHOWN, timeout=60_000).json_value()
    page.evaluate("() => app.api.interrupt(null)")

    assert frames
    assert all(frame.sidestream["decoder"] == "latent2rgb" for frame in frames)
    assert {frame.metadata["node_id"] for frame in frames} == {shown["id"]}
    pixels = data_url_pixels(shown["png"])
    assert pixels.shape == (512, 512, 3)
    # One of the frames to the digit, but for the browser's own JPEG decoder.
    assert max(psnr(pixels, decoded(frame.image)) for frame in frames) > 45


def data_url_pixels(url: str) -> np.ndarray:
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
