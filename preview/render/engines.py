"""The workers of all devices, each made when needed and replaced if it hangs."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from functools import partial

import torch

from .. import records
from ..decoders.cache import DecoderCache
from .backends import BackendError, backends_for, decoding_device
from .backends.cpu import CpuBackend
from .protocols import Sink
from .worker import Engine

log = logging.getLogger(__name__)

MOST_HUNG = 2
"""After this many hung workers, ComfyUI's own previewer takes over on that device."""

Pair = tuple[torch.device, torch.device]
"""The device on which latents are sampled, and the one on which they are decoded."""


class Engines:
    """The engines, one for each pair of a sampler's and a decoder's device, made when needed."""

    def __init__(self, decoders: DecoderCache, sink: Sink) -> None:
        self._decoders = decoders
        self._sink = sink
        self._engines: dict[Pair, Engine] = {}
        self._courier: Engine | None = None
        self._refused: dict[Pair, str] = {}
        self._hung: Counter[Pair] = Counter()
        self._closed = False
        self._lock = threading.Lock()

    def of(self, source: torch.device, wanted: str = "auto") -> Engine:
        """The engine for latents on `source`, decoding where the setting `device` (`wanted`) says.

        Raises BackendError if such latents cannot be decoded.
        """
        if source.type == "meta":
            raise BackendError("latents on the meta device hold no data")
        key = (source, decoding_device(wanted, source))
        refusal = self._refused.get(key)
        if refusal is not None:
            raise BackendError(refusal)
        engine = self._serving(key)
        if engine.problem is not None:
            raise BackendError(engine.problem)
        return engine

    def courier(self) -> Engine:
        """The engine that encodes and sends pictures made elsewhere."""
        if self._courier is None or not self._serves(self._courier):
            with self._lock:
                if self._courier is None or not self._serves(self._courier):
                    backend = partial(CpuBackend, torch.device("cpu"))
                    self._courier = Engine([backend], self._decoders, self._sink)
                    if self._closed:
                        self._courier.shut()
        return self._courier

    def _serving(self, key: Pair) -> Engine:
        """The engine for this way, which works or has reported why not. Raises BackendError."""
        engine = self._engines.get(key)
        if engine is None or not self._serves(engine):
            with self._lock:
                engine = self._engines.get(key)
                if engine is None or not self._serves(engine):
                    engine = self._engines[key] = self._made(key, engine)
        return engine

    def _serves(self, engine: Engine) -> bool:
        """Whether it works, or has reported why not."""
        return engine.problem is not None or (engine.alive and not engine.hangs(records.now()))

    def _made(self, key: Pair, before: Engine | None) -> Engine:
        source, device = key
        if before is not None and before.alive and before.hangs(records.now()):
            before.give_up()
            self._hung[key] += 1
            if self._hung[key] >= MOST_HUNG:
                before.problem = "its workers did not return"
                return before
        try:
            engine = Engine(backends_for(device, source), self._decoders, self._sink)
        except BackendError as error:
            self._refused[key] = str(error)
            log.warning(
                "[SideStream] Latents on %s cannot be decoded on %s: %s. ComfyUI's own previewer is"
                " used instead.",
                source,
                device,
                str(error),  # if the log kept the error, that would keep the sampler's frames
            )
            raise
        if self._closed:  # for a sampler that began before: its frames are dropped
            engine.shut()
        return engine

    def all(self) -> list[Engine]:
        """Those that decode."""
        return list(self._engines.values())

    def notify(self) -> None:
        for engine in self._with_courier():
            engine.notify()

    def _with_courier(self) -> list[Engine]:
        return [*self.all(), *([] if self._courier is None else [self._courier])]

    def close(self) -> None:
        with self._lock:
            self._closed = True
        engines = self._with_courier()
        for engine in engines:
            engine.shut()
        end = time.monotonic() + 1.0  # for all together
        for engine in engines:
            engine.close(max(0.0, end - time.monotonic()))
