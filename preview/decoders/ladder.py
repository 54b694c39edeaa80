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
        self._dtypes: dict[torch.device, torch.dtype] = {}  # to ask the host takes its time

    @property
    def current(self) -> Source | None:
        return self._sources[0] if self._sources else None

    def staging_dtype(self, device: torch.device) -> torch.dtype:
        """The type in which to stage latents for the current rung."""
        dtype = self._dtypes.get(device)
        if dtype is None:
            source = self.current
            dtype = torch.float32 if source is None else source.dtype(device)
            self._dtypes[device] = dtype
        return dtype

    def step_down(self, source: Source, error: Exception) -> None:
        """Leave `source`, which failed with `error`, and say so in one line."""
        if self.current is not source:
            return
        self._sources.pop(0)
        self._dtypes.clear()
        after = self.current
        log.warning(
            "[SideStream] %s previews failed (%s); this run goes on with %s.",
            source.name,
            in_a_line(error),
            f"{after.name} previews" if after else "no previews",
        )
