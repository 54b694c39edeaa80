"""What a previewer returns in place of a picture, which is made beside the sampler."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any


class Unmade(Sequence[Any]):
    """ComfyUI's own preview, ("JPEG", picture, size), which is only made once somebody looks at it.

    ComfyUI passes previews on without looking, and gets None to send. Packs with callbacks or
    wrappers of their own may look.
    """

    def __init__(self, make: Callable[[], Sequence[Any]]) -> None:
        self._make = make
        self.replaced: bool | None = None
        """Whether ComfyUI gets nothing to send: SideStream's frame is shown instead, or none.

        None: only if nobody looks before it is passed on.
        """

    @property
    def is_made(self) -> bool:
        """Whether somebody has looked at it."""
        return "_made" in vars(self)

    def passed_on(self) -> Sequence[Any] | None:
        """What ComfyUI gets to send."""
        if self.replaced is None:
            self.replaced = not self.is_made
        return None if self.replaced else self._made

    @functools.cached_property
    def _made(self) -> Sequence[Any]:
        return self._make()

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return self._made[index]


def passed_on(value: Any) -> Any:
    """`value`, or what ComfyUI gets to send in its place."""
    return value.passed_on() if isinstance(value, Unmade) else value
