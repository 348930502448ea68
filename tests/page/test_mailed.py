"""The file that `nodespan export --html` writes: the same page and data, opened from disk without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from viewer_process import Viewer

pytestmark = pytest.mark.extended

EXPORT = [sys.executable, "-c", "from nodespan.cli import main; main()", "export", "--html"]

REQUEST = """() => new Promise((done) => {
    document.addEventListener('securitypolicyviolation', () => done('refused'), { once: true });
    fetch('http://127.0.0.1:9/').then(() => done('sent'), () => setTimeout(() => done('not refused'), 1000));
})"""
INLINE = """() => {
    const script = document.createElement('script');
    script.textContent = "document.title = 'inline'";
    document.head.append(script);
}"""


@pytest.fixture(scope="module")
def traces(viewer: Viewer) -> list[str]:
    return [trace["trace_id"] for trace in viewer.client.get("/runs.json").json()["traces"]]


@pytest.fixture(scope="module")
def mailed(traces: list[str], runs_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("mail") / "run #1 & more.html"
    environment = {**os.environ, "NODESPAN_STORE": str(runs_store)}
    subprocess.run([*EXPORT, *traces[:4], "-o", str(file)], env=environment, check=True, timeout=60)
    return file


@pytest.fixture
def tab(context: BrowserContext, mailed: Path) -> Iterator[Page]:
    """A tab with the file, offline; whatever it requests or reports fails the test."""
    context.set_offline(True)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    page.goto(mailed.as_uri())
    yield page
    assert not problems, problems


def test_the_list_and_a_run_are_in_the_file(tab: Page, traces: list[str]) -> None:
    tab.locator("tr[data-id]").first.wait_for()
    assert tab.locator("tr[data-id]").evaluate_all("all => all.map(row => row.dataset.id)") == traces[:4]
    expect(tab.get_by_role("note")).not_to_be_empty()
    tab.get_by_role("button", name="Errors").click()
    expect(tab.locator("tr[data-id]")).to_have_count(1)
    expect(tab).to_have_url(re.compile(r"#/\?error=1$"))
    tab.locator("tr[data-id] a.title").click()
    expect(tab).to_have_url(re.compile(r"#/trace/[0-9a-f]{32}$"))
    tab.keyboard.press("e")
    expect(tab.locator(".exception")).to_contain_text("ValueError")
    for view, section in (("graph", "graph"), ("conversation", "conversation"), ("state", "writes")):
        tab.keyboard.press(view[0])
        expect(tab.locator(f"section.{section}")).to_be_visible()
    tab.keyboard.press("g")
    expect(tab.locator("[data-node=plan]")).to_have_attribute("data-count", "2")
    tab.go_back()
    expect(tab.locator("section.writes")).to_be_visible()


def test_a_view_of_the_file_has_a_url(tab: Page, mailed: Path, traces: list[str]) -> None:
    tab.goto(f"{mailed.as_uri()}#/trace/{traces[3]}?view=graph&iteration=2")
    tab.reload()
    expect(tab.get_by_label("Iteration", exact=True)).to_have_value("2")


def test_policy_and_notice_are_in_the_file(mailed: Path, tab: Page) -> None:
    text = mailed.read_text(encoding="utf-8")
    assert "Content-Security-Policy" in text
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", text)
    assert tab.get_by_role("note").inner_text()


def test_the_policy_of_the_file_refuses_requests_and_inline_code(context: BrowserContext, mailed: Path) -> None:
    page = context.new_page()  # not the fixture, which would fail on the refusal in the console
    page.goto(mailed.as_uri())
    page.locator("tr[data-id]").first.wait_for()
    assert page.evaluate(REQUEST) == "refused"
    page.evaluate(INLINE)
    assert page.title() != "inline"
