"""The search index: traces and their words, in a separate file that readers fill from the outbox, newest first."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from nodespan.otlp import Sums, TraceSlice, summarise
from nodespan.spans.guard import report
from nodespan.store.sqlite_file import Schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nodespan.store.database import Database

    Part = tuple[int, Sums]
    """How much of a trace is in a batch, by the batch's id."""

    Range = tuple[int, int]
    """Ids of batches, the first and the last of them."""

INDEX: Final = Schema(
    application_id=0x6E647369,  # "ndsi"
    version=3,
    is_derived=True,
    statements=(
        """
        CREATE TABLE trace (
            id INTEGER PRIMARY KEY,
            trace_id TEXT NOT NULL UNIQUE,
            name TEXT NOT NULL,     -- of the span that started first, and its service
            service TEXT NOT NULL,
            start_ns INTEGER NOT NULL,
            end_ns INTEGER NOT NULL,
            spans INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            calls INTEGER NOT NULL,     -- of models with usage, and the sums of it
            tokens_in INTEGER NOT NULL,
            tokens_out INTEGER NOT NULL,
            decode_us INTEGER NOT NULL
        )
        """,
        "CREATE INDEX trace_start ON trace (start_ns)",
        # How much of a trace is in a batch.
        """
        CREATE TABLE part (
            batch INTEGER NOT NULL,
            trace INTEGER NOT NULL,
            spans INTEGER NOT NULL,
            errors INTEGER NOT NULL,
            calls INTEGER NOT NULL,
            tokens_in INTEGER NOT NULL,
            tokens_out INTEGER NOT NULL,
            decode_us INTEGER NOT NULL,
            PRIMARY KEY (batch, trace)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX part_trace ON part (trace)",
        # The searchable values. The key has the traces with a word in the order in which they are returned.
        """
        CREATE TABLE word (
            kind TEXT NOT NULL,
            word TEXT NOT NULL,
            start_ns INTEGER NOT NULL,
            trace INTEGER NOT NULL,
            PRIMARY KEY (kind, word, start_ns, trace)
        ) WITHOUT ROWID
        """,
        "CREATE INDEX word_trace ON word (trace)",
        # Ids of the batches that are in the index, as ranges that do not touch.
        "CREATE TABLE covered (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
        # The outbox that was read, and the number of its deleted batches when the index was last cleaned.
        "CREATE TABLE source (store_id TEXT NOT NULL, dropped_batches INTEGER NOT NULL)",
        "INSERT INTO source VALUES ('', 0)",
    ),
)
"""The schema of the index."""

_BATCHES_AT_ONCE: Final = 32
"""About 2,000 spans, whose rows are written within 50 ms: the time that another reader may have to wait."""
_TABLES: Final = ("trace", "part", "word", "covered")


class Index:
    """Fills the index of an outbox.

    Attributes:
        database: The index.

    Args:
        outbox: Read only.
        database: The index.
        progress: Called with the number of spans indexed by a call so far and of all that it has to index.
    """

    def __init__(
        self, outbox: Database, database: Database, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._outbox = outbox
        self.database = database
        self._progress = progress
        self._complete_at: object = None

    def fill(self, budget_s: float | None = None) -> bool:
        """Removes deleted batches and reads new ones, newest first.

        Args:
            budget_s: Time limit; one slice of batches is always read. ``None``: until all are read.

        Returns:
            Whether all batches of the outbox are in the index.

        Raises:
            StoreError: One of the files cannot be used.
        """
        if (self._outbox.version(), self.database.version()) == self._complete_at:
            return True
        deadline = None if budget_s is None else time.monotonic() + budget_s
        version = self._outbox.version()
        store_id, dropped = self._outbox.read(_source)
        if self.database.read(_indexed_source)[0] != store_id:
            self.database.write(lambda connection: _adopt(connection, store_id))
        self._remove_dropped(dropped)
        is_complete = self._read_batches(store_id, deadline)
        if self._outbox.read(_source)[1] != dropped:
            # A batch may have been deleted after it was read and before it was written to the index.
            self._remove_dropped(-1)
        self._complete_at = (version, self.database.version()) if is_complete else None
        return is_complete

    def _read_batches(self, store_id: str, deadline: float | None) -> bool:
        done = total = 0
        while (gap := self._gap()) is not None:
            if self._progress is not None and not total:
                total = self._outbox.read(_spans) - self.database.read(indexed_spans)
            batches = self._outbox.read(lambda connection, gap=gap: _batches(connection, gap))
            traces = _by_trace((batch_id, data) for batch_id, _, data in batches)
            first = batches[-1][0] if len(batches) == _BATCHES_AT_ONCE else gap[0]
            covered = first, gap[1]
            if self._outbox.read(_source)[0] != store_id or not self.database.write(
                lambda connection, traces=traces, covered=covered: _add(connection, store_id, traces, covered)
            ):
                return False  # one of the files was replaced
            if self._progress is not None:
                done += sum(spans for _, spans, _ in batches)
                self._progress(done, max(total, done))
            if deadline is not None and time.monotonic() >= deadline:
                return self._gap() is None
        return True

    def _gap(self) -> Range | None:
        last = self._outbox.read(_last_batch)
        return self.database.read(lambda connection: _gap(connection, last))

    def _remove_dropped(self, dropped: int) -> None:
        if dropped == self.database.read(_indexed_source)[1]:
            return
        kept = self._outbox.read(lambda connection: {row[0] for row in connection.execute("SELECT id FROM batch")})
        indexed = self.database.read(
            lambda connection: [row[0] for row in connection.execute("SELECT DISTINCT batch FROM part")]
        )
        gone = [batch_id for batch_id in indexed if batch_id not in kept]
        for i in range(0, len(gone), _BATCHES_AT_ONCE):
            part = gone[i : i + _BATCHES_AT_ONCE]
            self.database.write(lambda connection, part=part: _remove(connection, part))
        self.database.write(lambda connection: connection.execute("UPDATE source SET dropped_batches = ?", (dropped,)))


def indexed_spans(connection: sqlite3.Connection) -> int:
    """Returns the number of spans in the index."""
    return connection.execute("SELECT coalesce(sum(spans), 0) FROM trace").fetchone()[0]


def _source(connection: sqlite3.Connection) -> tuple[str, int]:
    return connection.execute("SELECT store_id, dropped_batches FROM identity, totals").fetchone()


def _indexed_source(connection: sqlite3.Connection) -> tuple[str, int]:
    return connection.execute("SELECT store_id, dropped_batches FROM source").fetchone()


def _adopt(connection: sqlite3.Connection, store_id: str) -> None:
    """Empties an index that was made from another file, unless another reader has done so."""
    if _indexed_source(connection)[0] == store_id:
        return
    for table in _TABLES:
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 the column names are constants
    connection.execute("UPDATE source SET store_id = ?, dropped_batches = 0", (store_id,))


def _last_batch(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()[0]


def _spans(connection: sqlite3.Connection) -> int:
    return connection.execute("SELECT spans FROM totals").fetchone()[0]


def _gap(connection: sqlite3.Connection, last: int) -> Range | None:
    """The newest range of ids that is not covered."""
    for covered_first, covered_last in connection.execute("SELECT first, last FROM covered ORDER BY first DESC"):
        if covered_last < last:
            return covered_last + 1, last
        last = covered_first - 1
    return (1, last) if last > 0 else None


def _batches(connection: sqlite3.Connection, gap: Range) -> list[tuple[int, int, bytes]]:
    query = "SELECT id, spans, data FROM batch WHERE id BETWEEN ? AND ? ORDER BY id DESC LIMIT ?"
    return connection.execute(query, (*gap, _BATCHES_AT_ONCE)).fetchall()


def _by_trace(batches: Iterable[tuple[int, bytes]]) -> dict[str, tuple[TraceSlice, list[Part]]]:
    found: dict[str, tuple[TraceSlice, list[Part]]] = {}
    for batch_id, data in batches:
        for trace_id, part in _summary(batch_id, data).items():
            if trace_id in found:
                whole, parts = found[trace_id]
                parts.append((batch_id, part.sums))
                whole.add(part)
            else:
                found[trace_id] = part, [(batch_id, part.sums)]
    return found


def _summary(batch_id: int, data: bytes) -> dict[str, TraceSlice]:
    try:
        return summarise(data)
    except DecodeError as error:
        report("read a batch of the store", ValueError(f"batch {batch_id}: {error}"))
        return {}


def _add(
    connection: sqlite3.Connection,
    store_id: str,
    traces: Mapping[str, tuple[TraceSlice, list[Part]]],
    covered: Range,
) -> bool:
    """Adds the traces of a range of batches; ``False`` if the index is of another outbox by now."""
    if _indexed_source(connection)[0] != store_id:
        return False
    first, last = covered
    if connection.execute("SELECT 1 FROM covered WHERE first <= ? AND last >= ?", (last, first)).fetchone():
        return True  # another reader has added them
    for trace_id, (part, parts) in traces.items():
        row = connection.execute("SELECT id, start_ns FROM trace WHERE trace_id = ?", (trace_id,)).fetchone()
        trace = _insert(connection, trace_id, part) if row is None else _extend(connection, row, part)
        rows = [(batch_id, trace, *sums) for batch_id, sums in parts]
        connection.executemany("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    touching = "SELECT min(first), max(last) FROM covered WHERE last = ? - 1 OR first = ? + 1"
    before, after = connection.execute(touching, covered).fetchone()
    first, last = min(first, before or first), max(last, after or last)
    connection.execute("DELETE FROM covered WHERE first >= ? AND last <= ?", (first, last))
    connection.execute("INSERT INTO covered VALUES (?, ?)", (first, last))
    return True


def _insert(connection: sqlite3.Connection, trace_id: str, part: TraceSlice) -> int:
    row = connection.execute(
        f"INSERT INTO trace (trace_id, name, service, start_ns, end_ns, {', '.join(Sums._fields)}) "  # noqa: S608 the column names are constants
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (trace_id, part.name, part.service, part.start_ns, part.end_ns, *part.sums),
    )
    trace = row.lastrowid or 0
    _write_words(connection, trace, part.start_ns, part.words)
    return trace


def _extend(connection: sqlite3.Connection, row: tuple[int, int], part: TraceSlice) -> int:
    trace, start_ns = row
    connection.execute(
        f"UPDATE trace SET end_ns = max(end_ns, ?), {_changed_by('+')} WHERE id = ?",  # noqa: S608 the column names are constants
        (part.end_ns, *part.sums, trace),
    )
    words = part.words
    if part.start_ns < start_ns or (part.start_ns == start_ns and part.is_root_first):
        connection.execute(
            "UPDATE trace SET name = ?, service = ?, start_ns = ? WHERE id = ?",
            (part.name, part.service, part.start_ns, trace),
        )
        words = words.union(connection.execute("SELECT kind, word FROM word WHERE trace = ?", (trace,)))
        connection.execute("DELETE FROM word WHERE trace = ?", (trace,))
    _write_words(connection, trace, min(start_ns, part.start_ns), words)
    return trace


def _write_words(connection: sqlite3.Connection, trace: int, start_ns: int, words: Iterable[tuple[str, str]]) -> None:
    rows = [(kind, word, start_ns, trace) for kind, word in words]
    connection.executemany("INSERT OR IGNORE INTO word VALUES (?, ?, ?, ?)", rows)


def _remove(connection: sqlite3.Connection, batches: Sequence[int]) -> None:
    for batch_id in batches:
        query = f"SELECT {', '.join(Sums._fields)}, trace FROM part WHERE batch = ?"  # noqa: S608 the column names are constants
        parts = connection.execute(query, (batch_id,)).fetchall()
        connection.executemany(f"UPDATE trace SET {_changed_by('-')} WHERE id = ?", parts)  # noqa: S608 the column names are constants
        connection.execute("DELETE FROM part WHERE batch = ?", (batch_id,))
        traces = [(part[-1],) for part in parts]
        connection.executemany(
            "DELETE FROM word WHERE trace = (SELECT id FROM trace WHERE id = ? AND spans = 0)", traces
        )
        connection.executemany("DELETE FROM trace WHERE id = ? AND spans = 0", traces)


def _changed_by(sign: str) -> str:
    return ", ".join(f"{field} = {field} {sign} ?" for field in Sums._fields)
