"""The outbox: a row per batch, in SQLite, written by any process and read by anyone."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from nodespan.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from nodespan.otlp import Encoded

SCHEMA_VERSION: Final = 1
MEMORY: Final = Path("memory")
"""Chooses a store that lives as long as the process: ``NODESPAN_STORE=memory``."""

BatchState = Literal["waiting", "accepted", "refused"]

_STATES: Final[tuple[BatchState, ...]] = ("waiting", "accepted", "refused")
_BUSY_TIMEOUT_S: Final = 5.0

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batch (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so that a reader knows how far it has read
    created_ns INTEGER NOT NULL,
    spans INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    destination TEXT,                      -- NULL: kept here only
    state INTEGER NOT NULL DEFAULT 0,      -- 0 waiting, 1 accepted, 2 refused by the destination
    data BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_UNSENT: Final = "destination IS NOT NULL AND state = 0"

_logger = logging.getLogger("nodespan")


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept. The oldest batches go first, those that nobody waits for before those that are to be sent.

    Attributes:
        max_bytes: Of encoded spans; the file is a little larger.
        max_age_s: Since the batch was written.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A stored batch; the time is Unix time in ns."""

    id: int
    created_ns: int
    spans: int
    data: bytes


class SqliteStore:
    """Keeps batches in one file of mode 0600, shared by any number of processes, or in memory (``MEMORY``).

    Safe from any thread. One connection, opened when it is first needed and closed before a fork: a lock that a copied
    connection holds would never be given back. Every method raises ``StoreError`` when the file cannot serve.
    """

    def __init__(self, path: Path, limits: StoreLimits | None = None) -> None:
        self.path = path
        self._limits = limits or StoreLimits()
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._lock.release, after_in_child=self._after_fork
        )

    def append(self, batch: Encoded, destination: str | None) -> int:
        """Stores a batch, safe from the death of the process, and makes room for it.

        Returns:
            The batch's id.
        """
        with self._transaction() as connection:
            row = connection.execute(
                "INSERT INTO batch (created_ns, spans, bytes, destination, data) VALUES (?, ?, ?, ?, ?)",
                (time.time_ns(), batch.spans, len(batch.data), destination, batch.data),
            )
            self._make_room(connection)
            return row.lastrowid or 0

    def unsent(self, destination: str, limit: int) -> list[Batch]:
        """The oldest batches that wait to be sent to this destination."""
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id, created_ns, spans, data FROM batch WHERE destination = ? AND state = 0 ORDER BY id LIMIT ?",
                (destination, limit),
            )
            return [Batch(*row) for row in rows]

    def settle(self, batch_id: int, state: BatchState) -> None:
        """Says what the destination said of a batch."""
        with self._transaction() as connection:
            connection.execute("UPDATE batch SET state = ? WHERE id = ?", (_STATES.index(state), batch_id))

    def states(self, ids: Sequence[int]) -> dict[int, BatchState]:
        """What became of these batches, whoever sent them. One that is missing had to make room."""
        with self._transaction() as connection:
            marks = ",".join("?" * len(ids))
            rows = connection.execute(f"SELECT id, state FROM batch WHERE id IN ({marks})", list(ids))  # noqa: S608 question marks
            return {batch_id: _STATES[state] for batch_id, state in rows}

    def readdress(self, destination: str) -> int:
        """Addresses everything that was not sent to the destination; returns how many spans that is."""
        with self._transaction() as connection:
            connection.execute("UPDATE batch SET destination = ? WHERE state = 0", (destination,))
            return _sum(connection, "spans", "state = 0")

    def take_lease(self, holder: str, lease_s: float) -> bool:
        """Makes the holder the one process that sends, for a time; a dead holder's lease runs out by itself."""
        now = time.time()
        with self._transaction() as connection:
            row = connection.execute("SELECT value FROM fact WHERE name = 'lease'").fetchone()
            if row is not None:
                known, _, until = row[0].rpartition(" ")
                # An end too far away was written before the clock was set back.
                if known != holder and now < float(until) <= now + lease_s:
                    return False
            connection.execute("INSERT OR REPLACE INTO fact VALUES ('lease', ?)", (f"{holder} {now + lease_s}",))
            return True

    def release_lease(self, holder: str) -> None:
        """Lets the next process send at once."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM fact WHERE name = 'lease' AND value LIKE ?", (f"{holder} %",))

    def waiting(self) -> tuple[int, int | None]:
        """Spans that wait to be sent, and Unix time in ns of the oldest of them."""
        with self._transaction() as connection:
            oldest = connection.execute(f"SELECT min(created_ns) FROM batch WHERE {_UNSENT}").fetchone()[0]  # noqa: S608 our own words
            return _sum(connection, "spans", _UNSENT), oldest

    def size(self) -> tuple[int, int]:
        """Spans and bytes that are kept."""
        with self._transaction() as connection:
            return _sum(connection, "spans"), _sum(connection, "bytes")

    def lost(self) -> int:
        """Spans that had to make room before they were sent, in all the time of the file."""
        with self._transaction() as connection:
            row = connection.execute("SELECT value FROM fact WHERE name = 'lost'").fetchone()
            return int(row[0]) if row else 0

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """The connection, for the search index; nobody else uses it meanwhile."""
        with self._transaction() as connection:
            yield connection

    def close(self) -> None:
        """Closes the connection; the next call opens it again. What is in memory is then gone."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            try:
                with self._open() as connection:
                    yield connection
            except sqlite3.Error as error:
                raise self._cannot(error) from error

    def _make_room(self, connection: sqlite3.Connection) -> None:
        oldest_ns = time.time_ns() - round(self._limits.max_age_s * 1e9)
        self._drop(connection, f"created_ns < {oldest_ns}")
        excess = _sum(connection, "bytes") - self._limits.max_bytes
        while excess > 0:
            batch_id, size = connection.execute(
                f"SELECT id, bytes FROM batch ORDER BY {_UNSENT}, id LIMIT 1"  # noqa: S608 our own words
            ).fetchone()
            self._drop(connection, f"id = {batch_id}")
            excess -= size

    @staticmethod
    def _drop(connection: sqlite3.Connection, where: str) -> None:
        if lost := _sum(connection, "spans", f"({where}) AND {_UNSENT}"):
            connection.execute(
                "INSERT INTO fact VALUES ('lost', ?1) ON CONFLICT (name) DO UPDATE SET value = value + ?1", (lost,)
            )
        connection.execute(f"DELETE FROM batch WHERE {where}")  # noqa: S608 our own words

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._connect()
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error):
                    raise
                self._put_aside(error)
                self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if self.path == MEMORY:
            connection = sqlite3.connect(":memory:", check_same_thread=False)
        else:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))  # sqlite3 would let others read it
            except OSError as error:
                raise self._cannot(error) from error
            connection = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, a power cut may
            self._check_version(connection)
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_version(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise StoreError(
                f"{self.path} was written by another version of nodespan (schema {version}, this one has "
                f"{SCHEMA_VERSION}). Move it away, or choose another file: NODESPAN_STORE=/path/to/spans.db"
            )
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _put_aside(self, error: Exception) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
        self.path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        _logger.warning("The store %s is damaged (%s): it is kept as %s, and a new one begun.", self.path, error, aside)

    def _cannot(self, error: Exception) -> StoreError:
        return StoreError(
            f"The store {self.path} cannot be used: {error}. Choose a place that can be written "
            "(NODESPAN_STORE=/path/to/spans.db), or memory (NODESPAN_STORE=memory)."
        )

    def _before_fork(self) -> None:
        self._lock.acquire()
        if self.path != MEMORY:
            self.close()

    def _after_fork(self) -> None:
        self._connection = None  # the parent's, if it is in memory
        self._lock = threading.RLock()


def _sum(connection: sqlite3.Connection, column: str, where: str = "1") -> int:
    return connection.execute(f"SELECT coalesce(sum({column}), 0) FROM batch WHERE {where}").fetchone()[0]  # noqa: S608 our own words


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    return error.sqlite_errorcode in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
