"""ComfyUI's page with the panel, driven through Playwright by tests and screenshots."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .local import opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

# As for a returning user: no tutorial, no announcements over the canvas.
QUIET_PAGE: dict[str, Any] = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.30.0",
    "Comfy.Locale": "en",
    "Comfy.ColorPalette": "dark",
    "Comfy.UseNewMenu": "Top",
    "Comfy.Sidebar.Location": "left",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Workflow.Persist": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.VersionCompatibility.DisableWarnings": True,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Queue.History.Expanded": False,
}

PARTS = 'import(new URL("extensions/ComfyUI-SideStream/sidestream.js", document.baseURI).href)'
SECONDS_TO_LOAD = 60.0


def demo_prompt(
    *, steps: int = 20, seconds: float = 0.05, seed: int = 1, samplers: int = 1, **preview: Any
) -> dict[str, Any]:
    """An API prompt: the demo model, 'Side-Stream Preview', and that many KSamplers.

    `preview` are settings for the preview node; `preview=None` omits the node.
    """
    with_node = preview.pop("preview", True) is not None
    prompt: dict[str, Any] = {
        "1": {
            "class_type": "SideStreamDemoModel",
            "inputs": {
                "width": 512, "height": 512, "seconds_per_step": seconds,
                "picture_set": "landmarks", "batch_size": 1,
            },
        },
    }  # fmt: skip
    if with_node:
        settings = {
            "throttle_ms": 0, "every_n_steps": 1, "method": "host", "max_size": 0, "budget": 0,
            "detail": "auto", "device": "auto", "format": "jpeg", "quality": 85, **preview,
        }  # fmt: skip
        prompt["2"] = {"class_type": "SideStreamPreview", "inputs": {"model": ["1", 0], **settings}}
    for number in range(samplers):
        prompt[str(10 + number)] = {
            "class_type": "KSampler",
            "_meta": {"title": f"KSampler {'ABCDEFGH'[number]}"},
            "inputs": {
                "model": ["2" if with_node else "1", 0],
                "positive": ["1", 1], "negative": ["1", 1], "latent_image": ["1", 2],
                "seed": seed + number, "steps": steps, "cfg": 1.0, "sampler_name": "euler",
                "scheduler": "normal", "denoise": 1.0,
            },
        }  # fmt: skip
        prompt[str(20 + number)] = {
            "class_type": "SaveLatent",
            "inputs": {"samples": [str(10 + number), 0], "filename_prefix": "sidestream-test"},
        }
    return prompt


class PanelPage:
    """An open page of a ComfyUI with the pack."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, settings: Mapping[str, Any] | None = None, path: str = "/") -> None:
        """Store `settings` for the user, on top of `QUIET_PAGE`, and load the page."""
        self.store(settings or {})
        self.page.goto(self.url + path, timeout=SECONDS_TO_LOAD * 1000)
        self.wait_until_ready()

    def store(self, settings: Mapping[str, Any]) -> None:
        """Store `settings` on top of `QUIET_PAGE`, for pages that are loaded from now on."""
        stored = json.loads(self._get("/settings"))
        own = {name: None for name in stored if name.startswith("SideStream.")}
        self._post("/settings", {**own, **QUIET_PAGE, **settings})

    def wait_until_ready(self) -> None:
        """Return once the page has set up the pack and the server knows it: what it queues is its own."""
        self.page.wait_for_function(
            "() => globalThis.app?.graph && app.api.clientId && app.extensionManager?.getSidebarTabs?.()"
            ".some(tab => tab.id === 'sidestream') && !document.querySelector('#splash-loader')",
            timeout=SECONDS_TO_LOAD * 1000,
        )
        self.page.evaluate(f"async () => {{ globalThis.sidestream = (await {PARTS}).shared; }}")

    def load(self, prompt: Mapping[str, Any]) -> None:
        """Load an API prompt onto the canvas; the page arranges it."""
        self.page.evaluate("prompt => app.loadApiJson(prompt, 'sidestream demo')", dict(prompt))

    def queue(self) -> None:
        """The same as pressing Run."""
        self.page.evaluate("() => app.queuePrompt(0)")

    def command(self, name: str) -> None:
        """Run one of the page's commands."""
        self.page.evaluate("name => app.extensionManager.command.execute(name)", name)

    def open_panel(self) -> None:
        """Show the sidebar tab."""
        if not self.page.locator(".side-bar-panel .sidestream").count():
            self.command("Workspace.ToggleSidebarTab.sidestream")
        self.page.locator(".side-bar-panel .sidestream").wait_for()

    def close_panel(self) -> None:
        """Hide the sidebar tab."""
        if self.page.locator(".side-bar-panel .sidestream").count():
            self.command("Workspace.ToggleSidebarTab.sidestream")
        self.page.locator(".side-bar-panel .sidestream").wait_for(state="detached")

    def wait(self, condition: str, seconds: float = 30.0, argument: object = None) -> None:
        """Wait for a JavaScript condition, in which `sidestream` has the panel's parts.

        One that raises, since what it looks at is not there yet, is not met.
        """
        if not condition.lstrip().startswith("async"):
            calm = f"one => {{ try {{ return ({condition})(one); }} catch {{ return false; }} }}"
            self.page.wait_for_function(calm, arg=argument, timeout=seconds * 1000)
            return
        # Playwright would consider the promise itself true.
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition, argument):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {condition}")
            self.page.wait_for_timeout(50)

    def wait_frames(self, count: int, seconds: float = 30.0) -> None:
        """Wait until the store has that many frames."""
        self.wait("count => sidestream.store.frameCount >= count", seconds, count)

    def wait_idle(self, seconds: float = 30.0) -> None:
        """Wait until nothing runs."""
        self.wait("() => !sidestream.store.live", seconds)

    def _get(self, path: str) -> bytes:
        with opened(f"{self.url}/api{path}", timeout=10) as response:
            return response.read()

    def _post(self, path: str, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api{path}", data, headers)
        opened(request, timeout=10).close()
