"""How much of a device previews take: arithmetic on an injected clock (seconds, monotonic)."""

from __future__ import annotations

from collections import deque


class Budget:
    """Holds previews to a share of a device's time, over any window of `WINDOW` seconds.

    `spend` reports what a decode took; `allows` says whether one more still fits. Decodes too long
    for any window are spaced so that the share holds on average.

    Decodes of equal work cost the same, and of the last few the one that was over first shows best
    what: the others have waited longer for the device's other users, which takes nothing from them.
    """

    WINDOW = 2.0
    GRAIN = 0.1  # decodes that end within this many seconds are remembered as one

    def __init__(self) -> None:
        self._spent: deque[tuple[float, float]] = deque()  # (end of the last, seconds in all)
        self._opened = 0.0
        self._remembered = 0.0
        self._costs: deque[float] = deque(maxlen=5)
        self._cost = 0.0

    def renew(self) -> None:
        """The decodes that come do other work than those before."""
        self._costs.clear()
        self._cost = 0.0  # not known yet

    def spend(self, now: float, seconds: float) -> None:
        """A decode that took `seconds` from its start to its end ended at `now`."""
        self._costs.append(seconds)
        self._cost = seconds = min(self._costs)
        if self._spent and now - self._opened < self.GRAIN:
            self._spent[-1] = (now, self._spent[-1][1] + seconds)
        else:
            self._opened = now
            self._spent.append((now, seconds))
        # One is kept: a decode longer than the window matters until its spacing has passed.
        while len(self._spent) > 1 and self._spent[0][0] <= now - self.WINDOW:
            self._spent.popleft()
        self._remembered = sum(cost for _, cost in self._spent)

    @property
    def cost(self) -> float:
        """Seconds that a decode takes; 0 where that is not known yet."""
        return self._cost

    def fits(self, seconds: float, percent: float) -> bool:
        """Whether decodes of `seconds` fit into a window."""
        return percent == 0 or percent >= 100 or seconds <= percent / 100 * self.WINDOW

    def is_too_slow(self, percent: float) -> bool:
        """Whether a decode takes longer than all of a window's share."""
        return not self.fits(self._cost, percent)

    def seconds_between(self, percent: float) -> float:
        """From the start of a decode to that of the next, of those that do not fit a window."""
        return self._cost / (percent / 100)

    def allows(self, now: float, percent: float, pending: int = 0, elsewhere: float = 0.0) -> bool:
        """Whether one more decode may start at `now`, `pending` others being under way.

        `elsewhere` are seconds of the last window that others used of the same share.
        """
        if percent == 0 or percent >= 100:
            return True
        share = percent / 100
        if self._cost > share * self.WINDOW:
            last_start = self._spent[-1][0] - self._cost if self._spent else float("-inf")
            return pending == 0 and now - last_start >= self._cost / share
        room = share * self.WINDOW - (pending + 1) * self._cost - elsewhere
        # What was remembered at the last decode is never less than what still counts.
        return self._remembered <= room or self.used(now) <= room

    def share(self, now: float) -> float:
        """The share used over the last window, from 0 to 1."""
        return min(1.0, self.used(now) / self.WINDOW)

    def used(self, now: float) -> float:
        """Seconds used over the last window."""
        return sum(cost for end, cost in tuple(self._spent) if end > now - self.WINDOW)
