"""A newcomer's way: `make demo`, then the line that it prints, and the run is in the browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

NODESPAN = [sys.executable, "-c", "from nodespan.cli import main; main()"]
LINE = re.compile(r"^In the browser: (?P<command>.+) ui (?P<trace>[0-9a-f]+) --open$", re.MULTILINE)
START_S = 60


@pytest.mark.extended
@pytest.mark.usefixtures("smollm2")
def test_the_command_that_the_demo_prints_opens_its_run(browser: Browser, tmp_path: Path) -> None:
    opener = tmp_path / "open.sh"  # in place of the user's browser: writes the address that it is called with
    opener.write_text('#!/bin/sh\nprintf %s "$1" > "$0.address"\n')
    opener.chmod(0o755)
    environment = {**os.environ, "NODESPAN_STORE": str(tmp_path / "store.db"), "BROWSER": f"{opener} %s"}
    demo = subprocess.run(
        [*NODESPAN, "demo", "--prompt", "Name two rivers."],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert demo.returncode == 0, demo.stderr
    line = LINE.search(demo.stdout)
    assert line, demo.stdout
    arguments = ["ui", line["trace"], "--open", "--port", "0"]
    with subprocess.Popen([*NODESPAN, *arguments], env=environment, stdout=subprocess.DEVNULL) as viewer:
        try:
            page = browser.new_page()
            page.goto(address(Path(f"{opener}.address")))
            for node in ("answer", "example", "objection", "summary"):
                expect(page.locator(".names .name", has_text=node)).to_be_visible()
            expect(page.locator(".badge")).to_have_text("✓ ok")
            page.locator(".names .row", has_text="SmolLM2").last.click()
            lens = page.get_by_role("region", name="Model call")
            for text in ("prefill", "decode", "of 2\u202f048 tokens", "With the call of"):
                expect(lens).to_contain_text(text)
        finally:
            viewer.terminate()


def address(file: Path) -> str:
    """The address with which the browser is called."""
    deadline = time.monotonic() + START_S
    while not (file.exists() and (found := file.read_text())):
        assert time.monotonic() < deadline, f"no browser was opened within {START_S} s"
        time.sleep(0.05)
    return found
