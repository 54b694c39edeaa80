"""What fails in a decoder."""

from __future__ import annotations

from ..plain import PlainError


class DecoderError(PlainError):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it."""

    lasting = True
    """Whether it would fail again."""
