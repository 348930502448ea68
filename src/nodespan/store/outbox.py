"""The outbox: a row per batch, in SQLite, written and read by any process."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodespan.store import graphs, running
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
"""The outcome of a span that its destination has accepted; every other outcome is the reason of a loss."""

_UNSENT: Final = "state = 0 AND destination IS NOT NULL"
_ROOM_MADE: Final = 1 / 16
"""Part of the limit that is freed at once, because the search for deletable batches reads all of them."""
_AGE_CHECK_S: Final = 60.0
_PAGE_BYTES: Final = 4 * 1024 * 1024
_EVERYBODY: Final = ""
_MEMORY_MAX_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much is kept. The oldest batches are deleted first, delivered and local ones before those that wait.

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
class Waiting:
    """Spans that wait for one destination.

    Attributes:
        identity: Keyed hash of the destination; ``None`` for spans that were written without one.
        label: Endpoint of the destination, without credentials.
        spans: Number of spans.
        oldest_ns: Unix time in ns of the oldest batch.
        last_error: Last failure of the destination; ``None`` once it accepts spans again.
    """

    identity: str | None
    label: str
    spans: int
    oldest_ns: int
    last_error: str | None = None


@dataclass(frozen=True, slots=True)
class Outbox:
    """Content of the store.

    Attributes:
        spans: Number of spans.
        size_bytes: Size of their encoded form.
        waiting: Of the spans, those to be sent.
        oldest_waiting_ns: Unix time in ns of the oldest of these.
        destinations: Those for which spans wait.
        outcomes: Spans by outcome over the life of the file: ``exported``, or the reason of the loss.
    """

    spans: int
    size_bytes: int
    waiting: int
    oldest_waiting_ns: int | None
    destinations: list[Waiting]
    outcomes: dict[str, int]


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

    def append(
        self,
        batch: Encoded,
        destination: str | None,
        writer: str = "",
        label: str = "",
        timeout_s: float | None = None,
        ended: Iterable[Key] = (),
    ) -> int:
        """Stores a batch durably, and deletes the oldest ones above the limits.

        Args:
            batch: The batch.
            destination: Identity of the destination; ``None`` to keep it here only.
            writer: Id of the processor that reads the outcome.
            label: Endpoint of the destination, as it is shown.
            timeout_s: Longest time to wait for another process's write lock; the usual one if not given.
            ended: Its spans whose rows as open spans are deleted in the same transaction.

        Returns:
            The batch's id.
        """

        def work(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "INSERT INTO batch (created_ns, writer, spans, bytes, destination, data) VALUES (?, ?, ?, ?, ?, ?)",
                (time.time_ns(), writer, batch.spans, len(batch.data), destination, batch.data),
            )
            if destination is not None:
                connection.execute(
                    "INSERT INTO destination (identity, label) VALUES (?, ?) ON CONFLICT (identity) DO NOTHING",
                    (destination, label),
                )
            running.remove(connection, ended)
            graphs.keep(connection, batch.data)
            self._make_room(connection)
            return row.lastrowid or 0

        return self.database.write(work, timeout_s)

    def unsent(self, destination: str, after: int = 0) -> tuple[list[Batch], int]:
        """The oldest batches that wait to be sent to this destination, a few MB of them.

        Args:
            destination: Identity of the destination.
            after: Only batches with a greater id.

        Returns:
            The batches, and the greatest id that was checked: no other batch up to it waits.
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

    def settle(
        self, batches: Sequence[Batch], outcomes: Mapping[str, int], *, for_writer: bool = True
    ) -> dict[str, int]:
        """Records the outcome of batches of one writer, except those that another process has settled.

        Args:
            batches: Sent together.
            outcomes: Their spans by outcome: ``EXPORTED``, or the reason of the loss.
            for_writer: Keep the outcome for the writer, which reads it with ``take_outcomes``.

        Returns:
            The spans that were settled by this call, by outcome.
        """

        def work(connection: sqlite3.Connection) -> dict[str, int]:
            update = "UPDATE batch SET state = 1 WHERE state = 0 AND id = ?"
            settled = sum(b.spans for b in batches if connection.execute(update, (b.id,)).rowcount)
            if settled == sum(batch.spans for batch in batches):
                found = dict(outcomes)
            else:
                found = {EXPORTED: settled} if settled else {}
            _count(connection, batches[0].writer if for_writer else _EVERYBODY, found)
            return found

        return self.database.write(work)

    def take_outcomes(self, writer: str) -> dict[str, int]:
        """Outcomes of a writer's spans since the last call, as far as other processes have sent or dropped them."""
        query = "SELECT outcome, spans FROM outcome WHERE writer = ?"
        if not self.database.read(lambda connection: connection.execute(query, (writer,)).fetchall()):
            return {}

        def work(connection: sqlite3.Connection) -> dict[str, int]:
            found = dict(connection.execute(query, (writer,)).fetchall())
            connection.execute("DELETE FROM outcome WHERE writer = ?", (writer,))
            return found

        return self.database.write(work)

    def readdress(self, source: str | None, destination: str, label: str) -> int:
        """Addresses the waiting batches of one destination, or those without one, to another.

        Args:
            source: Identity of the destination that they are addressed to; ``None``: none.
            destination: Identity of the new one.
            label: Its endpoint, as it is shown.

        Returns:
            Number of spans that were readdressed.
        """

        def work(connection: sqlite3.Connection) -> int:
            where = "state = 0 AND destination IS ?"
            spans = connection.execute(f"SELECT coalesce(sum(spans), 0) FROM batch WHERE {where}", (source,)).fetchone()  # noqa: S608 the column names are constants
            connection.execute(f"UPDATE batch SET destination = ? WHERE {where}", (destination, source))  # noqa: S608 the column names are constants
            connection.execute(
                "INSERT INTO destination (identity, label) VALUES (?, ?) ON CONFLICT (identity) DO NOTHING",
                (destination, label),
            )
            return spans[0]

        return self.database.write(work)

    def set_last_error(self, identity: str, text: str | None) -> None:
        """Keeps the last failure of a destination; ``None`` when it accepts spans again."""
        query = "SELECT 1 FROM destination WHERE identity = ? AND last_error IS NOT ?"
        if self.database.read(lambda connection: connection.execute(query, (identity, text)).fetchone()):
            update = "UPDATE destination SET last_error = ? WHERE identity = ?"
            self.database.write(lambda connection: connection.execute(update, (text, identity)))

    def stats(self) -> Outbox:
        """Content of the store now."""

        def work(connection: sqlite3.Connection) -> Outbox:
            spans, size_bytes, waiting = connection.execute("SELECT spans, bytes, waiting FROM totals").fetchone()
            destinations = _waiting(connection, "destination IS NOT NULL") if waiting else []  # or no batch is read
            oldest_ns = min((each.oldest_ns for each in destinations), default=None)
            outcomes = connection.execute("SELECT outcome, spans FROM outcome WHERE writer = ?", (_EVERYBODY,))
            return Outbox(spans, size_bytes, waiting, oldest_ns, destinations, dict(outcomes.fetchall()))

        return self.database.read(work)

    def waiting(self) -> list[Waiting]:
        """The waiting spans by destination, including those that were written without one."""
        return self.database.read(lambda connection: _waiting(connection, "1"))

    def waiting_for(self, identity: str | None) -> int:
        """Spans that wait to be sent to this destination; with ``None`` those that were written without one."""
        query = "SELECT coalesce(sum(spans), 0) FROM batch WHERE state = 0 AND destination IS ?"
        return self.database.read(lambda connection: connection.execute(query, (identity,)).fetchone()[0])

    def close(self) -> None:
        """Closes the connection; the next call opens it again. The content of a store in memory is then lost."""
        self.database.close()

    def _make_room(self, connection: sqlite3.Connection) -> None:
        if time.monotonic() >= self._next_age_check:
            self._next_age_check = time.monotonic() + _AGE_CHECK_S
            oldest_ns = time.time_ns() - round(self._max_age_s * 1e9)
            _drop(connection, f"created_ns < {oldest_ns}", "store_age")
            graphs.remove_unused(connection, oldest_ns)
            connection.execute("DELETE FROM outcome WHERE writer <> ? AND changed_ns < ?", (_EVERYBODY, oldest_ns))
        excess = connection.execute("SELECT bytes FROM totals").fetchone()[0] - self._max_bytes
        if excess <= 0:
            return
        excess += round(self._max_bytes * _ROOM_MADE)
        for which in (f"NOT ({_UNSENT})", _UNSENT):
            last = None
            for batch_id, size in connection.execute(f"SELECT id, bytes FROM batch WHERE {which} ORDER BY id"):  # noqa: S608 the column names are constants
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
        f"SELECT writer, sum(spans) FROM batch WHERE ({where}) AND {_UNSENT} GROUP BY writer"  # noqa: S608 the column names are constants
    ).fetchall()
    for writer, spans in lost:
        _count(connection, writer, {reason: spans})
    connection.execute(f"DELETE FROM batch WHERE {where}")  # noqa: S608 the column names are constants


def _count(connection: sqlite3.Connection, writer: str, outcomes: Mapping[str, int]) -> None:
    for outcome, spans in outcomes.items():
        for whose in {writer, _EVERYBODY}:
            connection.execute(
                "INSERT INTO outcome VALUES (?, ?, ?, ?) ON CONFLICT (writer, outcome) DO UPDATE SET "
                "spans = spans + excluded.spans, changed_ns = excluded.changed_ns",
                (whose, outcome, spans, time.time_ns()),
            )


def _waiting(connection: sqlite3.Connection, where: str) -> list[Waiting]:
    rows = connection.execute(
        "SELECT batch.destination, coalesce(label, ''), sum(spans), min(created_ns), last_error FROM batch "  # noqa: S608 the column names are constants
        f"LEFT JOIN destination ON identity = batch.destination WHERE state = 0 AND {where} GROUP BY batch.destination"
    )
    return [Waiting(*row) for row in rows.fetchall()]
