"""What fails in a decoder, and how to say it."""

from __future__ import annotations

from pathlib import Path

from ..plain import NAME, plain


class DecoderError(Exception):
    """A decoder cannot be loaded. The message names the file and says what is wrong with it.

    It is one line, and short, whatever it is made of.
    """

    lasting = True
    """Whether it would fail again."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def file_name(path: str) -> str:
    """How to call the file at `path` in a message: by its name alone."""
    return plain(Path(path).name, NAME)


def in_a_line(error: BaseException) -> str:
    """What went wrong, for a line of the log: one line, and short."""
    if isinstance(error, DecoderError):
        return str(error)
    # CUDA's errors go on with advice to programmers.
    first = plain(_first_line(error))
    return plain(f"{type(error).__name__}: {first}" if first else type(error).__name__)


def _first_line(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:  # of another pack's making
        return ""
    return said.lstrip()[:4000].partition("\n")[0]
