"""When to preview: pure arithmetic on an injected clock (seconds, monotonic)."""

from __future__ import annotations


class Throttle:
    """Keeps the rate that the user set, for one execution of a node.

    `every_n_steps` is exact and counts from step 1. `throttle_ms` is the least time between two
    admitted steps; the first one is always admitted. So is the last step, once: if a node samples
    several times, nobody knows which sampling is the last.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._had_an_end = False

    def admits(
        self, step: int, is_last: bool, now: float, *, throttle_ms: int, every_n_steps: int
    ) -> bool:
        """Whether the frame of `step` (from 1) is wanted at time `now`. Has no side effects."""
        if self.is_first_end(is_last):
            return True
        if (step - 1) % every_n_steps:
            return False
        if self._last is None:
            return True
        return now - self._last >= throttle_ms / 1000

    @property
    def has_begun(self) -> bool:
        """Whether a frame was captured."""
        return self._last is not None

    def is_first_end(self, is_last: bool) -> bool:
        """Whether a step is the last of a sampling, and the first such step."""
        return is_last and not self._had_an_end

    def mark(self, now: float, is_last: bool = False) -> None:
        """A frame was captured at `now`."""
        self._last = now
        self._had_an_end |= is_last
