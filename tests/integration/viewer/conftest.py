"""A viewer on the test's own store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodespan.store import SqliteStore, open_store
from viewer_process import ViewerThread


@pytest.fixture
def store() -> Iterator[SqliteStore]:
    """The store that NODESPAN_STORE names."""
    opened = open_store()
    yield opened
    opened.close()


@pytest.fixture
def viewer(store: SqliteStore) -> Iterator[ViewerThread]:
    """A real server on a port of its own."""
    with ViewerThread(store) as started:
        yield started
