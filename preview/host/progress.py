"""ComfyUI's progress: as fine as with its own previews, and how many steps it tells of.

From 0.33 on `ProgressBar` passes on each step that has a picture, and few of those without. A
previewer of SideStream's gives no picture to the sampler, so its steps would be among the few.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import comfy.utils
from comfy_execution.utils import get_executing_context

_here = threading.local()
"""What is known on each thread of the node that it executes."""


def expect_progress() -> None:
    """A picture of this step is on its way: its progress is to be told, on this thread, now."""
    _here.shown = True


def newest_total() -> int:
    """Of how many steps the newest progress bar of the node at work here tells; 0 without one."""
    total = getattr(_here, "total", 0) if getattr(_here, "node", None) == _node() else 0
    return total if total > 1 else 0


def _node() -> Any:
    context = get_executing_context()
    return None if context is None else (context.prompt_id, context.node_id)


def _note_total(bar: Any) -> None:
    try:
        _here.node, _here.total = _node(), int(bar.total)
    except Exception:  # whatever a bar counts with
        _here.total = 0


def install() -> Any:
    """Let `ProgressBar` tell such steps. Returns what `uninstall` needs."""
    kind = comfy.utils.ProgressBar
    make, update = kind.__init__, kind.update_absolute

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _note_total(self)

    @functools.wraps(update)
    def update_absolute(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_here, "shown", False):
            _here.shown = False
            if hasattr(self, "_last_sent_value"):
                self._last_sent_value = -1  # as if it were the first, which always passes
        try:
            return update(self, *args, **kwargs)
        finally:
            _note_total(self)

    kind.__init__, kind.update_absolute = __init__, update_absolute
    return {"__init__": (make, __init__), "update_absolute": (update, update_absolute)}


def uninstall(installed: Any) -> None:
    """Give ComfyUI's functions back, unless another pack has wrapped ours."""
    for name, (original, ours) in installed.items():
        if getattr(comfy.utils.ProgressBar, name) is ours:
            setattr(comfy.utils.ProgressBar, name, original)
