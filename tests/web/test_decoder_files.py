"""A decoder file that is missing: what the panel says of it, and that the next run uses it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import torch
from playwright.sync_api import expect
from sidestream.benchmarks.weights import video_decoder
from sidestream.preview import decoder_files
from sidestream.preview.decoders.taehv import Layout
from sidestream.tests.web.conftest import ALL_KINDS
from sidestream.tests.web.views import LONG, PANEL, wait_over
from sidestream.tools.page import PanelPage, demo_prompt

if TYPE_CHECKING:
    from sidestream.tests.conftest import HostFactory

pytestmark = [pytest.mark.browser, pytest.mark.kinds(ALL_KINDS[0])]

NOTICE = f"{PANEL} .ss-notice"
WAN = next(kind for kind in decoder_files.KINDS if "Wan21" in kind.formats)

SEEDS = itertools.count()


def start_a_video(panel: PanelPage, steps: int) -> None:
    """One whose seed the server has not cached; returns once there is a frame of it.

    A busy machine may leave out all but the last.
    """
    inputs = {"steps": steps, "frames": 3, "seconds": 0.3, "seed": next(SEEDS)}
    panel.load({"1": {"class_type": "ProbeVideo", "inputs": inputs}})
    before = panel.page.evaluate("() => sidestream.store.runs.at(-1)?.id")
    panel.queue()
    panel.wait(
        "before => sidestream.store.runs.at(-1).id !== before && sidestream.store.runs.at(-1).frames.length > 0",
        60,
        before,
    )


def sample_a_video(panel: PanelPage) -> None:
    """As above, to its end."""
    start_a_video(panel, 4)
    wait_over(panel)


def decoder(panel: PanelPage) -> str:
    return str(panel.page.evaluate("() => sidestream.watching.run.frames.at(-1).decoder"))


def test_a_missing_decoder_is_offered_and_once_it_is_there_the_next_run_uses_it(
    panel: PanelPage, comfy_host: HostFactory
) -> None:
    panel.open_panel()
    sample_a_video(panel)
    assert decoder(panel) == "latent2rgb"
    notice, link = panel.page.locator(NOTICE), panel.page.locator(f"{NOTICE} a")
    for told in (WAN.file, "models/vae_approx", WAN.models, "the next run uses it"):
        expect(notice).to_contain_text(told)
    expect(link).to_have_text("Download (45 MB)")
    assert link.get_attribute("href") == WAN.url
    path = comfy_host().base_dir / "models" / "vae_approx" / f"{WAN.names[0]}.pth"
    try:
        torch.save(video_decoder(Layout(16, (8, 8, 8, 8), (1, 2, 2), 1)), path)
        sample_a_video(panel)
    finally:
        path.unlink()
    assert decoder(panel) == "taehv"
    expect(notice).to_be_hidden()
    sample_a_video(panel)
    expect(link).to_be_visible()
    panel.page.locator(f"{NOTICE} button").click()
    expect(notice).to_be_hidden()


def test_a_reload_in_mid_run_loses_nothing_of_it(panel: PanelPage) -> None:
    start_a_video(panel, LONG)
    panel.page.reload()
    panel.wait_until_ready()
    panel.open_panel()
    expect(panel.page.locator(NOTICE)).to_contain_text(WAN.file)
    panel.page.evaluate("() => app.api.interrupt()")
    panel.wait_idle()


def test_the_demo_whose_latents_need_no_file_says_nothing(panel: PanelPage) -> None:
    panel.open_panel()
    panel.load(demo_prompt(seed=90_000, steps=6))
    panel.queue()
    wait_over(panel, 60)
    assert decoder(panel) == "latent2rgb"
    expect(panel.page.locator(NOTICE)).to_be_hidden()
