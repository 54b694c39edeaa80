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
    """`text` as one line of printable ASCII, at most `longest` characters.

    Other characters are written as Python escapes them, since a console that cannot print one
    costs the whole line. Work is bounded by `longest`, not by the text. Never raises.
    """
    try:
        said = str(text)
    except Exception as error:  # an object of another pack's
        said = f"<{type(error).__name__}>"
    # Blanks collapse and escapes grow: a few times as much as fits is enough to look at.
    words = " ".join(said[: 4 * longest].split())
    line = "".join(
        char if char.isprintable() else ascii(char)[1:-1] for char in words[: longest + 1]
    )
    line = line.encode("ascii", "backslashreplace").decode("ascii")
    return line if len(line) <= longest else line[: longest - 3] + "..."


def encodable(text: str) -> str:
    """`text` without what UTF-8 cannot write: names of files may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
