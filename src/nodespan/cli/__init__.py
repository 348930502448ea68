"""The `nodespan` command."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script; a user's error is printed as a line, without a traceback."""
    from nodespan.cli._app import run

    run()
