"""The outbox: a row per batch, in SQLite, written by any process and read by anyone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodespan.store import running
from nodespan.store.database import MEMORY, Database
from nodespan.store.paths import is_default
from nodespan.store.schema import OUTBOX

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from nodespan.otlp import Encoded
    from nodespan.store.running import Key

EXPORTED: Final = "exported"
"""The outcome of a span that its destination has; every other outcome is the reason why it is lost."""

_UNSENT: Final = "state = 0 AND destination IS NOT NULL"
_ROOM_MADE: Final = 1 / 16
"""Part of the limit that is freed at once: looking for what is to go reads through the batches."""
_AGE_CHECK_S: Final = 60.0
_PAGE_BYTES: Final = 4 * 1024 * 1024
_EVERYBODY: Final = ""
_MEMORY_MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept. The oldest batches go first, those that nobody waits for before those that are to be sent.

    Attributes:
        max_bytes: Of encoded spans; the file is a little larger. In memory never more than 64 MiB.
        max_age_s: Since the batch was written.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_age_s: float = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Batch:
    """A stored batch; the time is Unix time in ns."""

    id: int
    created_ns: int
    writer: str
    spans: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Outbox:
    """What is in the store now.

    Attributes:
        spans: All that are kept.
        size_bytes: Of their encoded form.
        waiting: Of the spans, those that are to be sent.
        oldest_waiting_ns: Unix time of the oldest of these.
        destinations: To whom they are addressed.
        outcomes: Spans by what became of them in all the time of the file: exported, or why they are lost.
        last_error: What the destination said when it last took nothing; ``None`` once it takes spans again.
    """

    spans: int
    size_bytes: int
    waiting: int
    oldest_waiting_ns: int | None
    destinations: list[str]
    outcomes: dict[str, int]
    last_error: str | None


class SqliteStore:
    """Keeps batches in one file of mode 0600, shared by any number of processes, or in memory (``MEMORY``).

    Safe from any thread and across forks. Every method raises ``StoreError`` when the file cannot serve, and
    ``StoreBusyError`` when it may serve later.
    """

    def __init__(self, path: Path, limits: StoreLimits | None = None) -> None:
        self.path = path
        self.database = Database(path, OUTBOX, may_replace=is_default(path))
        limits = limits or StoreLimits()
        self._max_bytes = min(limits.max_bytes, _MEMORY_MAX_BYTES) if path == MEMORY else limits.max_bytes
        self._max_age_s = limits.max_age_s
        self._next_age_check = 0.0

    def append(self, batch: Encoded, destination: str | None, writer: str = "", ended: Iterable[Key] = ()) -> int:
        """Stores a batch, safe from the death of the process, and makes room for it.

        Args:
            batch: The spans.
            destination: Where they are to go; ``None`` if they stay.
            writer: The process.
            ended: Spans of it whose rows as open spans go with their end.

        Returns:
            The batch's id.
        """

        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "INSERT INTO batch (created_ns, writer, spans, bytes, destination, data) VALUES (?, ?, ?, ?, ?, ?)",
                (time.time_ns(), writer, batch.spans, len(batch.data), destination, batch.data),
            )
            running.remove(connection, ended)
            self._make_room(connection)
            return row.lastrowid or 0

        return self.database.write(work)

    def unsent(self, destination: str, after: int = 0) -> tuple[list[Batch], int]:
        """The oldest batches that wait to be sent to this destination, a few MB of them.

        Args:
            destination: Where they are to go.
            after: Only batches with a greater id.

        Returns:
            The batches, and the greatest id that was looked at: nothing up to it waits but these.
        """

        def work(connection: sqlite3.Connection) -> tuple[list[Batch], int]:
            found: list[Batch] = []
            size = 0
            for row in connection.execute(
                "SELECT id, created_ns, writer, spans, data FROM batch "
                "WHERE id > ? AND state = 0 AND destination = ? ORDER BY id",
                (after, destination),
            ):
                found.append(Batch(*row))
                size += len(found[-1].data)
                if size >= _PAGE_BYTES:
                    return found, found[-1].id
            return found, connection.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()[0]

        return self.database.read(work)

    def settle(self, batches: Sequence[Batch], outcomes: Mapping[str, int]) -> None:
        """Says what became of batches of one writer. What was settled before, by another process, is left as it is.

        Args:
            batches: Those that were sent together.
            outcomes: Their spans by outcome: ``EXPORTED``, or the reason why they are lost.
        """

        def work(connection: sqlite3.Connection) -> None:
            update = "UPDATE batch SET state = 1 WHERE state = 0 AND id = ?"
            settled = sum(b.spans for b in batches if connection.execute(update, (b.id,)).rowcount)
            if settled == sum(batch.spans for batch in batches):
                _count(connection, batches[0].writer, outcomes)
            elif settled:
                _count(connection, batches[0].writer, {EXPORTED: settled})

        self.database.write(work)

    def take_outcomes(self, writer: str) -> dict[str, int]:
        """What became of a writer's spans since it last asked, by outcome; for each of them it is said once."""
        query = "SELECT outcome, spans FROM fate WHERE writer = ?"
        if not self.database.read(lambda connection: connection.execute(query, (writer,)).fetchall()):
            return {}

        def work(connection: sqlite3.Connection) -> dict[str, int]:
            found = dict(connection.execute(query, (writer,)).fetchall())
            connection.execute("DELETE FROM fate WHERE writer = ?", (writer,))
            return found

        return self.database.write(work)

    def readdress(self, destination: str) -> int:
        """Addresses everything that was not sent to the destination; returns how many spans wait for it then."""

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("UPDATE batch SET destination = ? WHERE state = 0", (destination,))
            return connection.execute("SELECT coalesce(sum(spans), 0) FROM batch WHERE state = 0").fetchone()[0]

        return self.database.write(work)

    def take_lease(self, holder: str, lease_s: float) -> bool:
        """Makes the holder the one process that sends, for a time; a dead holder's lease runs out by itself."""

        def work(connection: sqlite3.Connection) -> bool:
            now = time.time()
            if (lease := _fact(connection, "lease")) is not None:
                known, term_s, until = lease.split(" ")
                # An end further away than its own term was written before the clock was set back.
                if known != holder and now < float(until) <= now + float(term_s):
                    return False
            _state(connection, "lease", f"{holder} {lease_s} {now + lease_s}")
            return True

        return self.database.write(work)

    def release_lease(self, holder: str) -> None:
        """Lets the next process send at once."""
        self.database.write(
            lambda connection: connection.execute(
                "DELETE FROM fact WHERE name = 'lease' AND value LIKE ?", (f"{holder} %",)
            )
        )

    def say_error(self, text: str | None) -> None:
        """Keeps what the destination said, for whoever asks what is wrong; ``None`` when it takes spans again."""
        if text is not None:
            self.database.write(lambda connection: _state(connection, "error", text))
        elif self.database.read(lambda connection: _fact(connection, "error")) is not None:
            self.database.write(lambda connection: connection.execute("DELETE FROM fact WHERE name = 'error'"))

    def look(self) -> Outbox:
        """What is in the store now."""

        def work(connection: sqlite3.Connection) -> Outbox:
            spans, size_bytes, waiting = connection.execute("SELECT spans, bytes, waiting FROM total").fetchone()
            oldest_ns: int | None = None
            destinations: list[str] = []
            if waiting:  # or the batches need not be read
                query = f"SELECT min(created_ns), destination FROM batch WHERE {_UNSENT} GROUP BY destination"  # noqa: S608 our own words
                found = connection.execute(query).fetchall()
                oldest_ns = min(created_ns for created_ns, _ in found)
                destinations = [destination for _, destination in found]
            outcomes = connection.execute("SELECT outcome, spans FROM fate WHERE writer = ?", (_EVERYBODY,))
            error = _fact(connection, "error")
            return Outbox(spans, size_bytes, waiting, oldest_ns, destinations, dict(outcomes.fetchall()), error)

        return self.database.read(work)

    def waiting_for(self, destination: str | None) -> int:
        """Spans that wait to be sent to this destination; with ``None`` all that are not settled, wherever they go."""
        where = "state = 0 AND (?1 IS NULL OR destination = ?1)"
        query = f"SELECT coalesce(sum(spans), 0) FROM batch WHERE {where}"  # noqa: S608 our own words
        return self.database.read(lambda connection: connection.execute(query, (destination,)).fetchone()[0])

    def close(self) -> None:
        """Closes the connection; the next call opens it again. What is in memory is then gone."""
        self.database.close()

    def _make_room(self, connection: sqlite3.Connection) -> None:
        if time.monotonic() >= self._next_age_check:
            self._next_age_check = time.monotonic() + _AGE_CHECK_S
            oldest_ns = time.time_ns() - round(self._max_age_s * 1e9)
            _drop(connection, f"created_ns < {oldest_ns}", "store_age")
            connection.execute("DELETE FROM fate WHERE writer <> ? AND changed_ns < ?", (_EVERYBODY, oldest_ns))
        excess = connection.execute("SELECT bytes FROM total").fetchone()[0] - self._max_bytes
        if excess <= 0:
            return
        excess += round(self._max_bytes * _ROOM_MADE)
        for which in (f"NOT ({_UNSENT})", _UNSENT):
            last = None
            for batch_id, size in connection.execute(f"SELECT id, bytes FROM batch WHERE {which} ORDER BY id"):  # noqa: S608 our own words
                last = batch_id
                excess -= size
                if excess <= 0:
                    break
            if last is not None:
                _drop(connection, f"{which} AND id <= {last}", "store_full")
            if excess <= 0:
                break


def _drop(connection: sqlite3.Connection, where: str, reason: str) -> None:
    lost = connection.execute(
        f"SELECT writer, sum(spans) FROM batch WHERE ({where}) AND {_UNSENT} GROUP BY writer"  # noqa: S608 our own words
    ).fetchall()
    for writer, spans in lost:
        _count(connection, writer, {reason: spans})
    connection.execute(f"DELETE FROM batch WHERE {where}")  # noqa: S608 our own words


def _count(connection: sqlite3.Connection, writer: str, outcomes: Mapping[str, int]) -> None:
    for outcome, spans in outcomes.items():
        for whose in {writer, _EVERYBODY}:
            connection.execute(
                "INSERT INTO fate VALUES (?1, ?2, ?3, ?4) "
                "ON CONFLICT (writer, outcome) DO UPDATE SET spans = spans + ?3, changed_ns = ?4",
                (whose, outcome, spans, time.time_ns()),
            )


def _fact(connection: sqlite3.Connection, name: str) -> str | None:
    row = connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    return row[0] if row is not None else None


def _state(connection: sqlite3.Connection, name: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))
