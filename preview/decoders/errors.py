"""What fails in a decoder, and how to say it."""

from __future__ import annotations


class DecoderError(Exception):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it."""

    lasting = True
    """Whether it would fail again."""


def in_a_line(error: BaseException) -> str:
    """What went wrong, for a line of the log."""
    if isinstance(error, DecoderError):
        return str(error)
    said = str(error).splitlines()  # CUDA's errors go on with advice to programmers
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__
