"""SideStream's nodes."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .demo_model import SideStreamDemoModel
from .frames import SideStreamFrames
from .preview_settings import SideStreamPreview


class SideStreamExtension(ComfyExtension):
    """The list of nodes for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SideStreamPreview, SideStreamFrames, SideStreamDemoModel]


async def comfy_entrypoint() -> SideStreamExtension:
    """ComfyUI calls this when it loads the pack."""
    return SideStreamExtension()
