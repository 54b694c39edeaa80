"""The page behind a proxy: in a folder of it, and when the connection breaks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, expect
from sidestream.tests.web.conftest import FAR_APART, NEWEST, Opened
from sidestream.tests.web.proxies import Proxy, proxy
from sidestream.tests.web.views import LONG, SEEDS, finish, open_details, start_run
from sidestream.tools.local import opened
from sidestream.tools.page import PanelPage, demo_prompt

pytestmark = pytest.mark.browser


FOLDER = "/some/folder"


@pytest.fixture(scope="module")
def behind(
    request: pytest.FixtureRequest, browser: Browser, address_of: Callable[[str], str]
) -> Iterator[tuple[PanelPage, Proxy]]:
    """A page that is behind a proxy, and the proxy. The page's console must not complain of the pack."""
    kind, folder = request.param
    version, nodes = kind.split()
    with proxy(address_of(version), folder) as (one, address):
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        page = context.new_page()
        page.set_default_timeout(20_000)
        opened_page = Opened(kind, PanelPage(page, address))
        opened_page.listen(page)
        opened_page.panel.open({"Comfy.VueNodes.Enabled": nodes == "vue"})
        yield opened_page.panel, one
        # What the page itself says of requests that fail has the pack in its stack.
        assert [problem for problem in opened_page.problems if "Failed to fetch" not in problem] == []
        context.close()


# The older page shows nothing at all in a folder, with and without packs.
IN_A_FOLDER = pytest.mark.parametrize(
    "behind", [(f"{NEWEST} {nodes}", FOLDER) for nodes in ("classic", "vue")], indirect=True
)
AT_THE_TOP = pytest.mark.parametrize("behind", [(kind, "") for kind in FAR_APART], indirect=True)


@IN_A_FOLDER
def test_all_of_it_works_in_a_folder_of_a_proxy(behind: tuple[PanelPage, Proxy]) -> None:
    panel, one = behind
    page = panel.page
    panel.open_panel()
    expect(page.locator(".sidestream")).to_have_attribute("aria-label", "Live Preview")  # the translations
    sheet = "() => [...document.styleSheets].map((one) => one.href).find((href) => href?.endsWith('/sidestream.css'))"
    assert FOLDER in page.evaluate(sheet)
    start_run(panel, steps=LONG, seconds=0.05)
    panel.wait_frames(5)
    # Only the worker has the canvas: drawn means that its file was found.
    panel.wait("() => document.querySelector('.ss-canvas').width > 100")
    [worker] = [worker.url for worker in page.workers if worker.url.endswith("render_worker.js")]
    assert FOLDER in worker
    panel.wait("() => document.querySelector('.ss-node canvas').width > 100")
    page.locator(".ss-control[data-setting=quality] input").first.evaluate(
        "(input) => { input.value = 61; input.dispatchEvent(new Event('change', { bubbles: true })); }"
    )
    open_details(panel)
    panel.wait("() => document.querySelector('.ss-stat-share dd').textContent.endsWith('%')")
    panel.wait("step => sidestream.watching.frame.step === step", argument=finish(panel))
    with page.expect_response("**/sidestream/report") as answer:
        page.locator(".ss-report").click()
    assert answer.value.ok
    assert [path for path in one.outside if "sidestream" in path.lower()] == []


@AT_THE_TOP
def test_after_5_s_without_a_network_the_panel_goes_on_with_the_right_state(
    behind: tuple[PanelPage, Proxy],
) -> None:
    panel, one = behind
    page = panel.page
    panel.open_panel()
    start_run(panel, steps=LONG, seconds=0.08)
    panel.wait_frames(5)
    one.set_broken(True)
    kept = page.evaluate("() => sidestream.store.frameCount")
    panel.wait("() => !sidestream.status.reached")
    panel.wait("() => /not responding/.test(document.querySelector('.ss-notice').textContent)")
    expect(page.locator("html.sidestream-streams")).to_have_count(0)
    expect(page.locator(".ss-on-air")).to_have_count(0)
    page.wait_for_timeout(5000)  # what is tried
    one.set_broken(False)
    panel.wait_frames(kept + 8)
    panel.wait("() => !/not responding/.test(document.querySelector('.ss-notice').textContent)")
    state = page.evaluate(
        """() => {
          const { store, watching: { run, isLive } } = sidestream;
          return [run.live, run.title, isLive, store.current.length];
        }"""
    )
    assert state == [True, "KSampler A", True, 1]
    panel.wait("step => sidestream.watching.frame.step === step", argument=finish(panel))
    panel.wait("() => !document.querySelector('.ss-on-air')")


def running(one: Proxy) -> str | None:
    """The prompt that is running, as the server itself says."""
    with opened(f"{one.target}/queue", timeout=10) as response:
        queue = json.load(response)["queue_running"]
    return queue[0][1] if queue else None


@AT_THE_TOP
def test_a_run_that_ends_and_another_that_begins_without_a_network(behind: tuple[PanelPage, Proxy]) -> None:
    panel, one = behind
    page = panel.page
    panel.open_panel()
    page.evaluate("() => sidestream.store.clear()")
    start_run(panel, steps=60, seconds=0.08)
    panel.wait_frames(3)
    first = running(one)
    panel.load(demo_prompt(seed=next(SEEDS) * 10, steps=LONG, seconds=0.08))
    panel.queue()
    one.set_broken(True)
    for _ in range(300):
        if running(one) not in (first, None):
            break
        page.wait_for_timeout(100)
    assert running(one) not in (first, None)
    one.set_broken(False)
    panel.wait(f"() => sidestream.store.runs.length > 1 && sidestream.watching.run.totalSteps === {LONG}")
    # What is over is asked for, and the answer may come after the next run's first frame.
    panel.wait("() => sidestream.store.runs.map((run) => run.live).join() === 'false,true'")
    panel.wait("step => sidestream.watching.frame.step === step", argument=finish(panel))
