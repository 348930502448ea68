"""Queries of the search index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nodespan.otlp import ERROR, INTERRUPTED, RESUMES, Sums

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from nodespan.store.records import TraceFilter, TraceRecord

    Word = tuple[str, str]

_COUNTED: Final = 1_000
"""With several words the search starts with the rarest; occurrences are counted up to this number."""
_MAX: Final = 2**63 - 1
_COLUMNS: Final = f"trace.id, trace.trace_id, name, service, trace.start_ns, end_ns, {', '.join(Sums._fields)}"


def find(connection: sqlite3.Connection, wanted: TraceFilter, limit: int) -> list[TraceRecord]:
    """The newest traces that match, newest first."""
    words = _words(wanted)
    if len(words) > 1:
        words.sort(key=lambda word: _frequency(connection, word))
    below_ns, below_id = _upper_bound(connection, wanted)
    since_ns = min(max(wanted.since_ns or 0, 0), _MAX)
    if wanted.trace_id is not None:
        # The unary plus makes SQLite search by the prefix of the id instead of scanning all traces by start.
        tables, start, row_id = "trace", "+trace.start_ns", "trace.id"
        where, bound = _conditions(wanted, words)
    elif words:
        # CROSS JOIN makes SQLite scan the traces of the rarest word, newest first, until enough of them match.
        tables, start, row_id = "word AS lead CROSS JOIN trace ON trace.id = lead.trace", "lead.start_ns", "lead.trace"
        where, bound = _conditions(wanted, words[1:])
        where, bound = f"lead.kind = ? AND lead.word = ? AND {where}", [*words[0], *bound]
    else:
        tables, start, row_id = "trace", "trace.start_ns", "trace.id"
        where, bound = _conditions(wanted, [])
    query = (
        f"SELECT {_COLUMNS} FROM {tables} WHERE {where} "  # noqa: S608 the column names are constants
        f"AND {start} BETWEEN ? AND ? AND ({start} < ? OR {row_id} < ?) ORDER BY {start} DESC, {row_id} DESC LIMIT ?"
    )
    rows = connection.execute(query, (*bound, since_ns, below_ns, below_ns, below_id, min(limit, _MAX)))
    return [_record(connection, row) for row in rows.fetchall()]


def changed(connection: sqlite3.Connection, batches: tuple[int, int]) -> list[TraceRecord]:
    """The traces with spans in this range of batches."""
    query = f"SELECT {_COLUMNS} FROM trace WHERE id IN (SELECT trace FROM part WHERE batch BETWEEN ? AND ?)"  # noqa: S608 the column names are constants
    return [_record(connection, row) for row in connection.execute(query, batches).fetchall()]


def by_ids(connection: sqlite3.Connection, trace_ids: Iterable[str]) -> dict[str, TraceRecord]:
    """The traces with these ids that have ended spans."""
    query = f"SELECT {_COLUMNS} FROM trace WHERE trace_id = ?"  # noqa: S608 the column names are constants
    rows = (connection.execute(query, (trace_id,)).fetchone() for trace_id in trace_ids)
    return {row[1]: _record(connection, row) for row in rows if row is not None}


def by_prefix(connection: sqlite3.Connection, prefix: str) -> list[TraceRecord]:
    """Up to two traces with this prefix of the id."""
    query = f"SELECT {_COLUMNS} FROM trace WHERE trace_id >= ? AND trace_id < ? LIMIT 2"  # noqa: S608 the column names are constants
    rows = connection.execute(query, _prefix_range(prefix))
    return [_record(connection, row) for row in rows.fetchall()]


def batches_of(connection: sqlite3.Connection, trace_id: str) -> list[int]:
    """Ids of the batches with spans of a trace."""
    query = "SELECT batch FROM part WHERE trace = (SELECT id FROM trace WHERE trace_id = ?) ORDER BY batch"
    return [batch_id for (batch_id,) in connection.execute(query, (trace_id,))]


def _record(connection: sqlite3.Connection, row: tuple[Any, ...]) -> TraceRecord:
    trace, trace_id, name, service, start_ns, end_ns, *numbers = row
    sums = Sums(*numbers)
    labels: dict[str, list[str]] = {}
    for kind, word in connection.execute("SELECT kind, word FROM word WHERE trace = ? ORDER BY kind, word", (trace,)):
        labels.setdefault(kind, []).append(word)
    labels.pop(ERROR[0], None)
    return {
        "trace_id": trace_id,
        "name": name,
        "service": service,
        "start_ns": start_ns,
        "end_ns": end_ns,
        "duration_s": (end_ns - start_ns) / 1e9,
        "state": "ended",
        "spans": sums.spans,
        "errors": sums.errors,
        "running": 0,
        "lost": 0,
        "phase": None,
        "tokens_in": sums.tokens_in if sums.calls else None,
        "tokens_out": sums.tokens_out if sums.calls else None,
        "decode_s": sums.decode_us / 1e6 if sums.decode_us else None,
        "is_interrupted": labels.pop(INTERRUPTED[0], None) is not None,
        "resumes": next(iter(labels.pop(RESUMES, ())), None),
        "labels": labels,
    }


def _conditions(wanted: TraceFilter, words: Iterable[Word]) -> tuple[str, list[Any]]:
    """A condition on ``trace``, and the values of its parameters."""
    where = ["end_ns - trace.start_ns >= ?"]
    bound: list[Any] = [(wanted.min_duration_s or 0.0) * 1e9]
    if wanted.trace_id is not None:
        where.append("trace.trace_id >= ? AND trace.trace_id < ?")
        bound += _prefix_range(wanted.trace_id)
    for word in words:
        where.append(
            "EXISTS (SELECT 1 FROM word WHERE kind = ? AND word = ? AND start_ns = trace.start_ns AND trace = trace.id)"
        )
        bound += word
    return " AND ".join(where), bound


def _upper_bound(connection: sqlite3.Connection, wanted: TraceFilter) -> tuple[int, int]:
    """Upper bound of start and row id, compared as a pair, of the requested traces."""
    bounds = [(_MAX, _MAX)]
    if wanted.until_ns is not None:
        bounds.append((max(min(wanted.until_ns, _MAX), 0), 0))
    if wanted.before is not None:
        row = connection.execute("SELECT start_ns, id FROM trace WHERE trace_id = ?", (wanted.before,)).fetchone()
        bounds.append(row or (0, 0))
    return min(bounds)


def _prefix_range(prefix: str) -> tuple[str, str]:
    first = prefix.lower()
    return first, first + "g"


def _words(wanted: TraceFilter) -> list[Word]:
    kinds = ("service", "workflow", "node", "model", "conversation", "user", "graph")
    given = [(kind, getattr(wanted, kind)) for kind in kinds]
    words = [(kind, word) for kind, word in given if word is not None]
    words += [("tag", tag) for tag in wanted.tags] + [("metadata", pair) for pair in wanted.metadata]
    return [*words, ERROR] if wanted.is_error else words


def _frequency(connection: sqlite3.Connection, word: Word) -> int:
    query = "SELECT count(*) FROM (SELECT 1 FROM word WHERE kind = ? AND word = ? LIMIT ?)"
    return connection.execute(query, (*word, _COUNTED)).fetchone()[0]
