"""Quicker pictures in between those of a decoder that is too slow for the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .budget import Budget

if TYPE_CHECKING:
    from ..decoders.protocols import Source
    from .protocols import Run

SHARE = 0.5
"""The share of the setting `budget` for them; the slow decoder gets the rest."""
SMALLER = (2, 4)
"""The factors by which a picture of the same decoder may be smaller."""


class Way(NamedTuple):
    """A quicker way to a picture."""

    source: Source
    max_size: int


class Quicker:
    """Chooses the ways, and limits them to their share of the budget."""

    def __init__(self) -> None:
        self.budget = Budget()
        self._took: dict[tuple[object, int], float] = {}
        """Seconds that ways took which were expected to be quick enough, and were not."""
        self._warm: object = None

    def way(
        self, run: Run, source: Source, slow: Budget, percent: float, now: float, pending: int
    ) -> Way | None:
        """How to show a step for which `source` is too slow; None if nothing is quick enough."""
        if not slow.is_too_slow(percent) or not self.budget.allows(now, percent * SHARE, pending):
            return None
        run.note_slow(source.name, slow.cost, slow.seconds_between(percent * (1 - SHARE)))
        size = run.max_size
        for times in SMALLER:
            # A convolution's work is proportional to the picture's area.
            expected = self._took.get((source.key, size // times), slow.cost / times**2)
            if self.budget.fits(expected, percent * SHARE):
                return Way(source, size // times)
        other = run.chain.after(source, now)
        return None if other is None else Way(other, size)

    def spend(self, way: Way, work: object, seconds: float, percent: float, now: float) -> None:
        """Record that a picture by `way` took `seconds`; `work` is its job's kind."""
        if work != self._warm:
            self._warm = work  # a first decode includes warm-up, so it is not typical
            self.budget.renew()
            return
        self.budget.spend(now, seconds)
        if not self.budget.fits(seconds, percent * SHARE):
            self._took[way.source.key, way.max_size] = seconds
            self.budget.renew()  # the next way does not have to wait as long as this one
