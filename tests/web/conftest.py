"""The panel in the real page: two versions of it, each with classic nodes and with Nodes 2.0.

What does not depend on the page is tested on one kind alone, the newest as it is installed. One
browser and one page for each kind serve all tests; `panel` hands it out tidied up, and fails the
test where the pack wrote an error or a warning to the console.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from playwright.sync_api import expect
from sidestream.tools.page import PanelPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

    from ..conftest import HostFactory

FOLDER = Path(__file__).parent
OLDEST, NEWEST = "1.32.9", "1.58.1"
ALL_KINDS = tuple(f"{version} {nodes}" for version in (OLDEST, NEWEST) for nodes in ("classic", "vue"))
FAR_APART = (ALL_KINDS[0], ALL_KINDS[-1])
USUAL = f"{NEWEST} classic"
NEWEST_KINDS = ALL_KINDS[2:]

on_all_kinds = pytest.mark.kinds(*ALL_KINDS)
on_the_oldest_and_the_newest = pytest.mark.kinds(*FAR_APART)

# What a page has drawn is waited for as long as a busy machine may take.
expect.set_options(timeout=20_000)

SIZE: Any = {"width": 1400, "height": 900}

# What the page says by itself about the pack's nodes when it finds no internet.
NOT_OURS = ("api.comfy.org", "comfyregistry", "Failed to load resource")

COUNT_ADDRESSES = """
(() => {
  const alive = (globalThis.ownObjectURLs = new Set());
  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (object) => {
    const address = createObjectURL.call(URL, object);
    const [, , caller] = new Error().stack.split("\\n"); // the pack's part in the page's own events is further down
    if (caller.includes("SideStream")) alive.add(address);
    return address;
  };
  URL.revokeObjectURL = (address) => {
    alive.delete(address);
    revokeObjectURL.call(URL, address);
  };
})();
"""

# Without a GPU, the page's own transitions and pulsing lights cost a fifth of the tests' time.
STAND_STILL = """
addEventListener("DOMContentLoaded", () => {
  const still = new CSSStyleSheet();
  const own = ":is([class^=ss-], [class*=' ss-'], [class*=sidestream])";
  still.replaceSync(`:not(${own}) { animation: none !important; transition: none !important; }`);
  document.adoptedStyleSheets.push(still);
});
"""

DIALOGS = ":is([role=dialog][data-state=open], .p-dialog)"

IN_SUBGRAPH = "() => app.canvas.graph !== (app.rootGraph ?? app.graph)"
"""There 1.32.9 stays when another workflow is loaded, and shows nothing of it."""
TIDY = """
() => {
  const { liveSettings, watching, store } = sidestream;
  if (liveSettings.paused) liveSettings.togglePause();
  store.end((run) => run.promptId.length < 4); // made-up ones do not end by themselves
  store.silence = null;
  watching.compare(false);
  watching.showStills(false);
  watching.follow();
  store.clear();
  for (const name of ["details", "curves"]) localStorage.removeItem(`SideStream.${name}`);
}
"""
IDLE = """
async () => {
  const { liveSettings, store } = sidestream;
  const get = async (route) => (await app.api.fetchApi(route)).json();
  const { queue_running: running, queue_pending: pending } = await get("/queue");
  if (running.length + pending.length > 0) { // again and again: one that is about to begin is not interrupted
    await app.api.fetchApi("/queue", { method: "POST", body: '{"clear":true}' });
    await app.api.interrupt();
    return false;
  }
  // A last frame may come until its run is closed, and a change be stored until it is answered.
  const { runs, paused } = await get(`/sidestream/client?client_id=${encodeURIComponent(app.api.clientId)}`);
  const isStill = !runs.length && !store.live && !Object.keys(liveSettings.changes).length;
  return isStill && !paused && !liveSettings.paused;
}
"""
RESET = """
async () => {
  const { archive, settings } = sidestream;
  for (const [name, field] of Object.entries(settings.fields)) {
    if (settings.get(name) !== field.default) await settings.set(name, field.default);
  }
  await archive.forgetAll(); // and what a reload would bring back
}
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of a page on the usual kind, or on those that they or their modules say."""
    if "opened" in metafunc.fixturenames:
        marked = metafunc.definition.get_closest_marker("kinds")
        kinds = marked.args if marked else (USUAL,)
        metafunc.parametrize("opened", kinds, indirect=True, scope="package")


@dataclass
class Opened:
    """An open page and what its console said about the pack."""

    kind: str
    panel: PanelPage
    problems: list[str] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes a page one of that kind."""
        return {"Comfy.VueNodes.Enabled": self.kind.endswith("vue")}

    def listen(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))

    def _on_console(self, said: ConsoleMessage) -> None:
        text = f"{said.text} ({said.location.get('url')})"
        about_us = "sidestream" in text.lower() and not any(part in text for part in NOT_OURS)
        if said.type in ("error", "warning") and about_us:
            self.problems.append(f"{said.type}: {text}")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of this folder: others need the thread's event loop."""
    from sidestream.tools.browser import CHROMIUM_ARGUMENTS, find_chromium

    if importlib.util.find_spec("playwright") is None:
        _missing("playwright is not installed")
    chromium = find_chromium()
    if chromium is None:
        _missing("no Chromium or Chrome is installed")
    from playwright.sync_api import sync_playwright

    arguments = [*CHROMIUM_ARGUMENTS, "--js-flags=--expose-gc"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=str(chromium), headless=True, args=arguments
        )
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def address_of(comfy_host: HostFactory) -> Callable[[str], str]:
    """Call it with a page's version for the address of a ComfyUI that serves this page."""
    from sidestream.tools.environment import SetupError
    from sidestream.tools.frontends import get_frontend

    def start(version: str) -> str:
        if version == OLDEST:
            return comfy_host().url
        try:
            folder = get_frontend(comfy_host.host.environment(), version)
        except SetupError as error:
            _missing(f"no ComfyUI page {version}: {error}")
        return comfy_host("--front-end-root", str(folder)).url

    return start


def open_page(browser: Browser, url: str, kind: str, path: str = "/", **settings: Any) -> Opened:
    """A page of that kind in a context of its own."""
    context = browser.new_context(viewport=SIZE, accept_downloads=True)
    context.add_init_script(COUNT_ADDRESSES)
    context.add_init_script(STAND_STILL)
    context.add_init_script("localStorage.setItem('SideStream.hint', 'known')")
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.set_default_navigation_timeout(60_000)
    opened = Opened(kind, PanelPage(page, url))
    opened.listen(page)
    opened.panel.open({**opened.settings, **settings}, path)
    return opened


@pytest.fixture
def open_kind(
    request: pytest.FixtureRequest, browser: Browser, address_of: Callable[[str], str]
) -> Iterator[Callable[..., Opened]]:
    """Call it with a kind (and settings, or a server's address) for a page of the test's own."""
    pages: list[Opened] = []

    def start(
        kind: str, settings: dict[str, Any] | None = None, path: str = "/", url: str | None = None
    ) -> Opened:
        address = url or address_of(kind.split()[0])
        pages.append(open_page(browser, address, kind, path, **(settings or {})))
        return pages[-1]

    yield start
    for one in pages:
        one.panel.page.context.close()
    if "opened" in request.fixturenames:
        shared: Opened = request.getfixturevalue("opened")
        shared.panel.store(shared.settings)  # as a reload of the shared page expects them


@pytest.fixture(scope="package")
def opened(
    request: pytest.FixtureRequest, browser: Browser, address_of: Callable[[str], str]
) -> Iterator[Opened]:
    """One page of each kind, for all tests in a row that need it."""
    version = request.param.split()[0]
    one = open_page(browser, address_of(version), request.param)
    yield one
    one.panel.page.context.close()


@pytest.fixture
def panel(
    request: pytest.FixtureRequest, opened: Opened, browser: Browser
) -> Iterator[PanelPage]:
    """The page, idle, with the panel closed and nothing kept; a new one after a test that failed."""
    failed = request.session.testsfailed
    page = opened.panel
    _tidy(page)
    opened.problems.clear()
    yield page
    problems = [*opened.problems]
    if problems or request.session.testsfailed > failed:
        page.page.context.close()
        again = open_page(browser, page.url, opened.kind)
        opened.panel, opened.problems = again.panel, again.problems
    assert problems == []


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def _tidy(panel: PanelPage) -> None:
    panel.page.unroute_all()  # while one is left, windows that the page opens load nothing
    dialog = panel.page.locator(DIALOGS).count()  # it may have come after the test's end
    if dialog or panel.page.evaluate(IN_SUBGRAPH):
        panel.page.reload()
        panel.wait_until_ready()
    panel.page.mouse.move(SIZE["width"] - 1, SIZE["height"] / 2)  # where nothing is
    panel.page.evaluate(TIDY)
    panel.wait(IDLE)
    panel.close_panel()
    panel.page.evaluate(RESET)
