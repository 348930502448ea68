"""The search index: the traces in the batches, and their words. Filled by readers; its rows may be deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from nodespan.otlp import TraceSlice, summarise
from nodespan.spans.guard import report

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from nodespan.store.database import Database

    Part = tuple[int, int, int]
    """How much of a trace is in a batch: the batch's id, spans, and how many of them failed."""

_BATCHES_AT_ONCE: Final = 32
"""About 2,000 spans, whose rows are written within 50 ms: so long may a process that writes batches have to wait."""
_UNTIL: Final = "index_until"
_DROPPED: Final = "index_dropped"


def fill_index(database: Database, progress: Callable[[int, int], None] | None = None) -> None:
    """Takes out the batches that had to make room, and takes in those that came since.

    Args:
        database: Of the store.
        progress: Called with the spans taken in so far and all that are to be.
    """
    _take_out_dropped(database)
    after = database.read(_indexed_until)
    done, total = 0, 0
    while batches := database.read(lambda connection, after=after: _batches(connection, after)):
        if progress is not None and not total:
            total = database.read(lambda connection, after=after: _spans(connection, after))
        traces = _by_trace((batch_id, data) for batch_id, _, data in batches)
        after = batches[-1][0]
        database.write(lambda connection, traces=traces, after=after: _take_in(connection, traces, after))
        if progress is not None:
            done += sum(spans for _, spans, _ in batches)
            progress(done, total)


def _indexed_until(connection: sqlite3.Connection) -> int:
    if connection.execute("SELECT 1 FROM part LIMIT 1").fetchone() is None:
        return 0
    return _number(connection, _UNTIL)


def _batches(connection: sqlite3.Connection, after: int) -> list[tuple[int, int, bytes]]:
    query = "SELECT id, spans, data FROM batch WHERE id > ? ORDER BY id LIMIT ?"
    return connection.execute(query, (after, _BATCHES_AT_ONCE)).fetchall()


def _spans(connection: sqlite3.Connection, after: int) -> int:
    return connection.execute("SELECT sum(spans) FROM batch WHERE id > ?", (after,)).fetchone()[0]


def _by_trace(batches: Iterable[tuple[int, bytes]]) -> dict[str, tuple[TraceSlice, list[Part]]]:
    found: dict[str, tuple[TraceSlice, list[Part]]] = {}
    for batch_id, data in batches:
        for trace_id, part in _summary(batch_id, data).items():
            if trace_id in found:
                whole, parts = found[trace_id]
                parts.append((batch_id, part.spans, part.errors))
                whole.add(part)
            else:
                found[trace_id] = part, [(batch_id, part.spans, part.errors)]
    return found


def _summary(batch_id: int, data: bytes) -> dict[str, TraceSlice]:
    try:
        return summarise(data)
    except DecodeError as error:
        report("read a batch of the store", ValueError(f"batch {batch_id}: {error}"))
        return {}


def _take_in(connection: sqlite3.Connection, traces: Mapping[str, tuple[TraceSlice, list[Part]]], after: int) -> None:
    if _number(connection, _UNTIL) >= after and _indexed_until(connection):
        return  # another reader was quicker
    for trace_id, (part, parts) in traces.items():
        row = connection.execute("SELECT id, start_ns FROM trace WHERE trace_id = ?", (trace_id,)).fetchone()
        trace = _begin(connection, trace_id, part) if row is None else _go_on(connection, row, part)
        connection.executemany("INSERT INTO part VALUES (?, ?, ?, ?)", [(b, trace, s, e) for b, s, e in parts])
    _remember(connection, _UNTIL, after)


def _begin(connection: sqlite3.Connection, trace_id: str, part: TraceSlice) -> int:
    row = connection.execute(
        "INSERT INTO trace (trace_id, name, service, start_ns, end_ns, spans, errors) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (trace_id, part.name, part.service, part.start_ns, part.end_ns, part.spans, part.errors),
    )
    trace = row.lastrowid or 0
    _write_words(connection, trace, part.start_ns, part.words)
    return trace


def _go_on(connection: sqlite3.Connection, row: tuple[int, int], part: TraceSlice) -> int:
    trace, start_ns = row
    connection.execute(
        "UPDATE trace SET end_ns = max(end_ns, ?), spans = spans + ?, errors = errors + ? WHERE id = ?",
        (part.end_ns, part.spans, part.errors, trace),
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


def _take_out_dropped(database: Database) -> None:
    dropped = database.read(lambda connection: connection.execute("SELECT dropped_batches FROM total").fetchone()[0])
    if dropped == database.read(lambda connection: _number(connection, _DROPPED)):
        return
    while gone := database.read(_gone):
        database.write(lambda connection, gone=gone: _take_out(connection, gone))
    database.write(lambda connection: _remember(connection, _DROPPED, dropped))


def _gone(connection: sqlite3.Connection) -> list[int]:
    query = "SELECT DISTINCT batch FROM part WHERE batch NOT IN (SELECT id FROM batch) LIMIT ?"
    return [batch_id for (batch_id,) in connection.execute(query, (_BATCHES_AT_ONCE,))]


def _take_out(connection: sqlite3.Connection, gone: Sequence[int]) -> None:
    for batch_id in gone:
        parts = connection.execute("SELECT spans, errors, trace FROM part WHERE batch = ?", (batch_id,)).fetchall()
        connection.executemany("UPDATE trace SET spans = spans - ?, errors = errors - ? WHERE id = ?", parts)
        connection.execute("DELETE FROM part WHERE batch = ?", (batch_id,))
        traces = [(trace,) for _, _, trace in parts]
        connection.executemany(
            "DELETE FROM word WHERE trace = ?1 AND (SELECT spans FROM trace WHERE id = ?1) = 0", traces
        )
        connection.executemany("DELETE FROM trace WHERE id = ? AND spans = 0", traces)


def _number(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    return int(row[0]) if row is not None else 0


def _remember(connection: sqlite3.Connection, name: str, number: int) -> None:
    connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, str(number)))
