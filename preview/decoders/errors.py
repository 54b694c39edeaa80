"""Errors of decoders."""

from __future__ import annotations

from ..plain import PlainError


class DecoderError(PlainError):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it."""

    lasting = True
    """Whether loading it again would fail, too."""
