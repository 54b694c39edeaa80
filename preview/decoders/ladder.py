"""The way down from the best decoder, for a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from .errors import in_a_line
from .protocols import Source

log = logging.getLogger(__name__)


class Ladder:
    """The decoders of a run, best first. A rung that fails is left for the rest of the run."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._staging: tuple[Source, torch.device, torch.dtype] | None = None

    @property
    def current(self) -> Source | None:
        return self._sources[0] if self._sources else None

    def staging_dtype(self, device: torch.device) -> torch.dtype:
        """The type in which to stage latents for the current rung."""
        source, known = self.current, self._staging
        if source is None:
            return torch.float32
        if known is None or known[0] is not source or known[1] != device:
            # Kept, since to ask the host takes a third of the sampler's callback.
            known = self._staging = (source, device, source.dtype(device))
        return known[2]

    def step_down(self, source: Source, error: Exception) -> None:
        """Leave `source`, which failed with `error`, and say so in one line."""
        if self.current is not source:
            return
        self._sources.pop(0)
        after = self.current
        log.warning(
            "[SideStream] %s previews failed (%s); this run goes on with %s.",
            source.name,
            in_a_line(error),
            f"{after.name} previews" if after else "no previews",
        )
