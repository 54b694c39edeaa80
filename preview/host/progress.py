"""ComfyUI's progress, as fine as with its own previews.

From 0.33 on `ProgressBar` passes on each step that has a picture, and few of those without. A
previewer of SideStream's gives no picture to the sampler, so its steps would be among the few.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import comfy.utils

_step = threading.local()


def expect_progress() -> None:
    """A picture of this step is on its way: its progress is to be told, on this thread, now."""
    _step.shown = True


def install() -> Any:
    """Let `ProgressBar` tell such steps. Returns what `uninstall` needs."""
    kind = comfy.utils.ProgressBar
    original = kind.update_absolute

    @functools.wraps(original)
    def update_absolute(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_step, "shown", False):
            _step.shown = False
            if hasattr(self, "_last_sent_value"):
                self._last_sent_value = -1  # as if it were the first, which always passes
        return original(self, *args, **kwargs)

    kind.update_absolute = update_absolute
    return (original, update_absolute)


def uninstall(installed: Any) -> None:
    """Give ComfyUI's function back, unless another pack has wrapped ours."""
    original, ours = installed
    if comfy.utils.ProgressBar.update_absolute is ours:
        comfy.utils.ProgressBar.update_absolute = original
