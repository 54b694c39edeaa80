"""ComfyUI-SideStream: live latent previews that don't slow the sampler."""

WEB_DIRECTORY = "./web"

if __package__:  # loaded by ComfyUI, not collected by a tool that imports every __init__.py
    from .nodes import comfy_entrypoint as comfy_entrypoint
    from .preview import pack as _pack

    _pack.start()
