"""Made-up runs, delivered to the page as the server's own messages."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image
from sidestream.tools.page import PanelPage

if TYPE_CHECKING:
    from playwright.sync_api import Route

# Messages of the server as the page's socket hands them out, so that all of the page's own code
# takes part.
DELIVER = """
async ({ frames, side, run, node, prompt, total, first, noise, told }) => {
  const canvas = new OffscreenCanvas(side, side);
  const context = canvas.getContext("2d");
  const encoder = new TextEncoder();
  const deliver = (data) => app.api.socket.dispatchEvent(new MessageEvent("message", { data }));
  const owner = { node_id: node, prompt_id: prompt, display_node_id: node, real_node_id: node };
  const deliverJson = (type, data) => deliver(JSON.stringify({ type, data: { ...owner, ...data } }));
  const encoded = new Map();
  if (first === 1) deliverJson("sidestream.run", { run, state: "start", total_steps: total });
  for (let step = first; step < first + frames; step++) {
    const look = step % 24; // made once: encoding takes the browser longer than all the rest
    if (!encoded.has(look)) {
      context.fillStyle = `rgb(${look * 12} 80 ${255 - look * 12})`;
      context.fillRect(0, 0, side, side);
      for (let x = 0; noise && x < side; x += 16) {
        context.fillStyle = `hsl(${(look * 7 + x) % 360} 90% 50%)`;
        context.fillRect(x, (look * x) % side, 16, side / 2);
      }
      const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 });
      encoded.set(look, await blob.arrayBuffer());
    }
    const jpeg = encoded.get(look);
    const sidestream = {
      run, seq: step, step, total_steps: total, width: side, height: side, decoder: "latent2rgb",
      captured_to_sent_ms: 12.4, decode_ms: 3, dropped: 2, outcomes: { sent: step, replaced: 2 },
      ...told[step],
    };
    const header = encoder.encode(JSON.stringify({ ...owner, image_type: "image/jpeg", sidestream }));
    const message = new Uint8Array(8 + header.length + jpeg.byteLength);
    new DataView(message.buffer).setUint32(0, 4);
    new DataView(message.buffer).setUint32(4, header.length);
    message.set(header, 8);
    message.set(new Uint8Array(jpeg), 8 + header.length);
    deliver(message.buffer);
    if (step % 10 === 0) await new Promise((resolve) => setTimeout(resolve)); // as a socket would
  }
}
"""
END = """
({ run, node, prompt }) => app.api.socket.dispatchEvent(new MessageEvent("message", {
  data: JSON.stringify({ type: "sidestream.run", data: {
    run, node_id: node, prompt_id: prompt, display_node_id: node, state: "end",
    total_steps: 20, sent: 18, dropped: 2, outcomes: { sent: 18, replaced: 2 },
  } }),
}))
"""


def deliver(panel: PanelPage, frames: int, *, run: str = "r", node: str = "10", **more: Any) -> None:
    """Let that many frames of a made-up run arrive; `told` is more of their labels, by step."""
    facts = {"side": 64, "prompt": "p", "total": 20, "first": 1, "noise": False, "told": {}, **more}
    panel.page.evaluate(DELIVER, {"frames": frames, "run": run, "node": node, **facts})


def end_run(panel: PanelPage, *, run: str = "r", node: str = "10", prompt: str = "p") -> None:
    panel.page.evaluate(END, {"run": run, "node": node, "prompt": prompt})


TELL = """
({ type, data }) => app.api.socket.dispatchEvent(
  new MessageEvent("message", { data: JSON.stringify({ type, data }) }))
"""


def tell(panel: PanelPage, kind: str, **data: Any) -> None:
    """Let one of the server's messages arrive."""
    panel.page.evaluate(TELL, {"type": kind, "data": data})


def tell_progress(panel: PanelPage, *, node: str, prompt: str, state: str = "running") -> None:
    """Let the server say that a node is at work, or has finished."""
    progress = {"value": 1, "max": 20, "state": state, "node_id": node, "display_node_id": node}
    tell(panel, "progress_state", prompt_id=prompt, nodes={node: {**progress, "prompt_id": prompt}})


def tell_success(panel: PanelPage, *, prompt: str) -> None:
    """Let the server say that a prompt has ended."""
    tell(panel, "executing", node=None, prompt_id=prompt)
    tell(panel, "execution_success", prompt_id=prompt)


def put_out(
    panel: PanelPage, name: str, body: bytes = b"", kind: str = "", status: int = 200, *, prompt: str = "p"
) -> list[str]:
    """Let a node tell of a file; returns the addresses that are asked for."""
    asked: list[str] = []

    def answer(route: Route) -> None:
        if "rand=" not in route.request.url:  # as the page itself asks for a node that it has
            asked.append(route.request.url)
        route.fulfill(status=status, body=body, content_type=kind)

    panel.page.unroute("**/view?*")
    panel.page.route("**/view?*", answer)
    file = {"filename": name, "subfolder": "", "type": "output"}
    told: dict[str, Any] = {"prompt_id": prompt, "node": "30", "display_node": "30", "output": {"images": [file]}}
    tell(panel, "executed", **told)
    return asked


def png(size: tuple[int, int], colour: tuple[int, int, int]) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()
