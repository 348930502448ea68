"""Shared by the tests of running spans: work with a phase, and reading of the store."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

from nodespan.spans.phases import Phase
from nodespan.store import StoreReader, store_path

PATIENCE_S = 60


def until(look, expected, patience_s: float = PATIENCE_S):
    """Polls until the expected value is read; reports the last value."""
    deadline = time.monotonic() + patience_s
    while (seen := look()) != expected:
        assert time.monotonic() < deadline, f"last seen: {seen}, expected: {expected}"
        time.sleep(0.02)
    return seen


def states(reader: StoreReader) -> dict[str, str]:
    """State of each span in the store, by name."""
    return {
        span["name"]: span["state"]
        for found in reader.find(limit=1000)
        for span in reader.get(found["trace_id"])["spans"]
    }


def rows() -> int:
    try:
        with closing(sqlite3.connect(f"file:{store_path()}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT count(*) FROM running").fetchone()[0]
    except sqlite3.OperationalError:  # it is being created
        return 0


class Work:
    """The work of a span, with a phase that the test sets."""

    def __init__(self, phase: Phase | None = None) -> None:
        self.now = phase

    def phase(self) -> Phase | None:
        return self.now
