"""A browser for the tests of the page: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import chromium
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from nodespan.store import SqliteStore
from viewer_process import Viewer, ViewerProcess, ViewerThread

Start = Callable[..., "subprocess.Popen[str]"]
PROGRAM = [sys.executable, str(Path(__file__).parents[1] / "watched_program.py")]
JAEGER_URL = "http://jaeger.example/trace/{trace_id}?uiFind={span_id}"
TIMEOUT_MS = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; without one the tests fail in CI and are skipped with a banner elsewhere.

    It ends with each file: Playwright's event loop runs until then, and no asynchronous test can run beside it.
    """
    executable = chromium.find() or chromium.install()
    if executable is None:
        reason = "NO BROWSER: the tests of the viewer's page did not run. Type: make browser"
        print(f"\n{'!' * 80}\n{reason}\n{'!' * 80}", file=sys.__stderr__, flush=True)
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # chromium's own needs another user than root
        started = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="session")
def runs_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with some ended runs of each kind, which no test changes."""
    path = tmp_path_factory.mktemp("runs") / "store.db"
    subprocess.run([*PROGRAM, "few"], env={**os.environ, "NODESPAN_STORE": str(path)}, check=True, timeout=60)
    return path


@pytest.fixture(scope="session")
def runs_viewer(runs_store: Path) -> Iterator[ViewerProcess]:
    """`nodespan ui` on that store, in a process of its own."""
    environment = {"NODESPAN_STORE": str(runs_store), "NODESPAN_JAEGER_URL": JAEGER_URL}
    with ViewerProcess("--port", "0", environment=environment) as process:
        yield process


@pytest.fixture(scope="module")
def viewer(runs_viewer: ViewerProcess) -> Viewer:
    """The viewer that `page` opens. A file whose tests write spans returns `own_viewer` instead."""
    return runs_viewer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store for the tests of one file."""
    return tmp_path_factory.mktemp("viewer") / "store.db"


@pytest.fixture(scope="module")
def own_viewer(store: Path) -> Iterator[Viewer]:
    """A viewer on the store of the file."""
    opened = SqliteStore(store)
    with ViewerThread(opened) as thread:
        yield thread
    opened.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A separate profile, so that tests share no cookies."""
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(TIMEOUT_MS)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, viewer: Viewer) -> Iterator[Page]:
    """A tab with a session; a request to another machine and an error in the console fail the test."""
    made = context.new_page()
    problems = watch(made, viewer.base)
    made.goto(viewer.address)
    yield made
    assert not problems, problems


@pytest.fixture(scope="module")
def start(store: Path) -> Iterator[Start]:
    """Starts ``watched_program`` with arguments, on the store of the file."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "NODESPAN_STORE": str(store), **environment}
        process = subprocess.Popen([*PROGRAM, *arguments], env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def watch(page: Page, base: str) -> list[str]:
    """Requests to other machines, errors and dialogs of the tab, as they occur."""
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("console", lambda message: problems.append(f"console: {message.text}") if message.type == "error" else None)
    page.on(
        "request",
        lambda request: (
            problems.append(f"request: {request.url}") if not request.url.startswith((base, "data:", "blob:")) else None
        ),
    )
    page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return problems
