"""Runs the benchmarks, each in a separate process: python -m bench [theme ...] [--quick | --full] [--keep]."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench import report

if TYPE_CHECKING:
    from bench.measure import Size

THEMES = (
    "overhead", "langchain", "service", "events", "chunks", "export", "lag", "startup", "state", "memory", "search",
    "outage", "servers", "page", "viewer", "graphdata", "sustained",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("themes", nargs="*", metavar="theme", help=f"{', '.join(THEMES)}; all if not given")
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help="seconds; not meaningful")
    parser.add_argument("--full", dest="size", action="store_const", const="full", help="larger and more precise")
    parser.add_argument("--keep", action="store_true", help="write the figures to docs/performance.md")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    parser.set_defaults(size="normal")
    options = parser.parse_args()
    if unknown := set(options.themes) - set(THEMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; themes: {', '.join(THEMES)}")
    if options.here:
        print(json.dumps(measured(options.themes[0], options.size)))
        return
    results: dict[str, Any] = {}
    for theme in options.themes or THEMES:
        print(f"== {theme}", file=sys.stderr, flush=True)
        result = in_its_own_process(theme, options.size)
        if result is not None:
            results[theme] = result
            print(report.as_text({theme: result}), file=sys.stderr, flush=True)
    print(json.dumps(results, indent=1, ensure_ascii=False))
    if options.keep:
        report.keep(results, THEMES)
    if failed := set(options.themes or THEMES) - set(results):
        sys.exit(f"failed: {', '.join(sorted(failed))}")


def in_its_own_process(theme: str, size: Size) -> dict[str, Any] | None:
    """The theme's figures, from a clean environment with a new store; ``None`` if it failed."""
    with tempfile.TemporaryDirectory(prefix="nodespan-bench-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NODESPAN_"))}
        # A suppressed internal error would reduce the figures.
        environment |= {"NODESPAN_STORE": f"{folder}/store.db", "NODESPAN_RAISE_INTERNAL_ERRORS": "1"}
        command = [sys.executable, "-m", "bench", "--here", theme, *([] if size == "normal" else [f"--{size}"])]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False, text=True)
    return None if done.returncode else json.loads(done.stdout.splitlines()[-1])


def measured(theme: str, size: Size) -> dict[str, Any]:
    """The theme's figures, with time, machine and versions."""
    module = importlib.import_module(f"bench.{theme}")
    started = time.monotonic()
    figures = [{**asdict(each), "is_met": each.is_met} for each in module.run(size)]
    return {
        "title": module.TITLE,
        "size": size,
        "seconds": round(time.monotonic() - started, 1),
        **report.circumstances(),
        "figures": figures,
    }


if __name__ == "__main__":
    main()
