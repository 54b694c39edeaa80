"""Records the README's animation from a real run of the demo model: `python -m tools.animation`.

Runs in the tests' environment, which has Playwright; writes docs/images/demo.webp. Screenshots are
taken while the page is used; each one is shown for the time until the next, divided by `SPEED`.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from .environment import say
from .page import PanelPage, demo_prompt
from .screenshots import IMAGES, chromium_beside_comfyui, open_page, show_graph

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STEPS = 24
SECONDS_PER_STEP = 1.2
SPEED = 3  # it plays this much faster, because screenshots take time
APART = 0.4  # the least number of seconds between screenshots
MORE_SEEDS = (12, 13, 14)
SHOWN_LAST = 2.0  # seconds for the last picture, before the animation starts over

WIDTH = 800  # pixels
QUALITY = 60
LARGEST = 2_000_000  # bytes


@dataclass
class Screencast:
    """Screenshots of a page, and when each was taken."""

    page: Page
    pictures: list[Image.Image] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def until(self, ready: Callable[[], bool]) -> None:
        """Take screenshots until `ready`."""
        while not ready():
            self.shoot()

    def shoot(self) -> None:
        """Take a screenshot, at least `APART` after the last one."""
        if self.times:
            time.sleep(max(0.0, self.times[-1] + APART - time.monotonic()))
        taken = self.page.screenshot(type="jpeg", quality=95)
        self.times.append(time.monotonic())
        picture = Image.open(io.BytesIO(taken))
        height = round(WIDTH * picture.height / picture.width)
        self.pictures.append(picture.resize((WIDTH, height), Image.Resampling.LANCZOS))

    def durations(self) -> Iterator[int]:
        """How long each is shown, in milliseconds."""
        for before, after in pairwise(self.times):
            yield round((after - before) * 1000 / SPEED)
        yield round(SHOWN_LAST * 1000)

    def save(self, path: Path) -> None:
        """Write an animated WebP that plays in a loop."""
        first, *others = self.pictures
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=list(self.durations()),
            loop=0,
            quality=QUALITY,
            method=6,
        )


def record(chromium: Browser, url: str) -> Screencast:
    """A minute of use: watch a run, look back through it, then choose from several."""
    panel = open_page(chromium, url)
    panel.load(demo_prompt(steps=STEPS, seconds=SECONDS_PER_STEP, seed=11))
    show_graph(panel)
    screencast = Screencast(panel.page)
    screencast.shoot()
    panel.queue()
    screencast.until(lambda: _frames(panel) >= STEPS // 2)
    for frame in (8, 6, 4):
        panel.page.evaluate("frame => sidestream.watching.scrub(frame)", frame)
        screencast.shoot()
        screencast.shoot()
    panel.page.evaluate("() => sidestream.watching.goLive()")
    screencast.until(lambda: _is_over(panel))
    for seed in MORE_SEEDS:
        panel.load(demo_prompt(steps=STEPS, seconds=SECONDS_PER_STEP / 4, seed=seed))
        panel.queue()
    panel.page.locator(".sidestream [aria-label^='Show all runs']").click()
    screencast.until(lambda: _runs(panel) > len(MORE_SEEDS) and _is_over(panel))
    tiles = panel.page.locator(".sidestream .ss-shot")
    for tile in (tiles.nth(1), tiles.nth(2)):
        tile.hover()
        screencast.shoot()
    panel.page.evaluate("() => sidestream.store.star(sidestream.store.runs[2], true)")
    screencast.shoot()
    tiles.nth(2).locator(".ss-shot-picture").click()
    screencast.shoot()
    screencast.shoot()
    panel.page.close()
    return screencast


def _runs(panel: PanelPage) -> int:
    return int(panel.page.evaluate("() => sidestream.store.runs.length"))


def _frames(panel: PanelPage) -> int:
    return int(panel.page.evaluate("() => sidestream.store.frameCount"))


def _is_over(panel: PanelPage) -> bool:
    return not panel.page.evaluate("() => sidestream.store.live")


def main(arguments: Sequence[str]) -> int:
    """Record the animation and say how large it is."""
    parser = argparse.ArgumentParser(prog="python -m tools.animation", description=__doc__)
    parser.add_argument("--output", type=Path, default=IMAGES / "demo.webp")
    options = parser.parse_args(arguments)
    with chromium_beside_comfyui() as (chromium, url):
        screencast = record(chromium, url)
    screencast.save(options.output)
    size = options.output.stat().st_size
    say(f"{options.output}: {len(screencast.pictures)} pictures, {size / 1000:.0f} KB")
    return 0 if size < LARGEST else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
