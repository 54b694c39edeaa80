"""How much of a device's time previews may take: arithmetic on an injected monotonic clock."""

from __future__ import annotations

from collections import deque


class Budget:
    """Limits previews to a share of a device's time, over any window of `WINDOW` seconds.

    `spend` records how long a decode took; `allows` says whether one more fits. Decodes that no
    window has room for are spaced so that the share holds on average. All times are in seconds.

    Equal decodes cost the same, and the shortest of the last few shows best how much: the others
    spent more time waiting for other users of the device, which costs those nothing.
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
        """Start afresh: the next decodes do different work."""
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
        # The last one is kept: a decode longer than the window counts until its spacing has passed.
        while len(self._spent) > 1 and self._spent[0][0] <= now - self.WINDOW:
            self._spent.popleft()
        self._remembered = sum(cost for _, cost in self._spent)

    @property
    def cost(self) -> float:
        """Seconds that a decode takes; 0 if not known yet."""
        return self._cost

    def fits(self, seconds: float, percent: float) -> bool:
        """Whether decodes of `seconds` fit into a window."""
        return percent == 0 or percent >= 100 or seconds <= percent / 100 * self.WINDOW

    def is_too_slow(self, percent: float) -> bool:
        """Whether a decode takes longer than a window's whole share."""
        return not self.fits(self._cost, percent)

    def seconds_between(self, percent: float) -> float:
        """The time between the starts of two decodes that do not fit into a window."""
        return self._cost / (percent / 100)

    def allows(self, now: float, percent: float, pending: int = 0, elsewhere: float = 0.0) -> bool:
        """Whether one more decode may start at `now`, while `pending` others are in progress.

        `elsewhere` is how many seconds of the last window others used of the same share.
        """
        if percent == 0 or percent >= 100:
            return True
        share = percent / 100
        if self._cost > share * self.WINDOW:
            last_start = self._spent[-1][0] - self._cost if self._spent else float("-inf")
            return pending == 0 and now - last_start >= self._cost / share
        room = share * self.WINDOW - (pending + 1) * self._cost - elsewhere
        # The sum remembered at the last decode is never less than what still counts.
        return self._remembered <= room or self.used(now) <= room

    def share(self, now: float) -> float:
        """The share used over the last window, from 0 to 1."""
        return min(1.0, self.used(now) / self.WINDOW)

    def used(self, now: float) -> float:
        """Seconds used over the last window."""
        return sum(cost for end, cost in tuple(self._spent) if end > now - self.WINDOW)
