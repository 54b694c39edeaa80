"""Stand-ins for other packs: one for each way in which packs touch ComfyUI's previews.

Each installs itself as such a pack does when it is loaded, and notes what it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import pytest
    from sidestream.tests.stage import Stage

PICTURE = ("JPEG", Image.new("RGB", (8, 8), "red"), 512)


class Neighbour:
    """A pack beside SideStream. Its name is what its functions have as their module."""

    def __init__(self, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stage = stage
        self.asked = 0
        """How often one of its previewers, or its hook, was called."""
        self._patch = monkeypatch
        self.load()

    def load(self) -> None:
        raise NotImplementedError

    def replace(self, name: str, value: Callable[..., Any], module: str = "latent_preview") -> None:
        """Put `value` where `name` was, until the end of the test; dots lead into classes."""
        where = self.stage.comfy(module)
        *parents, last = name.split(".")
        for parent in parents:
            where = getattr(where, parent)
        value.__module__ = f"neighbour.{type(self).__name__}"
        self._patch.setattr(where, last, value)


class Wraps(Neighbour):
    """Wraps whatever previewer there is, as packs with sounds, sizes or recordings of their own."""

    def load(self) -> None:
        beneath = self.stage.comfy.latent_preview.get_previewer
        asked = self._asked

        def get_previewer(*args: Any, **kwargs: Any) -> Any:
            inner = beneath(*args, **kwargs)
            return None if inner is None else Around(inner, asked)

        self.replace("get_previewer", get_previewer)

    def _asked(self) -> None:
        self.asked += 1


class Around:
    def __init__(self, inner: Any, asked: Callable[[], None]) -> None:
        self.inner = inner
        self.asked = asked

    def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> Any:
        self.asked()
        return self.inner.decode_latent_to_preview_image(preview_format, x0)


class Replaces(Neighbour):
    """Gives a previewer of its own to everybody and forgets the function that was there."""

    def load(self) -> None:
        neighbour = self
        base = self.stage.comfy.latent_preview.LatentPreviewer

        class Own(base):  # type: ignore[misc]
            def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> Any:
                neighbour.asked += 1
                return PICTURE

        self.replace("get_previewer", lambda device, latent_format: Own())


class TakesApart(Neighbour):
    """Gives a previewer of its own that decodes with the parts of the one it found.

    As packs with animated previews do; it sends them by events of its own.
    """

    def load(self) -> None:
        neighbour, module = self, self.stage.comfy.latent_preview
        beneath, base = module.get_previewer, module.LatentPreviewer

        class Animated(base):  # type: ignore[misc]
            def __init__(self, found: Any) -> None:
                if hasattr(found, "taesd"):
                    self.taesd = found.taesd
                else:
                    self.factors = found.latent_rgb_factors
                    self.bias = found.latent_rgb_factors_bias

            def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> Any:
                neighbour.asked += 1
                server = neighbour.stage.server
                server.send_sync("animated_preview", {"picture": "..."}, server.client_id)

        def get_previewer(*args: Any, **kwargs: Any) -> Any:
            found = beneath(*args, **kwargs)
            return None if found is None else Animated(found)

        self.replace("get_previewer", get_previewer)


class OverridesEverybody(Neighbour):
    """Overrides a method of the class that all previewers derive from."""

    def load(self) -> None:
        neighbour = self
        beneath = self.stage.comfy.latent_preview.LatentPreviewer.decode_latent_to_preview_image

        def decode_latent_to_preview_image(previewer: Any, preview_format: str, x0: Any) -> Any:
            neighbour.asked += 1
            return beneath(previewer, preview_format, x0)

        self.replace(
            "LatentPreviewer.decode_latent_to_preview_image", decode_latent_to_preview_image
        )


class PatchesProgressBar(Neighbour):
    """Looks at everything that goes through ComfyUI's progress bar."""

    def load(self) -> None:
        neighbour = self
        beneath = self.stage.comfy("comfy.utils").ProgressBar.update_absolute

        def update_absolute(bar: Any, value: int, total: Any = None, preview: Any = None) -> None:
            neighbour.asked += 1
            if preview is not None:
                _, picture, _ = preview
                assert picture.size
            beneath(bar, value, total, preview)

        self.replace("ProgressBar.update_absolute", update_absolute, "comfy.utils")


class ReplacesProgressBar(Neighbour):
    """Puts a progress bar of its own in the place of ComfyUI's."""

    def load(self) -> None:
        neighbour = self
        base = self.stage.comfy("comfy.utils").ProgressBar

        class Own(base):  # type: ignore[misc]
            def update_absolute(self, value: int, total: Any = None, preview: Any = None) -> None:
                neighbour.asked += 1
                super().update_absolute(value, total, preview)

        self.replace("ProgressBar", Own, "comfy.utils")


class SendsItsOwn(Neighbour):
    """Sends pictures of its own at every step, past all previewers."""

    def load(self) -> None:
        neighbour = self
        kind = self.stage.comfy.protocol.BinaryEventTypes.UNENCODED_PREVIEW_IMAGE
        beneath = self.stage.comfy.latent_preview.prepare_callback

        def prepare_callback(*args: Any, **kwargs: Any) -> Any:
            callback = beneath(*args, **kwargs)

            def sends(step: int, x0: Any, x: Any, total_steps: int) -> Any:
                neighbour.asked += 1
                server = neighbour.stage.server
                server.send_sync(kind, PICTURE, server.client_id)
                return callback(step, x0, x, total_steps)

            return sends

        self.replace("prepare_callback", prepare_callback)


class ChangesTheMethod(Neighbour):
    """Sets ComfyUI's preview method, as a pack with a menu does, here in the midst of a run."""

    method = "none"

    def load(self) -> None:
        neighbour = self
        module = self.stage.comfy.latent_preview
        beneath = module.prepare_callback

        def prepare_callback(*args: Any, **kwargs: Any) -> Any:
            callback = beneath(*args, **kwargs)

            def changes(step: int, x0: Any, x: Any, total_steps: int) -> Any:
                neighbour.asked += 1
                if step == 1:
                    module.args.preview_method = module.LatentPreviewMethod(neighbour.method)
                return callback(step, x0, x, total_steps)

            return changes

        self.replace("prepare_callback", prepare_callback)
