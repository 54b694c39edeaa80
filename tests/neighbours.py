"""Stand-ins for other packs: one for each way in which packs touch ComfyUI's previews.

Each installs itself as such a pack does when it is loaded, and notes what it was asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    import pytest
    from sidestream.tests.stage import Stage

PICTURE = ("JPEG", Image.new("RGB", (8, 8), "red"), 512)


class Neighbour:
    """A pack beside SideStream."""

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
        self._patch.setattr(where, last, value)


class Wraps(Neighbour):
    """Wraps whatever previewer there is, as packs with sounds, sizes or recordings of their own."""

    def load(self) -> None:
        original = self.stage.comfy.latent_preview.get_previewer
        asked = self._asked

        def get_previewer(*args: Any, **kwargs: Any) -> Any:
            inner = original(*args, **kwargs)
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


class Hooks(Neighbour):
    """Gives animated previews where its switch is on, by a hook that bears ComfyUI's names.

    As VideoHelperSuite does: `functools.update_wrapper` copies `__module__` and `__name__`.
    """

    switched_on = True

    def load(self) -> None:
        neighbour, module = self, self.stage.comfy.latent_preview
        base = module.LatentPreviewer

        class Animated(base):  # type: ignore[misc]
            def __init__(self, found: Any) -> None:
                if hasattr(found, "taesd"):
                    self.taesd = found.taesd
                else:
                    self.latent_rgb_factors = found.latent_rgb_factors
                    self.latent_rgb_factors_bias = found.latent_rgb_factors_bias

            def decode_latent_to_preview_image(self, preview_format: str, x0: Any) -> Any:
                neighbour.asked += 1
                server = neighbour.stage.server
                server.send_sync("animated_preview", {"picture": "..."}, server.client_id)

        def get_animated_previewer(device: Any, latent_format: Any) -> Any:
            found = hook.__wrapped__(device, latent_format)  # type: ignore[attr-defined]
            if not neighbour.switched_on or not hasattr(found, "decode_latent_to_preview"):
                return found
            return Animated(found)

        hook = functools.update_wrapper(get_animated_previewer, module.get_previewer)
        self.replace("get_previewer", hook)


class SwitchedOff(Hooks):
    """The same, switched off: it passes on what it finds."""

    switched_on = False


class TakesApart(Neighbour):
    """Gives a previewer of its own that decodes with the parts of the one it found.

    As packs with animated previews do; it sends them by events of its own.
    """

    def load(self) -> None:
        neighbour, module = self, self.stage.comfy.latent_preview
        original, base = module.get_previewer, module.LatentPreviewer

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
            found = original(*args, **kwargs)
            return None if found is None else Animated(found)

        self.replace("get_previewer", get_previewer)


class OverridesEverybody(Neighbour):
    """Overrides a method of the class that all previewers derive from."""

    def load(self) -> None:
        neighbour = self
        original = self.stage.comfy.latent_preview.LatentPreviewer.decode_latent_to_preview_image

        def decode_latent_to_preview_image(previewer: Any, preview_format: str, x0: Any) -> Any:
            neighbour.asked += 1
            return original(previewer, preview_format, x0)

        self.replace(
            "LatentPreviewer.decode_latent_to_preview_image", decode_latent_to_preview_image
        )


class Suppresses(Neighbour):
    """Shows pictures of its own while a model of its samples, and silences all previewers then.

    As KJNodes' Model Preview Override does, for which it patches each class of previewers.
    """

    def load(self) -> None:
        self.base = self.stage.comfy.latent_preview.LatentPreviewer

    def model(self, model: Any) -> Any:
        """What its node makes of `model`."""
        model = model.clone()
        kind = self.stage.comfy("comfy.patcher_extension").WrappersMP.OUTER_SAMPLE
        model.add_wrapper_with_key(kind, "preview_override", self._sample)
        return model

    def _sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        name = "decode_latent_to_preview_image"
        silenced = [kind for kind in _subclasses(self.base) if name in vars(kind)]
        before = [vars(kind)[name] for kind in silenced]
        for kind in silenced:
            setattr(kind, name, _no_picture)
        self.asked += 1
        try:
            return executor(*args, **kwargs)
        finally:
            for kind, method in zip(silenced, before, strict=True):
                setattr(kind, name, method)


def _subclasses(kind: type) -> list[type]:
    return [kind, *(each for sub in kind.__subclasses__() for each in _subclasses(sub))]


def _no_picture(previewer: Any, preview_format: str, x0: Any) -> None:
    """In the place of a previewer's method."""


class HasAMenu(Neighbour):
    """Has a node whose menu sets ComfyUI's preview method while it samples, as Efficiency Nodes.

    What that puts back in the end is compared as text, and so always none.
    """

    def load(self) -> None:
        pass

    def run_node(self, method: str, sample: Callable[[], Any]) -> None:
        """Its node, inside of ComfyUI's execution of it."""
        before = self._args.preview_method
        self._set(method)
        try:
            sample()
        finally:
            self._set(before)

    @property
    def _args(self) -> Any:
        return self.stage.comfy("comfy.cli_args").args

    def _set(self, method: Any) -> None:
        kind = self.stage.comfy("comfy.cli_args").LatentPreviewMethod
        known = {m.value: m for m in kind} | {str(m): m for m in kind}
        self._args.preview_method = next(
            (value for text, value in known.items() if method == text), kind.NoPreviews
        )


class PatchesProgressBar(Neighbour):
    """Looks at everything that goes through ComfyUI's progress bar."""

    def load(self) -> None:
        neighbour = self
        original = self.stage.comfy("comfy.utils").ProgressBar.update_absolute

        def update_absolute(bar: Any, value: int, total: Any = None, preview: Any = None) -> None:
            neighbour.asked += 1
            if preview is not None:
                _, picture, _ = preview
                assert picture.size
            original(bar, value, total, preview)

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
        original = self.stage.comfy.latent_preview.prepare_callback

        def prepare_callback(*args: Any, **kwargs: Any) -> Any:
            callback = original(*args, **kwargs)

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
        original = module.prepare_callback

        def prepare_callback(*args: Any, **kwargs: Any) -> Any:
            callback = original(*args, **kwargs)

            def changes(step: int, x0: Any, x: Any, total_steps: int) -> Any:
                neighbour.asked += 1
                if step == 1:
                    module.args.preview_method = module.LatentPreviewMethod(neighbour.method)
                return callback(step, x0, x, total_steps)

            return changes

        self.replace("prepare_callback", prepare_callback)
