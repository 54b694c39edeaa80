"""Fixtures: the pack under one name, a real ComfyUI beside or inside the tests, a real browser.

The unit tests need none of them: they run without ComfyUI.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

# The tests' processes and the servers that they start share the cores: with more threads each,
# they spend their time waiting for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine may stand still for seconds.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

REPO = Path(__file__).resolve().parent.parent
HOSTPACK = Path(__file__).resolve().parent / "hostpack"
DEVICE = os.environ.get("SIDESTREAM_TEST_DEVICE", "cpu")
"""What ComfyUI samples on, beside the tests and inside them: cpu or cuda."""


def _name_the_pack() -> None:
    """Let tests import `sidestream.preview`, whatever the checkout's folder is called.

    The root `__init__.py` stays unexecuted. The root itself leaves `sys.path`, where it would
    put the pack's `nodes` before ComfyUI's.
    """
    pack = types.ModuleType("sidestream")
    pack.__path__ = [str(REPO)]
    sys.modules["sidestream"] = pack
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != REPO]


_name_the_pack()

from sidestream.tools import server  # noqa: E402
from sidestream.tools.host import Host, installed_host  # noqa: E402
from sidestream.tools.launch import mend_torchvision_when_imported  # noqa: E402
from sidestream.tools.places import (  # noqa: E402
    PACK_NAME,
    keep_bytecode_in_cache,
    remove_base_directory,
)

keep_bytecode_in_cache()

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from sidestream.preview.pack import Pack
    from sidestream.tests.stage import FakeSocket, Stage
    from sidestream.tools.comfy_client import ComfyClient
    from sidestream.tools.server import RunningHost


def missing(what: str) -> NoReturn:
    """Skip the test for want of `what`; in CI, where everything must be there, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} (run `python dev.py test`)", pytrace=False)
    pytest.skip(f"{what} (run `python dev.py test`)")


LONGEST = ("test_host_suite", "test_benchmarks", "test_soak", "test_clients")
"""Modules with tests that take a minute: they begin early, and the others run beside them."""
ONE_SERVER = (
    *("test_end_to_end", "test_last_step", "test_video_end_to_end", "test_sound_end_to_end"),
    "test_frames_node",
)
"""Modules that use the same server."""
WITH_BROWSER = ("test_browser", "test_example_workflows", "test_help", "test_inert")
"""Modules beside tests/web that open the page."""


def _group(nodeid: str) -> str:
    """Which tests belong together: those of a module, or of all modules with one server.

    One browser at a time: it draws by the CPU, and two would stop each other.
    """
    file = nodeid.partition("::")[0]
    module = Path(file).stem
    if "web" in Path(file).parts or module in WITH_BROWSER:
        return "page"
    return "helpers" if module in ONE_SERVER else module


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run side by side, begin with those that take longest."""
    if hasattr(config, "workerinput"):
        first = ("page", *LONGEST)
        order = {group: at for at, group in enumerate(first)}
        items.sort(key=lambda item: order.get(_group(item.nodeid), len(first)))


class GroupScheduling(LoadScopeScheduling):
    """Gives each group of tests to one worker. (`--dist loadgroup` does not with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    return GroupScheduling(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _cuda_is_there():
        pytest.skip("no CUDA device")


def _cuda_is_there() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


# ComfyUI beside the tests: a process of its own

HELPERS = ("clock", "probe", "samplers", "sound", "video")
"""Entries of tests/hostpack that do not disturb each other: one server serves all who need any."""


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test gets the same ones wherever it runs, so that rounding cannot fail it now and then."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def host() -> Host:
    """The ComfyUI that the other fixtures use."""
    found = installed_host()
    return found if found is not None else missing("no ComfyUI is installed")


@dataclass
class HostFactory:
    """Starts ComfyUI servers, one for each way of starting it, and stops them all in the end."""

    host: Host
    folder: Path
    started: dict[Any, RunningHost] = field(default_factory=dict)

    def __call__(
        self,
        *arguments: str,
        pack: bool = True,
        hostpack: tuple[str, ...] = HELPERS,
        early: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> RunningHost:
        """Return a ready server, shared with other tests that ask for the same one.

        `arguments` go to ComfyUI. `hostpack` names entries of tests/hostpack to load as custom
        nodes in no particular order, `early` ones to load before the pack. A `fresh` server is
        nobody else's, and may be stopped.
        """
        key = (arguments, pack, hostpack, early)
        if not fresh and key in self.started and self.started[key].process.poll() is None:
            return self.started[key]
        device = ("--cpu",) if DEVICE == "cpu" else ()
        running = self._start((*arguments, *device), pack, hostpack, early)
        self.started[(key, object()) if fresh else key] = running
        running.wait_until_ready()
        return running

    def stop_all(self) -> None:
        """Stop every server and delete what it wrote."""
        for running in self.started.values():
            running.process.kill()  # to end gently takes each of them seconds
        for running in self.started.values():
            running.stop()
            remove_base_directory(running.base_dir)

    def _start(
        self,
        arguments: tuple[str, ...],
        pack: bool,
        hostpack: tuple[str, ...],
        early: tuple[str, ...],
    ) -> RunningHost:
        base = Path(tempfile.mkdtemp(prefix="host-", dir=self.folder))
        packs = {name: HOSTPACK / name for name in hostpack}
        if pack:
            packs[PACK_NAME] = REPO
        server.make_base_directory(base, packs)
        if early:
            # A default folder is searched before the others.
            server.make_base_directory(base / "early", {name: HOSTPACK / name for name in early})
            config = base / "early.yaml"
            nodes = (base / "early" / "custom_nodes").as_posix()
            config.write_text(f"early:\n  is_default: true\n  custom_nodes: '{nodes}'\n", "utf-8")
            arguments = (*arguments, "--extra-model-paths-config", str(config))
        return server.start(self.host, base, arguments)


@pytest.fixture(scope="session")
def comfy_host(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostFactory]:
    """Call it for a running ComfyUI: `comfy_host("--preview-method", "none")`."""
    factory = HostFactory(host, tmp_path_factory.mktemp("hosts"))
    try:
        yield factory
    finally:
        factory.stop_all()


@pytest.fixture
def connect() -> Iterator[Callable[..., ComfyClient]]:
    """Call it with a running host for a websocket client, which is closed after the test."""
    from sidestream.tools.comfy_client import ComfyClient

    clients: list[ComfyClient] = []

    def open_client(running: RunningHost, **options: Any) -> ComfyClient:
        clients.append(ComfyClient(running.url, **options))
        return clients[-1]

    yield open_client
    for client in clients:
        client.close()


# ComfyUI inside the tests: its modules in this process


@dataclass(frozen=True)
class HostModules:
    """ComfyUI's own modules: `comfy.latent_preview`, `comfy.nodes`, `comfy("comfy.samplers")`."""

    tree: Path
    base_dir: Path

    def __call__(self, name: str) -> Any:
        """Import a module of the host by its full name."""
        return importlib.import_module(name)

    def __getattr__(self, name: str) -> Any:
        return self(name)


@pytest.fixture(scope="session")
def comfy(host: Host, tmp_path_factory: pytest.TempPathFactory) -> HostModules:
    """ComfyUI's modules in this process."""
    for package in ("torch", "aiohttp", "safetensors"):
        if importlib.util.find_spec(package) is None:
            missing(f"ComfyUI cannot be imported here: {package} is not installed")
    base = tmp_path_factory.mktemp("comfy")
    server.make_base_directory(base, {})
    # First of all, so that `nodes`, `server` and `utils` are ComfyUI's.
    sys.path.insert(0, str(host.tree))
    mend_torchvision_when_imported()
    args = importlib.import_module("comfy.cli_args").args
    args.base_directory = str(base)
    args.cpu = DEVICE == "cpu"
    # ComfyUI's `nodes` puts another `utils` before the package of that name.
    importlib.import_module("utils.extra_config")
    return HostModules(host.tree, base)


@pytest.fixture(scope="module")
def stage(comfy: HostModules) -> Iterator[Stage]:
    """ComfyUI's server and samplers in this process."""
    from sidestream.tests.stage import Stage

    made = Stage(comfy)
    # Tests collect garbage hundreds of times: not among all that ComfyUI and torch keep for good.
    gc.collect()
    gc.freeze()
    yield made
    made.close()


@pytest.fixture
def latent_preview(stage: Stage) -> Iterator[Any]:
    """ComfyUI's module, as it was again after the test; and no worker is left."""
    from sidestream.tests.helpers import wait_until

    module = stage.comfy.latent_preview
    before = (module.get_previewer, module.prepare_callback)
    yield module
    module.get_previewer, module.prepare_callback = before
    assert wait_until(lambda: not [t for t in threading.enumerate() if "SideStream" in t.name])


@pytest.fixture
def make_pack(stage: Stage, latent_preview: Any) -> Iterator[Callable[[], Pack]]:
    """Call it to install the pack until the end of the test."""
    from sidestream.preview.pack import Pack
    from sidestream.tests.helpers import wait_until
    from sidestream.tests.stage import active_runs

    packs: list[Pack] = []

    def make() -> Pack:
        packs.append(Pack())
        packs[-1].install()
        stage.waits_for = packs[-1]
        return packs[-1]

    yield make
    stage.waits_for = None
    # What ends later would be told to the next test's client.
    wait_until(lambda: not any(map(active_runs, packs)), 1.0)
    for pack in reversed(packs):
        pack.close()


@pytest.fixture
def pack(make_pack: Callable[[], Pack]) -> Pack:
    """The pack, installed on the stage."""
    return make_pack()


@pytest.fixture
def client(stage: Stage) -> FakeSocket:
    """A client of the stage."""
    return stage.connect("c")


@pytest.fixture
def told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Call it with a command line and what came of it in `args.preview_method`."""
    methods = stage.comfy("comfy.cli_args").LatentPreviewMethod
    monkeypatch.setattr(stage.comfy("comfy.options"), "args_parsing", True)

    def tell(command_line: str = "", method: str = "none") -> None:
        monkeypatch.setattr(sys, "argv", ["main.py", *command_line.split()])
        monkeypatch.setattr(stage.comfy("comfy.cli_args").args, "preview_method", methods(method))

    tell()
    return tell


# The page


@dataclass(frozen=True)
class BrowserPage:
    """A browser's page, and the errors that its console showed."""

    page: Page
    console_errors: list[str]


@pytest.fixture
def browser_page() -> Iterator[BrowserPage]:
    """A fresh page in headless Chromium."""
    from sidestream.tools.browser import CHROMIUM_ARGUMENTS, find_chromium

    if importlib.util.find_spec("playwright") is None:
        missing("playwright is not installed")
    chromium = find_chromium()
    if chromium is None:
        missing("no Chromium or Chrome is installed")
    from playwright.sync_api import sync_playwright

    # For one test only: while Playwright runs, no other asyncio loop can run on this thread.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(chromium), headless=True, args=list(CHROMIUM_ARGUMENTS)
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        errors: list[str] = []
        page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield BrowserPage(page, errors)
        browser.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real weights and latents beside the checkout; tests that use them need not run."""
    folder = Path(os.environ.get("SIDESTREAM_TEST_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real weights: set SIDESTREAM_TEST_DATA to a folder that has them")
    return folder
