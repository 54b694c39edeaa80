"""ComfyUI as SideStream sees it: the only folder under `preview/` in which it is imported.

Every difference between ComfyUI versions is dealt with here. Written against 0.3.64 to 0.38. The
modules beside this one are for this one alone: what others use is what is named here.
"""

from __future__ import annotations

from . import server
from .models import leave_settings, leave_vae, left_settings, left_vae
from .server import prompts_of, register, registered, routes

missing: str | None = None
"""The import that this ComfyUI does not allow; not all names below are there then."""

try:
    # What the settings and the report need first: they are for where something is amiss, too.
    from .choices import chosen_method, preview_size
    from .choices import unwatch as unwatch_method
    from .choices import watch as watch_method
    from .formats import (
        decoder_file,
        decoder_name,
        decoder_names,
        is_sound,
        latent_channels,
        misplaced_decoder,
        other_decoder_files,
        picture_scale,
        shows_views,
        video,
    )
    from .installation import author, folders, page_version, precision, sampling_device
    from .previews import (
        LatentPreviewer,
        is_overridden_for_all,
        is_own_function,
        is_own_previewer,
        latent_frame,
        latent_preview,
        overriding_method,
        own_previewer,
        unpacked,
        views_as_batch,
    )
    from .previews import unexpected as unexpected_previews
    from .progress import expect_progress
    from .progress import install as install_progress
    from .progress import uninstall as uninstall_progress
    from .prompts import announced_steps, current_owner, extra_data, preview_switch
    from .sampling import watch_sampling
    from .vaes import vae_copy
    from .wire import Server
except ImportError as error:
    missing = str(error)


class UnknownHost(Exception):
    """This ComfyUI is not built as expected. The message says what is different."""


def check() -> None:
    """Raises UnknownHost where something that SideStream builds on is not there or is different."""
    problem = missing or unexpected_previews() or server.unexpected()
    if problem is not None:
        raise UnknownHost(problem)


def version() -> str:
    """ComfyUI's version."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return __version__
