"""ComfyUI as SideStream sees it: the only folder under `preview/` in which it is imported.

Every difference between ComfyUI versions is dealt with here. Written against 0.3.64 to 0.38. Others
import this package and ask its modules.
"""

from __future__ import annotations

try:
    # First what the routes, the settings and the report need: they are for where something is
    # missing, too.
    from . import installation, models, server

    missing: str | None = None
    """The import that this ComfyUI does not allow; not all modules here are there then."""

    from . import finishing, guides, prompts, sampling
except ImportError as error:
    missing = str(error)


class UnknownHost(Exception):
    """This ComfyUI is not built as expected. The message says what is different."""


def check() -> None:
    """Raises UnknownHost where something that SideStream builds on is not there or is different."""
    problem = missing or sampling.unexpected_previews() or server.unexpected_server()
    if problem is not None:
        raise UnknownHost(problem)


def version() -> str:
    """ComfyUI's version."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return __version__
