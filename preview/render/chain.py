"""The fallback chain of a run: its decoders, best first, and which of them failed."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..decoders.protocols import DecoderError
from ..plain import in_a_line

if TYPE_CHECKING:
    import torch

    from ..decoders.protocols import Source

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
"""Seconds until a decoder that failed is tried again; twice as long after each further failure."""
LONGEST_PAUSE = 60.0


@dataclass(slots=True)
class Pause:
    """Something that failed is not tried for a while."""

    until: float
    seconds: float

    @classmethod
    def after(cls, before: Pause | None, now: float) -> Pause:
        """A first one, or one twice as long as the one `before`."""
        seconds = FIRST_PAUSE if before is None else min(2 * before.seconds, LONGEST_PAUSE)
        return cls(now + seconds, seconds)


class Failures:
    """The decoders that failed in a run. Kept when a changed method replaces the chain."""

    def __init__(self) -> None:
        self._lasting: set[Hashable] = set()
        self._pauses: dict[Hashable, Pause] = {}

    def __bool__(self) -> bool:
        return bool(self._lasting or self._pauses)

    def allow(self, source: Source, now: float) -> bool:
        """Whether `source` may be used."""
        if source.key in self._lasting:
            return False
        pause = self._pauses.get(source.key)
        return pause is None or now >= pause.until

    def leave(self, source: Source) -> None:
        """Do not use `source`: it is known to fail, which was logged before."""
        self._lasting.add(source.key)

    def note(self, source: Source, error: Exception, now: float) -> bool:
        """Note that `source` failed with `error`; returns whether it is the first time."""
        key = source.key
        first = key not in self._lasting and key not in self._pauses
        if is_lasting(error):
            self._lasting.add(key)
        else:
            self._pauses[key] = Pause.after(self._pauses.get(key), now)
        return first


def is_lasting(error: Exception) -> bool:
    """Whether a decoder that failed with `error` would fail again, as if its file is damaged."""
    return isinstance(error, DecoderError) and error.lasting


class FallbackChain:
    """The decoders of a run. One that fails is not used for a while, or never again."""

    def __init__(self, sources: Sequence[Source], failures: Failures | None = None) -> None:
        self._sources = tuple(sources)
        self._failures = Failures() if failures is None else failures
        self._staging: tuple[Source, torch.device, torch.dtype] | None = None

    @property
    def wanted(self) -> bool:
        """Whether previews are wanted at all, and there is a decoder for them."""
        return bool(self._sources)

    def current(self, now: float) -> Source | None:
        """The best decoder that may be used at `now`, in seconds of a monotonic clock."""
        if not self._failures:  # the usual case, kept fast for the sampler's callback
            return self._sources[0] if self._sources else None
        return next(self.allowed(now), None)

    def allowed(self, now: float) -> Iterator[Source]:
        """The decoders that may be used, best first."""
        return (source for source in self._sources if self._failures.allow(source, now))

    def after(self, source: Source, now: float) -> Source | None:
        """The last usable decoder below `source`, which is the quickest.

        None if `source` is not in this chain, as after a change of the method.
        """
        if source not in self._sources:
            return None
        below = self._sources[self._sources.index(source) + 1 :]
        allowed = (each for each in reversed(below) if self._failures.allow(each, now))
        return next(allowed, None)

    def staging_dtype(self, source: Source, device: torch.device) -> torch.dtype:
        """The dtype in which to stage latents for `source`, decoding on `device`."""
        known = self._staging
        if known is None or known[0] is not source or known[1] != device:
            # Kept, since asking the host takes a third of the sampler's callback.
            known = self._staging = (source, device, source.dtype(device))
        return known[2]

    def failed(self, source: Source, error: Exception, now: float) -> None:
        """Note that `source` failed with `error`; the next one takes over. Logged once a run."""
        if not self._failures.note(source, error, now):
            return
        after = self.current(now)
        log.warning(
            "[SideStream] %s previews failed (%s); this run continues with %s%s.",
            source.name,
            in_a_line(error),
            f"{after.name} previews" if after else "ComfyUI's own previews",
            "" if is_lasting(error) else " and retries them later",
        )
