"""A run is watched while it runs: from its first second, through a suspension of the tab, to its end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from viewer_process import Viewer, ViewerProcess

Start = Callable[..., Any]

# tests/integration/viewer/test_live.py tests the same changes in `make test`, without a browser.
pytestmark = pytest.mark.extended


@pytest.fixture(scope="module")
def viewer(own_viewer: Viewer) -> Viewer:
    return own_viewer


RECORD = """(selectors) => {
    window.seen = selectors.map(() => new Set());
    const look = () => selectors.forEach((selector, i) => {
        const found = document.querySelectorAll(selector);
        for (const each of found) window.seen[i].add(each.dataset.node ?? each.textContent);
    });
    const observer = new MutationObserver(look);
    observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
    look();
}"""
"""Keeps every text that one of the elements had."""


def wait_until(condition: Callable[[], Any], limit_s: float = 15.0) -> Any:
    """Polls; fails with the last value seen."""
    deadline = time.monotonic() + limit_s
    value = None
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {limit_s} s; last value: {value!r}")


def fact(page: Page, name: str) -> str:
    return page.locator(f".run-facts .is-{name}").inner_text()


def open_everything(page: Page) -> list[str]:
    """Opens all rows; returns their names as they are shown."""
    page.locator(".names .row").first.wait_for()
    page.set_viewport_size({"width": 1280, "height": 4000})
    page.keyboard.press("a")
    expect(page.locator(".row[aria-expanded=false]:visible")).to_have_count(0)
    return page.locator(".names .row:visible").evaluate_all(
        "all => all.map(row => row.querySelector('.op').textContent + row.querySelector('.name').textContent)"
    )


def stored_names(viewer: Viewer, trace_id: str) -> list[str]:
    """Names of the rows, from the document of the server."""
    document = viewer.client.get(f"/trace/{trace_id}.json").json()
    spans, strings = document["spans"], document["strings"]
    words = {"invoke_workflow": "run", "invoke_node": "node", "execute_tool": "tool"}
    names: list[str] = []
    for name, operation in zip(spans["name"], spans["operation"], strict=True):
        operation, text = strings[operation], strings[name]
        subject = text.removeprefix(f"{operation} ")
        names.append(f"{words.get(operation, operation)} {subject}" if subject != text else text)
    return names


@pytest.mark.parametrize(
    ("seconds", "long_nodes"),  # those that run longer than a change takes on a busy machine
    [("5", {"plan"}), ("20", {"plan", "search", "check", "write"})],
    ids=["5 s", "20 s"],
)
def test_a_run_is_watched_from_its_first_second(
    seconds: str, long_nodes: set[str], page: Page, browser: Browser, viewer: Viewer, start: Start
) -> None:
    process = start(seconds)
    running = page.locator("tr.is-running")
    running.wait_for(timeout=60_000)  # the program imports for some seconds
    trace = viewer.client.get("/runs.json").json()["traces"][0]
    assert (time.time_ns() - trace["start_ns"]) / 1e9 < 1.5, "the run was seen late"
    running.locator("a.title").click()
    expect(page.locator(".badge")).to_have_text(re.compile("running"))
    graph = browser.new_page()  # in a window of its own: a tab behind another one draws nothing
    graph.goto(viewer.address)
    graph.goto(f"{page.url}?view=graph")
    page.evaluate(RECORD, [".row:not([hidden]) .name", ".run-facts .is-duration"])
    graph.evaluate(RECORD, [".gnode.is-running"])
    assert process.wait(60) == 0
    for tab in (page, graph):
        expect(tab.locator(".badge")).to_have_text("✓ ok")
    seen, durations = page.evaluate("() => window.seen.map((texts) => [...texts])")
    (current,) = graph.evaluate("() => window.seen.map((texts) => [...texts])")
    expect(graph.locator(".gnode.is-running")).to_have_count(0)
    iterations = {int(found[1]) for name in seen if (found := re.match(r"iteration (\d+)", name))}
    assert iterations == set(range(1, max(iterations) + 1))
    assert len(iterations) >= 10
    assert long_nodes - {"plan"} <= set(seen)  # plan is a part of an iteration
    assert long_nodes <= set(current)
    assert len(durations) > 0.6 * float(seconds), durations  # its clock has counted the seconds
    trace_id = trace["trace_id"]
    spans = viewer.client.get(f"/trace/{trace_id}.json").json()["spans"]["n"]
    assert fact(page, "spans").replace("\u202f", "") == str(spans)
    rows = [name.strip() for name in open_everything(page) if not name.strip().startswith("iteration")]
    assert sorted(rows) == sorted(stored_names(viewer, trace_id))


def test_a_resumed_tab_is_up_to_date(page: Page, context: BrowserContext, viewer: Viewer, start: Start) -> None:
    process = start("8")
    page.locator("tr.is-running").wait_for(timeout=60_000)
    other = context.new_page()  # a list, which is suspended as well
    other.goto(viewer.base)
    other.locator("tr.is-running").wait_for()
    page.locator("tr.is-running a.title").click()
    expect(page.locator(".live")).to_have_text("live")
    context.set_offline(True)
    for each in (page, other):
        context.new_cdp_session(each).send("Page.setWebLifecycleState", {"state": "frozen"})
    assert process.wait(timeout=60) == 0
    few = start("few")
    few.communicate(timeout=60)
    context.set_offline(False)
    for each in (page, other):
        context.new_cdp_session(each).send("Page.setWebLifecycleState", {"state": "active"})
    expect(page.locator(".badge")).to_have_text("✓ ok")
    expect(page.locator(".live")).to_have_text("live")
    found = re.search("/trace/([0-9a-f]{32})", page.url)
    assert found
    page.bring_to_front()  # a tab behind another one draws nothing
    rows = [name.strip() for name in open_everything(page) if not name.strip().startswith("iteration")]
    assert sorted(rows) == sorted(stored_names(viewer, found[1]))
    other.bring_to_front()
    expected = [trace["trace_id"] for trace in viewer.client.get("/runs.json").json()["traces"]]
    wait_until(lambda: other.locator("tr[data-id]").evaluate_all("all => all.map(row => row.dataset.id)") == expected)
    expect(other.locator("tr.is-running")).to_have_count(0)


def test_a_killed_program_is_shown_as_lost(page: Page, start: Start) -> None:
    process = start("30")
    page.locator("tr.is-running").wait_for(timeout=60_000)
    page.locator("tr.is-running a.title").click()
    page.locator(".row").first.wait_for()
    process.kill()
    expect(page.locator(".badge")).to_contain_text("lost", timeout=10_000)
    page.locator(".names .row").first.click()
    expect(page.locator(".detail")).to_contain_text("lost at")


def test_the_page_reconnects_to_a_restarted_viewer(context: BrowserContext, store: Path, start: Start) -> None:
    environment = {"NODESPAN_STORE": str(store)}
    page = context.new_page()
    with ViewerProcess("--port", "0", "--no-token", environment=environment) as first:
        page.goto(first.base)
        page.locator(".live.is-live").wait_for()
    expect(page.locator(".live")).to_have_text("connecting …")
    start("few").communicate(timeout=60)
    port = first.base.rpartition(":")[2]
    with ViewerProcess("--port", port, "--no-token", environment=environment) as second:
        expected = [trace["trace_id"] for trace in second.client.get("/runs.json").json()["traces"]]
        listed = "all => all.map(row => row.dataset.id)"
        wait_until(lambda: page.locator("tr[data-id]").evaluate_all(listed) == expected, 30)
        page.locator(".live.is-live").wait_for()
    with ViewerProcess("--port", port, environment=environment):
        expect(page.get_by_role("alert")).to_contain_text("token", timeout=30_000)
