"""The outbox: a row per batch, in SQLite, written by any process and read by anyone."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodespan.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nodespan.otlp import Encoded

SCHEMA_VERSION: Final = 1
_BUSY_TIMEOUT_S: Final = 5.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so that a reader knows how far it has read
    created_ns INTEGER NOT NULL,
    spans INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    destination TEXT,                      -- NULL: kept here only
    sent INTEGER NOT NULL DEFAULT 0,
    data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept. The oldest batches go first, those that were sent before those that were not.

    Attributes:
        max_bytes: Of encoded spans; the file is a little larger.
        max_age_s: Since the batch was written.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A stored batch."""

    id: int
    created_ns: int
    spans: int
    data: bytes


class SqliteStore:
    """Keeps batches in one file of mode 0600. Safe from any thread; one connection, opened when it is first needed.

    Connections do not survive a fork: a lock that a copied connection holds would never be given back. They are closed
    before a fork and opened again on either side.

    Raises:
        StoreError: The file cannot be opened, or is another version's.
    """

    def __init__(self, path: Path, limits: StoreLimits | None = None) -> None:
        self.path = path
        self._limits = limits or StoreLimits()
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def append(self, batch: Encoded, destination: str | None) -> int:
        """Stores a batch durably against the death of the process, and makes room for it.

        Returns:
            How many spans that nobody has received had to go to make room.
        """
        with self._lock:
            connection = self._open()
            with connection:
                connection.execute(
                    "INSERT INTO batch (created_ns, spans, bytes, destination, data) VALUES (?, ?, ?, ?, ?)",
                    (time.time_ns(), batch.spans, len(batch.data), destination, batch.data),
                )
                return self._make_room(connection)

    def unsent(self, destination: str, limit: int) -> list[Batch]:
        """The oldest batches that are for this destination and were not sent."""
        with self._lock:
            rows = self._open().execute(
                "SELECT id, created_ns, spans, data FROM batch WHERE destination = ? AND sent = 0 ORDER BY id LIMIT ?",
                (destination, limit),
            )
            return [Batch(*row) for row in rows]

    def mark_sent(self, ids: Sequence[int]) -> None:
        """Says that batches have arrived, or never will."""
        with self._lock:
            connection = self._open()
            with connection:
                connection.executemany("UPDATE batch SET sent = 1 WHERE id = ?", [(id_,) for id_ in ids])

    def readdress(self, destination: str) -> int:
        """Addresses every batch that was not sent to the destination; returns how many spans those are."""
        with self._lock:
            connection = self._open()
            with connection:
                connection.execute("UPDATE batch SET destination = ? WHERE sent = 0", (destination,))
                return self._sum(connection, "spans", "sent = 0")

    def batches(self, after: int = 0) -> Iterator[Batch]:
        """Batches with a greater id, oldest first."""
        while True:
            with self._lock:
                row = self._open().execute(
                    "SELECT id, created_ns, spans, data FROM batch WHERE id > ? ORDER BY id LIMIT 1", (after,)
                ).fetchone()
            if row is None:
                return
            yield Batch(*row)
            after = row[0]

    def waiting(self) -> tuple[int, int | None]:
        """Spans that are addressed and not sent, and Unix time in ns of the oldest of them."""
        with self._lock:
            connection = self._open()
            spans = self._sum(connection, "spans", "destination IS NOT NULL AND sent = 0")
            oldest = connection.execute(
                "SELECT min(created_ns) FROM batch WHERE destination IS NOT NULL AND sent = 0"
            ).fetchone()[0]
            return spans, oldest

    def size(self) -> tuple[int, int]:
        """Spans and bytes that are kept."""
        with self._lock:
            connection = self._open()
            return self._sum(connection, "spans"), self._sum(connection, "bytes")

    def connection(self) -> sqlite3.Connection:
        """A connection of the caller's own, for the search index."""
        with self._lock:
            self._open()
        return sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S)

    def close(self) -> None:
        """Closes the connection; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _make_room(self, connection: sqlite3.Connection) -> int:
        lost = 0
        oldest = time.time_ns() - round(self._limits.max_age_s * 1e9)
        lost += self._sum(connection, "spans", f"created_ns < {oldest} AND destination IS NOT NULL AND sent = 0")
        connection.execute("DELETE FROM batch WHERE created_ns < ?", (oldest,))
        while self._sum(connection, "bytes") > self._limits.max_bytes:
            row = connection.execute(
                "SELECT id, spans, destination IS NOT NULL AND sent = 0 FROM batch ORDER BY sent DESC, id LIMIT 1"
            ).fetchone()
            lost += row[1] if row[2] else 0
            connection.execute("DELETE FROM batch WHERE id = ?", (row[0],))
        return lost

    @staticmethod
    def _sum(connection: sqlite3.Connection, column: str, where: str = "1") -> int:
        return connection.execute(f"SELECT coalesce(sum({column}), 0) FROM batch WHERE {where}").fetchone()[0]  # noqa: S608 our own words

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # sqlite3 would make it readable for others
            connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                connection.close()
                raise StoreError(
                    f"{self.path} was written by another version of nodespan (schema {version}, not {SCHEMA_VERSION}). "
                    "Move it away, or choose another file: NODESPAN_STORE=/path/to/spans.db"
                )
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f"The store {self.path} cannot be opened: {error}. "
                "Choose a place that can be written: NODESPAN_STORE=/path/to/spans.db"
            ) from error
        self._connection = connection
        return connection
