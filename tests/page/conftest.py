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

from viewer_process import ViewerProcess

Start = Callable[..., "subprocess.Popen[str]"]
TIMEOUT_MS = 15_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; without one the tests fail in CI and are skipped, loudly, elsewhere.

    Not for the whole session: Playwright keeps an event loop running in this thread, in which no other test could run
    one of its own.
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


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of programs and viewer, one per file of tests, as a viewer takes seconds to start."""
    return tmp_path_factory.mktemp("viewer") / "store.db"


@pytest.fixture(scope="module")
def viewer(store: Path) -> Iterator[ViewerProcess]:
    """`nodespan ui` in a process of its own, on the test's store."""
    with ViewerProcess("--port", "0", environment={"NODESPAN_STORE": str(store)}) as process:
        yield process


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A profile of its own, so that a test sees no cookie of another one."""
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(TIMEOUT_MS)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, viewer: ViewerProcess) -> Iterator[Page]:
    """A tab with a session; a request to another machine and an error in the console fail the test."""
    made = context.new_page()
    problems = watch(made, viewer.base)
    made.goto(viewer.address)
    yield made
    assert not problems, problems


@pytest.fixture(scope="module")
def start(store: Path) -> Iterator[Start]:
    """Starts ``watched_program`` with arguments, on the store that the viewer shows."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "NODESPAN_STORE": str(store), **environment}
        command = [sys.executable, str(Path(__file__).parents[1] / "watched_program.py"), *arguments]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def runs(start: Start) -> None:
    """Some ended runs of each kind are in the store."""
    process = start("few")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def watch(page: Page, base: str) -> list[str]:
    """What the tab should not do, as it does it."""
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
