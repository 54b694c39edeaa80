"""ComfyUI as SideStream sees it: the only folder under `preview/` that imports it.

All differences between ComfyUI versions (0.3.64 to 0.38) are handled here. Other code imports this
package and uses its modules.
"""

from __future__ import annotations

try:
    # What the routes, the settings and the report need comes first: they work even if something
    # else is missing.
    from . import installation, models, server

    missing: str | None = None
    """The import that failed in this ComfyUI; if there is one, some modules here are missing."""

    from . import prompts, sampling
    from .unmade import Unmade as Unmade
except ImportError as error:
    missing = str(error)


class UnknownHost(Exception):
    """This ComfyUI is incompatible. The message says why."""


def check() -> None:
    """Raise UnknownHost if something that SideStream relies on is missing or different."""
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
