"""Take the pictures of the viewer for README and docs, from real runs of the demo: `make pictures`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import chromium
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
PROMPTS = ("Name three rivers.", "Why is the sky blue?", "How does a lock on a canal work?")
LAST = "Why do people build observatories on mountains?"
NODESPAN = [sys.executable, "-c", "from nodespan.cli import main; main()"]
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def main() -> None:
    """Runs the demo several times and takes pictures of the list and a run."""
    executable = chromium.find()
    if executable is None:
        chromium.main()
        return
    FOLDER.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="nodespan-pictures-") as folder, sync_playwright() as playwright:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NODESPAN_"))}
        environment = {**kept, "NODESPAN_STORE": f"{folder}/store.db", CONTENT: "SPAN_ONLY"}
        for prompt in PROMPTS:
            print(f"Demo: {prompt}", flush=True)
            subprocess.run(
                [*NODESPAN, "demo", "--prompt", prompt], env=environment, check=True, stdout=subprocess.DEVNULL
            )
        viewer = subprocess.Popen([*NODESPAN, "ui", "--port", "0"], env=environment, stdout=subprocess.PIPE, text=True)
        demo = subprocess.Popen([*NODESPAN, "demo", "--prompt", LAST], env=environment, stdout=subprocess.DEVNULL)
        try:
            assert viewer.stdout is not None
            arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=executable, args=arguments)
            page = browser.new_page(viewport={"width": 1200, "height": 560}, color_scheme="light")
            page.set_default_timeout(120_000)
            page.goto(viewer.stdout.readline().strip())
            photograph(page, demo)
            browser.close()
        finally:
            viewer.terminate()
            demo.terminate()
            viewer.wait()
            demo.wait()


def photograph(page: Page, demo: subprocess.Popen[bytes]) -> None:
    """The list while the last run decodes, and that run when it has ended."""
    page.locator("tr.is-running .end", has_text="decoding").wait_for()
    page.screenshot(path=FOLDER / "runs.png")
    demo.wait()
    page.locator("tr.is-ok").nth(len(PROMPTS)).wait_for()
    page.locator("tr[data-id] a.title").first.click()
    page.locator(".names .row").first.wait_for()
    for _ in range(3):
        page.keyboard.press("j")
    page.locator(".lens").wait_for()
    page.locator(".attributes table").first.wait_for()
    page.screenshot(path=FOLDER / "run.png")
    for picture in sorted(FOLDER.glob("*.png")):
        print(f"{picture.relative_to(FOLDER.parents[1])}: {picture.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
