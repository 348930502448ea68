"""Each benchmark runs and returns figures; their values are not checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
THEMES = {path.stem for path in (ROOT / "bench").glob("*.py") if "\nTITLE = " in path.read_text()}


def test_every_theme_exists() -> None:
    assert {
        "overhead", "events", "chunks", "export", "lag", "startup", "state", "memory", "search", "outage"
    } <= THEMES  # fmt: skip


@pytest.mark.timeout(400)  # seconds each, but several processes; on a machine that is busy it may take long
@pytest.mark.parametrize(
    "theme", [pytest.param(theme, marks=[] if theme == "startup" else pytest.mark.extended) for theme in sorted(THEMES)]
)
def test_a_benchmark_returns_figures_with_goals_and_circumstances(theme: str) -> None:
    command = [sys.executable, "-m", "bench", theme, "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout).values()
    assert {"title", "size", "seconds", "when", "commit", "machine", "versions", "figures"} <= set(result)
    assert any(figure["goal"] for figure in result["figures"])
    for figure in result["figures"]:
        assert figure["unit"]
        assert figure["name"] in done.stderr
        assert (figure["is_met"] is None) == (figure["goal"] == "")
