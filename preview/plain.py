"""Texts from outside, made fit for every place that shows them: consoles, files, JSON, the report.

A file's name, an error's message and what a client sent may be megabytes long, may hold line ends
that forge lines of a log, and characters that a console cannot print or that are no Unicode at all.
"""

from __future__ import annotations

from pathlib import Path

LONGEST = 200
"""Characters of a message from outside."""

NAME = 80
"""Characters of a name within a message."""


def plain(text: object, longest: int = LONGEST) -> str:
    """`text` as one line of printable ASCII, at most `longest` characters: for the log.

    Other characters are written as Python escapes them, since a console that cannot print one
    costs the whole line. Work is bounded by `longest`, not by the text. Never raises.
    """
    return _cut(one_line(text, longest).encode("ascii", "backslashreplace").decode(), longest)


def one_line(text: object, longest: int = LONGEST) -> str:
    """`text` as one line of printable Unicode, at most `longest` characters, else as `plain`."""
    try:
        said = str(text)
    except Exception as error:  # an object of another pack's
        said = f"<{type(error).__name__}>"
    # Blanks become one, so that more than fits is looked at; but not all of what may be megabytes.
    words = " ".join(said[: 4 * longest].split())[: longest + 1]
    shown = (char if char.isprintable() else ascii(char)[1:-1] for char in words)
    return _cut("".join(shown), longest)


def _cut(line: str, longest: int) -> str:
    return line if len(line) <= longest else line[: longest - 3] + "..."


def encodable(text: str) -> str:
    """`text` without what UTF-8 cannot write: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class PlainError(Exception):
    """An error whose message is one line, and short, whatever it is made of."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def file_name(path: str) -> str:
    """How to call the file at `path` in a message: by its name alone."""
    return plain(Path(path).name, NAME)


def in_a_line(error: BaseException) -> str:
    """What went wrong, for a line of the log: one line, and short."""
    if isinstance(error, PlainError):
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
