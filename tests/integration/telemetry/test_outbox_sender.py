"""The sender of an outbox, with a store that is locked while it works."""

from __future__ import annotations

import sqlite3

import pytest

from nodespan.delivery.outage_log import OutageLog
from nodespan.delivery.outbox_sender import OutboxSender
from nodespan.delivery.senders.answer import Answer
from nodespan.errors import StoreBusyError
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore

IDENTITY = "destination"
POISON = b"poison"
BATCH_SPANS = 600
"""More than are sent together, so that each batch is a request."""


class PoisonSender:
    """Fails at one batch, and locks the store when that batch is repeated."""

    timeout_s = 1.0

    def __init__(self, path) -> None:
        self._path = path
        self.received: list[bytes] = []
        self.lock: sqlite3.Connection | None = None

    def send(self, data: bytes) -> Answer:
        self.received.append(data)
        if data != POISON:
            return Answer("accepted")
        if self.received.count(POISON) == 2:
            self.lock = sqlite3.connect(self._path, isolation_level=None)
            self.lock.execute("BEGIN IMMEDIATE")
        return Answer("failing", reason="500", text="panic")

    def close(self) -> None:
        """Has nothing to close."""


def test_batches_that_failed_are_not_skipped_after_the_store_was_locked(tmp_path, monkeypatch):
    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    store = SqliteStore(tmp_path / "store.db")
    for data in (b"first", POISON, b"last"):
        store.append(Encoded(data, BATCH_SPANS), IDENTITY, "writer")
    sender = PoisonSender(store.path)
    outbox = OutboxSender(store, IDENTITY, "http://there", lambda: sender, OutageLog())
    with pytest.raises(StoreBusyError):
        outbox.send_all()
    assert sender.lock is not None
    sender.lock.close()
    store.append(Encoded(b"new", BATCH_SPANS), IDENTITY, "writer")
    assert outbox.send_all() is None
    assert store.waiting() == []
    assert [sender.received.count(data) for data in (b"first", b"last", b"new")] == [1, 1, 1]
    assert outbox.outcomes == {"exported": 3 * BATCH_SPANS, "500": BATCH_SPANS}
    store.close()
