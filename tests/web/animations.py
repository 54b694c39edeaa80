"""Animated and batch pictures as a server would make them, delivered to the page."""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw
from sidestream.tools.page import PanelPage

# The server's message for one preview, handed out by the page's own socket.
SEND = """
({ metadata, data }) => {
  const picture = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const header = new TextEncoder().encode(JSON.stringify(metadata));
  const message = new Uint8Array(8 + header.length + picture.length);
  new DataView(message.buffer).setUint32(0, 4);
  new DataView(message.buffer).setUint32(4, header.length);
  message.set(header, 8);
  message.set(picture, 8 + header.length);
  app.api.socket.dispatchEvent(new MessageEvent("message", { data: message.buffer }));
}
"""


def colour(hue: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.8, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def moving_bar(frames: int = 8, size: tuple[int, int] = (96, 64), first_hue: float = 0.0) -> list[Image.Image]:
    """Frames of an animation: a bar that moves from left to right over a still ground, whose colour says
    which animation it is."""
    made = []
    for i in range(frames):
        picture = Image.new("RGB", size, colour(first_hue))
        left = round(i * size[0] / frames)
        bar = (left, 0, left + size[0] // frames - 1, size[1])
        ImageDraw.Draw(picture).rectangle(bar, fill=colour((first_hue + 0.5) % 1))
        made.append(picture)
    return made


def cells_picture(images: Sequence[int], columns: int, cell: int = 32) -> Image.Image:
    """Cells of one colour each, by the image's place in a batch of ten; black where there is none."""
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * cell, rows * cell))
    for i, image in enumerate(images):
        place = (i % columns * cell, i // columns * cell)
        picture.paste(colour(image / 10), (*place, place[0] + cell, place[1] + cell))
    return picture


def webp(frames: Sequence[Image.Image], durations: int | Sequence[int]) -> bytes:
    """An animated WebP of them, as small as the encoder makes it: most frames are parts."""
    out = io.BytesIO()
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], duration=durations,
        loop=0, lossless=True, minimize_size=True,
    )  # fmt: skip
    return out.getvalue()


def jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=95, subsampling=0)
    return out.getvalue()


def send(panel: PanelPage, picture: bytes, kind: str, *, step: int, **facts: Any) -> None:
    """Let one preview arrive."""
    more = {
        "run": "r", "seq": step, "total_steps": 20, "width": 96, "height": 64, "decoder": "taehv",
        "captured_to_sent_ms": 40, "decode_ms": 9, "dropped": 0, "outcomes": {},
    }  # fmt: skip
    node, prompt = facts.pop("node", "10"), facts.pop("prompt", "p")
    owner = {"node_id": node, "prompt_id": prompt, "display_node_id": node, "real_node_id": node}
    metadata = {**owner, "image_type": kind, "sidestream": more | {"step": step} | facts}
    data = base64.b64encode(picture).decode()
    panel.page.evaluate(SEND, {"metadata": metadata, "data": data})


def send_animation(
    panel: PanelPage,
    frames: Sequence[Image.Image],
    *,
    step: int,
    duration: int | Sequence[int] = 100,
    file: bytes = b"",
    **facts: Any,
) -> bytes:
    """Let an animation arrive; returns its file, which is made unless it is given."""
    file = file or webp(frames, duration)
    total = duration * len(frames) if isinstance(duration, int) else sum(duration)
    animation = {"frames": len(frames), "fps": len(frames) * 1000 / total, "duration_ms": total}
    width, height = frames[0].size
    facts = {"width": width, "height": height, "animation": animation, **facts}
    send(panel, file, "image/webp", step=step, **facts)
    return file


def send_still(panel: PanelPage, picture: Image.Image, *, step: int, **facts: Any) -> None:
    """Let a still arrive."""
    width, height = picture.size
    facts = {"width": width, "height": height, **facts}
    send(panel, jpeg(picture), "image/jpeg", step=step, **facts)
