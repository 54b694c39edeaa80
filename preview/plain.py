"""Texts from outside, made fit for every place that shows them: consoles, files, JSON, the report.

A file's name, an error's message and what a client sent may be megabytes long, may hold line ends
that forge lines of a log, and characters that a console cannot print or that are no Unicode at all.
"""

from __future__ import annotations

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
