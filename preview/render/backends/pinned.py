"""Pinned CPU memory, into which a GPU can copy directly, reused from frame to frame."""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

import torch

from ...plain import in_a_line
from .device import StreamDevice

log = logging.getLogger(__name__)


class PinnedMemory:
    """A few buffers by shape and dtype. A buffer's content is valid until it is requested again."""

    KEPT = 8

    def __init__(self, streams: StreamDevice, *used_by: Any) -> None:
        """`used_by` are the streams that copy into the buffers."""
        self._streams = streams
        self._used_by = used_by
        self._buffers: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self._refused = self._said = False
        never_free_of_a_lost_device(self, self._buffers, *used_by)

    def get(self, shape: torch.Size, dtype: torch.dtype, nth: int = 0) -> torch.Tensor | None:
        """The `nth` buffer of this kind; None if no memory can be pinned, which is logged once.

        Then it is not tried again until `release`.
        """
        if self._refused:
            return None
        key = (shape, dtype, nth)
        buffer = self._buffers.get(key)
        if buffer is None:
            try:
                buffer = self._buffers[key] = self._streams.pinned(shape, dtype)
            except Exception as error:
                self._refused = True
                if not self._said:
                    self._said = True
                    log.warning(
                        "[SideStream] Memory cannot be pinned (%s); previews are copied through"
                        " ordinary memory.",
                        in_a_line(error),
                    )
                return None
            if len(self._buffers) > self.KEPT and not is_lost(*self._used_by):
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(key)
        return buffer

    def release(self) -> None:
        """Free the buffers."""
        self._refused = False
        if not is_lost(*self._used_by):
            self._buffers.clear()


def is_lost(*streams: Any) -> bool:
    """Whether a device has failed for good, for example by a kernel's assertion. Never waits."""
    try:
        for stream in streams:
            stream.query()
    except RuntimeError:
        return True
    return False


def never_free_of_a_lost_device(owner: object, memory: object, *streams: Any) -> None:
    """Let `memory` outlive `owner`, and Python itself, if the device of a stream is lost.

    torch aborts the whole process when pinned memory of a lost device is freed. This way, the
    sampler can report the error, and ComfyUI continues to respond.
    """

    def keep() -> None:
        if is_lost(*streams):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(memory))

    weakref.finalize(owner, keep)
