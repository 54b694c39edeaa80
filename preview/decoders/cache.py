"""Loaded decoders, kept from one run to the next."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch

from ..plain import NAME, plain
from .protocols import DecoderError, DirectDecoder, Loads, Source, T


class DecoderCache:
    """Loaded decoders by source, device and dtype; the least recently used is dropped first.

    A decoder that is not light stays on a device while somebody holds one of its sources (as the
    run that shows it does), or until another is asked for there: the next run may need it again.
    """

    LIMIT = 4

    REMEMBERED = 100
    """Broken sources. A changed file is a new source."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[Hashable, Any] = OrderedDict()
        self._holders: dict[Hashable, list[weakref.ref[Loads[Any]]]] = {}
        """The sources through which each decoder that is not light was requested."""
        self._broken: OrderedDict[Hashable, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, source: Loads[T], device: torch.device) -> T:
        """The decoder of `source` on `device`, loaded at the first call. Raises DecoderError.

        One that failed for good is not loaded again, but a changed file is a new source.
        """
        broken = self._broken.get(source.key)
        if broken is not None:
            raise DecoderError(broken)
        key = (source.key, device, source.dtype(device))
        with self._lock:
            decoder: T | None = self._loaded.get(key)
            if decoder is not None:
                self._loaded.move_to_end(key)
                self._hold(key, source)
            self._drop_unheld(device, but=key)
        if decoder is not None:
            return decoder
        try:
            decoder = source.load(device)
        except DecoderError as error:
            if error.lasting:
                self.leave(source, str(error))
            raise
        with self._lock:
            self._loaded[key] = decoder
            self._hold(key, source)
            while len(self._loaded) > self.LIMIT:
                gone, _ = self._loaded.popitem(last=False)
                self._holders.pop(gone, None)
        return decoder

    def _hold(self, key: Hashable, source: Loads[Any]) -> None:
        if self._loaded[key].light:
            return
        # Compared by identity: another run's source equals this one and may be freed earlier.
        holders = [held for held in self._holders.get(key, ()) if held() is not None]
        if not any(held() is source for held in holders):
            holders.append(weakref.ref(source))
        self._holders[key] = holders

    def _drop_unheld(self, device: torch.device, but: Hashable) -> None:
        for key in list(self._holders):
            held = any(source() is not None for source in self._holders[key])
            if key[1] == device and key != but and not held:  # type: ignore[index]
                del self._loaded[key], self._holders[key]

    def leave(self, source: Loads[Any], why: str) -> None:
        """Do not use `source` again in this process."""
        with self._lock:
            self._broken[source.key] = plain(why)
            while len(self._broken) > self.REMEMBERED:
                self._broken.popitem(last=False)

    def rest(self, device: torch.device) -> None:
        """Free what the decoders on `device` keep from one picture to the next."""
        with self._lock:
            for key, decoder in self._loaded.items():
                if key[1] == device and isinstance(decoder, DirectDecoder):  # type: ignore[index]
                    decoder.rest()

    def release(self, device: torch.device) -> None:
        """Drop the decoders on `device` whose weights are too large to stay there unused."""
        with self._lock:
            for key in list(self._holders):
                if key[1] == device:  # type: ignore[index]
                    del self._loaded[key], self._holders[key]

    def is_broken(self, source: Source) -> bool:
        """Whether this source failed for good; a changed file is a new source."""
        return source.key in self._broken

    def broken(self) -> list[str]:
        """Why sources failed to load, for people to read."""
        with self._lock:
            return list(dict.fromkeys(self._broken.values()))

    def names(self) -> list[str]:
        """The loaded decoders, for people to read."""
        with self._lock:
            return [f"{plain(key[0][0], NAME)} on {key[1]}" for key in self._loaded]  # type: ignore[index]
