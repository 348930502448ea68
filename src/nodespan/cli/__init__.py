"""The `nodespan` command."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script; a mistake of the user's is a line, not a traceback."""
    from nodespan.cli._app import run

    run()
