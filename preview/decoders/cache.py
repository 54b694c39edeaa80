"""Loaded decoders, kept from one run to the next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import torch

from .errors import DecoderError
from .protocols import Decoder, Source


class DecoderCache:
    """Loaded decoders by source, device and type; the least recently used leaves first."""

    LIMIT = 4

    def __init__(self) -> None:
        self._loaded: OrderedDict[Hashable, Decoder] = OrderedDict()
        self._broken: dict[Hashable, str] = {}
        self._lock = threading.Lock()

    def get(self, source: Source, device: torch.device) -> Decoder:
        """The decoder of `source` on `device`, loaded at the first call. Raises DecoderError.

        One that failed for good is not loaded again; a changed file is another source.
        """
        broken = self._broken.get(source.key)
        if broken is not None:
            raise DecoderError(broken)
        key = (source.key, device, source.dtype(device))
        with self._lock:
            decoder = self._loaded.get(key)
            if decoder is not None:
                self._loaded.move_to_end(key)
                return decoder
        try:
            decoder = source.load(device)
        except DecoderError as error:
            if error.lasting:
                self._broken[source.key] = str(error)
            raise
        with self._lock:
            self._loaded[key] = decoder
            while len(self._loaded) > self.LIMIT:
                self._loaded.popitem(last=False)
        return decoder

    def release(self, device: torch.device) -> None:
        """Forget the decoders on `device` whose weights are too large to lie there unused."""
        with self._lock:
            for key, decoder in list(self._loaded.items()):
                if key[1] == device and not decoder.light:  # type: ignore[index]
                    del self._loaded[key]

    def is_broken(self, source: Source) -> bool:
        """Whether this very source failed for good before; a changed file is a new source."""
        return source.key in self._broken

    def leave(self, source: Source, why: str) -> None:
        """Do not use `source` again in this process."""
        self._broken[source.key] = why

    def names(self) -> list[str]:
        """The loaded decoders, for people to read."""
        with self._lock:
            return [f"{key[0][0]} on {key[1]}" for key in self._loaded]  # type: ignore[index]
