"""The figures as a table for the terminal, and as docs/performance.md."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Results = dict[str, dict[str, Any]]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: written by `make bench ARGS=--keep` -->", "<!-- end of the figures -->"
PACKAGES = ("langgraph", "langchain-core", "opentelemetry-sdk", "pydantic", "llama-cpp-python")


def circumstances() -> dict[str, Any]:
    """Time, commit, machine and versions."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def as_text(results: Results) -> str:
    """A table for the terminal."""
    lines: list[str] = []
    for theme, result in results.items():
        lines.append(f"\n{theme}: {result['title']} ({result['seconds']} s)")
        for figure in result["figures"]:
            value, interval, goal, met = _cells(figure)
            lines.append(f"  {figure['name']:<58} {value:>18} {interval:>22} {goal:>8} {met}")
    return "\n".join(lines)


def keep(results: Results, order: Sequence[str]) -> None:
    """Replaces the stored figures of these themes, and writes the page."""
    kept: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept |= results
    ordered = {theme: kept[theme] for theme in order if theme in kept}
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page())


def page() -> str:
    """The page with the stored figures."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{as_markdown(json.loads(RESULTS.read_text()))}\n{END}{after}"


def as_markdown(results: Results) -> str:
    """One table of figures with goals; then the other figures by theme."""
    parts = ["| figure | value | 95 % interval | goal | reached |\n| --- | ---: | ---: | ---: | --- |"]
    for result in results.values():
        parts.append(f"| *{result['title']}* | | | | |")
        parts.extend(_row(figure, *_cells(figure)) for figure in result["figures"] if figure["goal"])
    for theme, result in results.items():
        versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        parts.append(f"\n### {result['title']}\n")
        if behind := [figure for figure in result["figures"] if not figure["goal"]]:
            parts.append("| figure | value | 95 % interval |\n| --- | ---: | ---: |")
            parts.extend(_row(figure, *_cells(figure)[:2]) for figure in behind)
        notes = dict.fromkeys(figure["of"] for figure in result["figures"] if figure["of"])
        parts.append(f"\n{'; '.join(notes)}. `make bench ARGS={theme}`, {result['size']} size, {result['seconds']} s,")
        parts.append(f"{result['when']}, commit {result['commit']}; {result['machine']}; {versions}.")
    return "\n".join(parts) + "\n"


def _row(figure: dict[str, Any], *cells: str) -> str:
    return f"| {' | '.join([figure['name'], *cells])} |"


def _cells(figure: dict[str, Any]) -> list[str]:
    """Value, interval, goal, and whether it is reached."""
    interval = "" if figure["low"] is None else f"{_number(figure['low'])} to {_number(figure['high'])}"
    met = {True: "yes", False: "**no**", None: ""}[figure["is_met"]]
    return [f"{_number(figure['value'])} {figure['unit']}", interval, figure["goal"], met]


def _number(value: float) -> str:
    """Three significant digits, with separators of thousands."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
