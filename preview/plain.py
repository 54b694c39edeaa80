"""Text from outside, made safe for consoles, files, JSON and the report.

File names, error messages and data from clients may be megabytes long, and may contain line breaks
that forge log lines, or characters that a console cannot print or that are not valid Unicode.
"""

from __future__ import annotations

from pathlib import Path

LONGEST = 200
"""The most characters of a message from outside."""

NAME = 80
"""The most characters of a name within a message."""


def plain(text: object, longest: int = LONGEST) -> str:
    """`text` as one line of printable ASCII, at most `longest` characters, for the log.

    Other characters are escaped as in Python: if a console cannot print one, the whole line is
    lost. The work is bounded by `longest`, not by the text's length. Never raises.
    """
    return _cut(escaped(one_line(text, longest)), longest)


def one_line(text: object, longest: int = LONGEST) -> str:
    """As `plain`, but with printable Unicode instead of ASCII."""
    try:
        said = str(text)
    except Exception as error:  # an object of another pack's
        said = f"<{type(error).__name__}>"
    # As blanks are merged, more than `longest` is considered, but not all of what may be megabytes.
    words = " ".join(said[: 4 * longest].split())[: longest + 1]
    shown = (char if char.isprintable() else ascii(char)[1:-1] for char in words)
    return _cut("".join(shown), longest)


def _cut(line: str, longest: int) -> str:
    return line if len(line) <= longest else line[: longest - 3] + "..."


def escaped(text: str) -> str:
    """`text` in ASCII, with other characters escaped as in Python."""
    return text.encode("ascii", "backslashreplace").decode()


def encodable(text: str) -> str:
    """`text` without what UTF-8 cannot encode: file names may contain arbitrary bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class PlainError(Exception):
    """An error whose message is a single short line, whatever text it is made from."""

    def __init__(self, message: str) -> None:
        super().__init__(plain(message))


def file_name(path: str) -> str:
    """The name of the file at `path`, for a message."""
    return plain(Path(path).name, NAME)


def in_a_line(error: BaseException) -> str:
    """What went wrong, as a single short line for the log."""
    if isinstance(error, PlainError):
        return str(error)
    # CUDA's errors continue with advice for programmers.
    first = plain(_first_line(error))
    return plain(f"{type(error).__name__}: {first}" if first else type(error).__name__)


def _first_line(error: BaseException) -> str:
    try:
        said = str(error)
    except Exception:  # another pack's exception class
        return ""
    return said.lstrip()[:4000].partition("\n")[0]
