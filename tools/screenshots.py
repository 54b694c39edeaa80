"""Pictures for the README and the docs, from real runs: `python -m tools.screenshots [NAME...]`.

Runs in the tests' environment, which has Playwright; writes docs/images/panel-*.webp,
watch-page.webp, node.png and settings.png, and the picture of the node's help page.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import server
from .browser import CHROMIUM_ARGUMENTS, get_chromium
from .environment import say
from .frontends import get_frontend
from .host import get_host
from .page import PanelPage, demo_prompt
from .places import PACK_NAME, REPO, remove_base_directory

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = REPO / "docs" / "images"
HELP = REPO / "web" / "docs" / "SideStreamPreview" / "panel.jpg"
WIDE = {"width": 1280, "height": 800}
VUE = {"Comfy.VueNodes.Enabled": True}


def main(names: Sequence[str]) -> int:
    """Make the pictures with those names, or all of them."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with chromium_beside_comfyui() as (chromium, url):
        for name in names or SHOTS:
            say(f"docs/images/{name}.png")
            SHOTS[name](chromium, url, IMAGES / f"{name}.png")
            if name == "panel-live":
                _as_help(IMAGES / f"{name}.png")
            if name.startswith(("panel", "watch")):
                _as_webp(IMAGES / f"{name}.png")
    return 0


def _as_webp(path: Path) -> None:
    """Convert to WebP, which makes pictures of previews six times smaller."""
    from PIL import Image

    with Image.open(path) as picture:
        picture.convert("RGB").save(path.with_suffix(".webp"), quality=90, method=6)
    path.unlink()


def _as_help(path: Path) -> None:
    """Make the help page's picture of it, of the width at which ComfyUI shows help."""
    from PIL import Image

    with Image.open(path) as picture:
        width = 800
        size = (width, picture.height * width // picture.width)
        picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(HELP, quality=90)


@contextmanager
def chromium_beside_comfyui() -> Iterator[tuple[Browser, str]]:
    """A browser, and the address of a fresh ComfyUI with only this pack."""
    from playwright.sync_api import sync_playwright

    host = get_host()
    page_folder = get_frontend(host.environment())
    base = Path(tempfile.mkdtemp(prefix="screenshots-"))
    try:
        server.make_base_directory(base, {PACK_NAME: REPO})
        arguments = ("--front-end-root", str(page_folder))
        with server.start(host, base, arguments) as running, sync_playwright() as playwright:
            running.wait_until_ready()
            chromium = playwright.chromium.launch(
                executable_path=str(get_chromium()), headless=True, args=list(CHROMIUM_ARGUMENTS)
            )
            yield chromium, running.url
            chromium.close()
    finally:
        remove_base_directory(base)


def open_page(chromium: Browser, url: str, settings: dict[str, Any] | None = None) -> PanelPage:
    """A new page with the panel open next to the graph."""
    panel = PanelPage(chromium.new_page(viewport=WIDE, device_scale_factor=1), url)  # type: ignore[arg-type]
    panel.open(settings)
    _widen_sidebar(panel)
    return panel


def _widen_sidebar(panel: PanelPage) -> None:
    """Drag the sidebar to a realistic width."""
    panel.open_panel()
    box = panel.page.locator(".side-bar-panel").first.bounding_box()
    assert box is not None
    edge, middle = box["x"] + box["width"], box["y"] + box["height"] / 2
    panel.page.mouse.move(edge + 1, middle)
    panel.page.mouse.down()
    panel.page.mouse.move(470, middle, steps=4)
    panel.page.mouse.up()


def _run(panel: PanelPage, prompt: dict[str, Any], *, frames: int) -> None:
    panel.load(prompt)
    show_graph(panel)
    panel.queue()
    panel.wait_frames(frames)


def show_graph(panel: PanelPage) -> None:
    """Arrange the demo's nodes next to the open panel."""
    panel.page.evaluate(
        """() => {
          const places = {
            SideStreamDemoModel: [0, 0], SideStreamPreview: [0, 290], KSampler: [310, 0],
          };
          let below = 0;
          for (const node of [...app.graph._nodes]) {
            const place = places[node.type];
            if (node.type === "SaveLatent") { node.pos = [2000, below]; continue; }
            if (!place) continue;
            node.pos = [place[0] + (node.type === "KSampler" ? below : 0), place[1]];
            if (node.type === "KSampler") below += 320;
            if (node.type === "SideStreamPreview") node.setSize([270, 300]);
            if (node.type === "KSampler") node.setSize([290, 550]);
          }
          app.canvas.ds.scale = 1;
          app.canvas.ds.offset = [500, 130];
          app.canvas.setDirty(true, true);
        }"""
    )


def _finish(panel: PanelPage, path: Path) -> None:
    panel.page.screenshot(path=path)
    _stop(panel)


def _stop(panel: PanelPage) -> None:
    panel.page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()
    panel.page.close()


def live(chromium: Browser, url: str, path: Path) -> None:
    """The panel next to the graph during a run."""
    panel = open_page(chromium, url)
    _run(panel, demo_prompt(seconds=0.15, seed=11), frames=12)
    _finish(panel, path)


def changed(chromium: Browser, url: str, path: Path) -> None:
    """A run whose settings were changed meanwhile, with their marks and undo buttons."""
    panel = open_page(chromium, url)
    panel.page.set_viewport_size({"width": 1280, "height": 1100})
    _run(panel, demo_prompt(seconds=0.25, seed=18), frames=6)
    for name, value in (("throttle_ms", 300), ("every_n_steps", 2)):
        field = panel.page.locator(f".sidestream input[name={name}]").first
        field.fill(str(value))
        field.press("Enter")
    panel.page.locator(".sidestream").get_by_text("Always", exact=True).first.wait_for()
    panel.page.wait_for_timeout(300)
    panel.page.locator(".side-bar-panel .sidestream").screenshot(path=path)
    _stop(panel)


def new_run(chromium: Browser, url: str, path: Path) -> None:
    """Looking at an earlier step during a newer run."""
    panel = open_page(chromium, url)
    _run(panel, demo_prompt(seconds=0.03, seed=19), frames=12)
    panel.page.evaluate("() => sidestream.watching.scrub(9)")
    panel.wait_idle()
    panel.page.evaluate("() => sidestream.watching.pin(sidestream.watching.run.displayNodeId)")
    panel.page.evaluate("() => sidestream.watching.scrub(9)")
    _run(panel, demo_prompt(seconds=0.25, seed=20), frames=24)
    panel.page.locator(".sidestream .ss-new-run").wait_for()
    panel.page.wait_for_timeout(200)
    _finish(panel, path)


def contact_sheet(chromium: Browser, url: str, path: Path) -> None:
    """Six queued prompts, the fourth of which is running."""
    panel = open_page(chromium, url)
    for seed in range(10, 16):
        panel.load(demo_prompt(seconds=0.15, seed=seed))
        panel.queue()
    show_graph(panel)
    panel.page.locator(".sidestream [aria-label^='Show all runs']").click()
    panel.wait("() => sidestream.store.runs.length === 4 && sidestream.store.runs[3].step > 9")
    panel.page.evaluate("() => sidestream.store.star(sidestream.store.runs[1], true)")
    panel.page.locator(".sidestream .ss-shot").nth(3).hover()
    panel.page.wait_for_timeout(200)
    _finish(panel, path)


def live_light(chromium: Browser, url: str, path: Path) -> None:
    """The same in the light theme, with Nodes 2.0."""
    panel = open_page(chromium, url, {**VUE, "Comfy.ColorPalette": "light"})
    _run(panel, demo_prompt(seconds=0.15, seed=12), frames=12)
    _finish(panel, path)


def timeline(chromium: Browser, url: str, path: Path) -> None:
    """An early frame beside a late one."""
    panel = open_page(chromium, url)
    _run(panel, demo_prompt(seconds=0.25, seed=13), frames=14)
    panel.page.evaluate("() => sidestream.watching.scrub(4)")
    panel.page.locator(".sidestream [aria-label^='Compare']").click()
    panel.page.evaluate("() => sidestream.watching.scrub(11)")
    panel.page.wait_for_timeout(900)
    _finish(panel, path)


def curves(chromium: Browser, url: str, path: Path) -> None:
    """The curves of two runs, one with more steps."""
    panel = open_page(chromium, url)
    for steps, seed in ((12, 5), (20, 6)):
        _run(panel, demo_prompt(steps=steps, seed=seed, seconds=0.12), frames=steps)
        panel.wait_idle()
        if steps == 12:
            panel.page.get_by_role("button", name="Compare this frame").click()
    panel.page.evaluate("() => sidestream.watching.goLive()")
    panel.page.locator(".ss-curves summary").click()
    panel.page.locator(".ss-curves").scroll_into_view_if_needed()
    _finish(panel, path)


def samplers(chromium: Browser, url: str, path: Path) -> None:
    """Two samplers of one run side by side."""
    panel = open_page(chromium, url)
    _run(panel, demo_prompt(seconds=0.12, seed=14, samplers=2), frames=30)
    panel.page.locator(".sidestream .ss-tabs >> text=All").click()
    panel.wait_frames(32)
    panel.page.wait_for_timeout(200)
    _finish(panel, path)


def batch(chromium: Browser, url: str, path: Path) -> None:
    """Six images of a batch in one picture."""
    panel = open_page(chromium, url)
    _run(panel, _of_six("grid"), frames=14)
    panel.page.locator(".sidestream .ss-cell").nth(1).hover()
    panel.page.wait_for_timeout(200)
    _finish(panel, path)


def animation(chromium: Browser, url: str, path: Path) -> None:
    """A batch played as an animation, in the panel and on both nodes, with Nodes 2.0."""
    panel = open_page(chromium, url, VUE)
    _run(panel, _of_six("animation"), frames=14)
    panel.page.locator(".sidestream .ss-inset").wait_for()
    _finish(panel, path)


def _of_six(batch: str) -> dict[str, Any]:
    prompt = demo_prompt(seconds=0.4, seed=17, batch=batch)
    prompt["1"]["inputs"]["batch_size"] = 6
    return prompt


def bottom(chromium: Browser, url: str, path: Path) -> None:
    """The panel at the bottom."""
    panel = open_page(chromium, url)
    panel.close_panel()
    panel.command("Workspace.ToggleBottomPanelTab.sidestream")
    _run(panel, demo_prompt(seconds=0.15, seed=15), frames=14)
    _finish(panel, path)


def node(chromium: Browser, url: str, path: Path) -> None:
    """The node on the canvas, with Nodes 2.0."""
    panel = open_page(chromium, url, VUE)
    panel.close_panel()
    _run(panel, demo_prompt(seconds=0.15, seed=16), frames=15)
    panel.page.screenshot(path=path, clip={"x": 440, "y": 60, "width": 760, "height": 640})
    panel.wait_idle()
    panel.page.close()


def settings(chromium: Browser, url: str, path: Path) -> None:
    """SideStream in ComfyUI's settings dialog."""
    panel = open_page(chromium, url)
    panel.close_panel()
    panel.command("Comfy.ShowSettingsDialog")
    panel.page.get_by_text("SideStream", exact=True).last.click()
    panel.page.get_by_text("Shortest interval (ms)").first.wait_for()
    panel.page.wait_for_timeout(500)
    _finish(panel, path)


def watch_page(chromium: Browser, url: str, path: Path) -> None:
    """The watch page next to the settings with its address."""
    panel = open_page(chromium, url)
    panel.close_panel()
    panel.command("Comfy.ShowSettingsDialog")
    panel.page.get_by_text("SideStream", exact=True).last.click()
    panel.page.get_by_role("switch").check()
    address = panel.page.locator(".ss-shared input").input_value()
    panel.page.locator(".ss-shared").scroll_into_view_if_needed()
    panel.page.wait_for_timeout(500)
    settings = panel.page.locator(".ss-shared").screenshot()
    panel.page.keyboard.press("Escape")
    phone = chromium.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
    phone.goto(address)
    _run(panel, demo_prompt(seconds=0.15, seed=17), frames=14)
    phone.wait_for_function("() => document.querySelector('footer span').textContent")
    _side_by_side([phone.screenshot(), settings], path)
    phone.close()
    _stop(panel)


def _side_by_side(shots: Sequence[bytes], path: Path) -> None:
    from PIL import Image

    pictures = [Image.open(io.BytesIO(shot)) for shot in shots]
    gap, height = 24, max(picture.height for picture in pictures)
    width = sum(picture.width + gap for picture in pictures) + gap
    both, x = Image.new("RGB", (width, height + 2 * gap), "#888"), gap
    for picture in pictures:
        both.paste(picture, (x, gap + (height - picture.height) // 2))
        x += picture.width + gap
    both.save(path)


SHOTS: dict[str, Callable[[Browser, str, Path], None]] = {
    "panel-live": live,
    "panel-changed": changed,
    "panel-new-run": new_run,
    "panel-sheet": contact_sheet,
    "panel-light": live_light,
    "panel-timeline": timeline,
    "panel-curves": curves,
    "panel-samplers": samplers,
    "panel-batch": batch,
    "panel-animation": animation,
    "panel-bottom": bottom,
    "node": node,
    "settings": settings,
    "watch-page": watch_page,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
