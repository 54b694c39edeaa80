"""ComfyUI as SideStream sees it: the only folder under `preview/` in which it is imported.

Every difference between ComfyUI versions is dealt with here. Written against 0.3.64 to 0.38. The
modules beside this one are for this one alone: what others use is what is named here.
"""

from __future__ import annotations

try:
    # First what the routes, the settings and the report need: they are for where something is
    # amiss, too.
    from .installation import (
        author,
        chosen_method,
        folders,
        page_version,
        precision,
        preview_size,
        sampling_device,
        unwatch_method,
        watch_method,
    )
    from .models import (
        decoder_file,
        decoder_name,
        decoder_names,
        is_sound,
        latent_channels,
        leave_settings,
        leave_vae,
        left_settings,
        left_vae,
        misplaced_decoder,
        other_decoder_files,
        picture_scale,
        shows_views,
        vae_copy,
        video,
    )
    from .server import Server, prompts_of, register, registered, routes, unexpected_server

    missing: str | None = None
    """The import that this ComfyUI does not allow; not all names below are there then."""

    from .prompts import (
        announced_steps,
        current_context,
        expect_progress,
        extra_data,
        install_progress,
        preview_switch,
        uninstall_progress,
    )
    from .sampling import (
        LatentPreviewer,
        is_overridden_for_all,
        is_own_function,
        is_own_previewer,
        latent_frame,
        latent_preview,
        overriding_method,
        own_previewer,
        unexpected_previews,
        unpacked,
        views_as_batch,
        watch_sampling,
    )
except ImportError as error:
    missing = str(error)


class UnknownHost(Exception):
    """This ComfyUI is not built as expected. The message says what is different."""


def check() -> None:
    """Raises UnknownHost where something that SideStream builds on is not there or is different."""
    problem = missing or unexpected_previews() or unexpected_server()
    if problem is not None:
        raise UnknownHost(problem)


def version() -> str:
    """ComfyUI's version."""
    try:
        from comfyui_version import __version__
    except ImportError:
        return "unknown"
    return __version__
