"""ComfyUI's progress beside SideStream is as fine as beside ComfyUI's own previews.

From 0.33 on ComfyUI's progress bar passes on each update with a picture and few of those without.
The tests' ComfyUI is older: a stand-in does what the newer one does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sidestream.tests.stage import SIZE, all_told, with_settings

QUICK = 0.015
moment = time.perf_counter
"""The clock of the newer progress bar."""


def newer_progress_bar(base: type) -> type:
    """ComfyUI's `ProgressBar` as it is from 0.33 on: one update in 0.1 s and 0.5 % at most."""

    class ProgressBar(base):  # type: ignore[misc, valid-type]
        def __init__(self, total: int, node_id: str | None = None) -> None:
            super().__init__(total, node_id)
            self._last_update_time = 0.0
            self._last_sent_value = -1

        def update_absolute(self, value: int, total: Any = None, preview: Any = None) -> None:
            self.total = self.total if total is None else total
            value = self.current = min(value, self.total)
            now, sent = moment(), self._last_sent_value
            at_once = preview is not None or sent < 0 or value >= self.total
            share = 100 * (value - max(0, sent)) / self.total
            if not at_once and (now - self._last_update_time < 0.1 or share < 0.5):
                return
            self.hook(value, self.total, preview, node_id=self.node_id)
            self._last_update_time, self._last_sent_value = now, value

    return ProgressBar


@pytest.fixture
def told_steps(stage: Any, latent_preview: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the hook of the newer progress bar is told, with an interrupt as ComfyUI has it."""
    utils = stage.comfy("comfy.utils")
    monkeypatch.setattr(utils, "ProgressBar", newer_progress_bar(utils.ProgressBar))
    told: list[int] = []
    hook = stage._progress

    def noting(value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        hook(value, total, preview, node_id)
        told.append(value)

    monkeypatch.setattr(utils, "PROGRESS_BAR_HOOK", noting)
    return told


@pytest.fixture
def callback(stage: Any, told_steps: list[int], pack: Any, client: Any, told: Any) -> Iterator[Any]:
    """A sampler's callback within its node."""
    with stage.node():
        yield stage.comfy.latent_preview.prepare_callback(with_settings(stage.demo_model()), 60)


def latent() -> torch.Tensor:
    return torch.zeros(1, 4, SIZE, SIZE)


def test_60_steps_of_15_ms_give_60_progress_events(callback, told_steps):
    for step in range(60):
        time.sleep(QUICK)
        callback(step, latent(), None, 60)
    assert told_steps == list(range(1, 61))


def test_steps_that_the_throttle_forbids_are_told_as_with_a_picture(
    stage, told_steps, pack, client, told
):
    with stage.node():
        model = with_settings(stage.demo_model(), throttle_ms=60_000)
        callback = stage.comfy.latent_preview.prepare_callback(model, 20)
        for step in range(20):
            callback(step, latent(), None, 20)
            stage.wait_for_frames()
        del callback
        assert all_told(pack)
    assert told_steps == list(range(1, 21))
    assert client.steps == [1, 20]


def test_an_interrupt_is_seen_at_the_next_step(stage, callback, told_steps):
    management = stage.comfy("comfy.model_management")
    for step in range(10):
        callback(step, latent(), None, 60)
    management.interrupt_current_processing()
    with pytest.raises(management.InterruptProcessingException):
        callback(10, latent(), None, 60)
    assert told_steps == list(range(1, 11))


def test_a_second_iteration_with_the_same_callback_moves_again(callback, told_steps):
    """As AnimateDiff-Evolved samples: all steps of the callback, and once more from the first."""
    for _ in range(2):
        for step in range(6):
            callback(step, latent(), None, 6)
    assert told_steps == [1, 2, 3, 4, 5, 6] * 2


def test_a_sampler_that_counts_down_moves(callback, told_steps):
    """As RES4LYF's unsampling, which adds noise from the last step to the first."""
    for step in reversed(range(8)):
        callback(step, latent(), None, 60)
    assert told_steps == list(range(8, 0, -1))


def test_updates_without_a_picture_of_ours_are_as_rare_as_comfyui_wants_them(
    stage, callback, told_steps, monkeypatch
):
    monkeypatch.setitem(globals(), "moment", lambda: 100.0)
    bar = stage.comfy("comfy.utils").ProgressBar(100)
    callback(0, latent(), None, 60)
    told_steps.clear()
    for value in range(1, 100):
        bar.update_absolute(value, 100)
    assert told_steps == [1]


def test_what_a_node_says_it_is_at_is_no_step(stage, pack, client, told):
    """Newer ComfyUIs tell what a node does, 'loading' say, by progress without a picture."""
    progress = stage.comfy("comfy_execution.progress")
    with stage.node():
        previewer = stage.comfy.latent_preview.get_previewer(torch.device("cpu"), sd15(stage))
        previewer.run.change({"throttle_ms": 0, "budget": 0})
        bar = stage.comfy("comfy.utils").ProgressBar(4)
        for step in range(4):
            progress.get_progress_state().update_progress("3", 0, 1, None)  # as `set_activity`
            picture = previewer.decode_latent_to_preview_image("JPEG", latent())
            bar.update_absolute(step + 1, 4, picture)
            stage.wait_for_frames()
        del previewer
        assert all_told(pack)
    labels = [(f.sidestream["step"], f.sidestream["total_steps"]) for f in client.frames]
    assert labels == [(step, 4) for step in range(1, 5)]


def sd15(stage: Any) -> Any:
    """ComfyUI's latent format of SD 1.5."""
    return stage.comfy("comfy.latent_formats").SD15()
