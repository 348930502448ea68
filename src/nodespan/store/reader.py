"""The search index: a row per span, filled by readers from the batches; it may be deleted and is then built anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from nodespan import semconv
from nodespan.errors import StoreError
from nodespan.otlp import SpanRecord, decode_batch

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from nodespan.store.sqlite import SqliteStore

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS span (
    batch INTEGER NOT NULL,
    trace_id TEXT NOT NULL,
    name TEXT NOT NULL,
    is_root INTEGER NOT NULL,
    start_ns INTEGER NOT NULL,
    end_ns INTEGER NOT NULL,
    is_error INTEGER NOT NULL,
    service TEXT,
    workflow TEXT,
    node TEXT,
    model TEXT,
    conversation TEXT
);
CREATE INDEX IF NOT EXISTS span_trace ON span (trace_id, batch);
CREATE INDEX IF NOT EXISTS span_start ON span (start_ns);
CREATE INDEX IF NOT EXISTS span_node ON span (node, start_ns);
CREATE INDEX IF NOT EXISTS span_model ON span (model, start_ns);
"""
_FILL_PER_COMMIT: Final = 200


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces are wanted; a trace is, if one of its spans fits every field that is given.

    Attributes:
        min_duration_s: Of the whole trace.
        is_error: A span of it failed.
        since_ns: Unix time in ns of its start.
    """

    service: str | None = None
    workflow: str | None = None
    node: str | None = None
    model: str | None = None
    conversation: str | None = None
    min_duration_s: float | None = None
    is_error: bool | None = None
    since_ns: int | None = None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A line of ``nodespan traces``. Times are Unix time in ns."""

    trace_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    spans: int
    errors: int


class StoreReader:
    """Finds traces in a store.

    Args:
        progress: Called with the number of spans indexed so far and of all that are to be, while a long fill goes on.
    """

    def __init__(self, store: SqliteStore, progress: Callable[[int, int], None] | None = None) -> None:
        self._store = store
        self._progress = progress

    def find_traces(self, wanted: TraceFilter, limit: int) -> list[TraceSummary]:
        """The newest traces that fit, newest first."""
        conditions, values = _conditions(wanted)
        having = "HAVING max(end_ns) - min(start_ns) >= ?" if wanted.min_duration_s is not None else ""
        if wanted.min_duration_s is not None:
            values.append(wanted.min_duration_s * 1e9)
        connection = self._filled()
        try:
            rows = connection.execute(
                f"""
                SELECT trace_id, min(start_ns), max(end_ns), count(*), sum(is_error),
                       coalesce(max(CASE WHEN is_root THEN name END), min(name)), coalesce(max(service), '')
                FROM span WHERE trace_id IN (SELECT DISTINCT trace_id FROM span WHERE {conditions})
                GROUP BY trace_id {having} ORDER BY min(start_ns) DESC LIMIT ?
                """,  # noqa: S608 the conditions are our own words, the values are bound
                (*values, limit),
            ).fetchall()
        finally:
            connection.close()
        return [TraceSummary(row[0], row[5], row[6], row[1], row[2], row[3], row[4]) for row in rows]

    def get_trace(self, prefix: str) -> list[SpanRecord]:
        """The spans of the trace whose id begins so, each once, by start.

        Raises:
            StoreError: There is none, or more than one.
        """
        connection = self._filled()
        try:
            found = connection.execute(
                "SELECT DISTINCT trace_id FROM span WHERE trace_id >= ? AND trace_id < ? LIMIT 3",
                (prefix.lower(), prefix.lower() + "g"),
            ).fetchall()
            if len(found) != 1:
                what = "no trace" if not found else "more than one trace"
                raise StoreError(f"{what} in {self._store.path} begins with {prefix!r}. See them: nodespan traces")
            batches = connection.execute(
                "SELECT data FROM batch WHERE id IN (SELECT batch FROM span WHERE trace_id = ?)", found[0]
            ).fetchall()
        finally:
            connection.close()
        spans = (span for (data,) in batches for span in decode_batch(data) if span.trace_id == found[0][0])
        return sorted({span.span_id: span for span in spans}.values(), key=lambda span: (span.start_ns, -span.end_ns))

    def _filled(self) -> sqlite3.Connection:
        """A connection on an index that knows every batch."""
        connection = self._store.connection()
        connection.executescript(_SCHEMA)
        # Batches that were dropped to make room take their rows along.
        oldest = connection.execute("SELECT coalesce(min(id), 0) FROM batch").fetchone()[0]
        with connection:
            connection.execute("DELETE FROM span WHERE batch < ?", (oldest,))
        row = connection.execute("SELECT value FROM fact WHERE name = 'indexed'").fetchone()
        done_until = int(row[0]) if row and connection.execute("SELECT 1 FROM span LIMIT 1").fetchone() else 0
        total = connection.execute("SELECT coalesce(sum(spans), 0) FROM batch WHERE id > ?", (done_until,)).fetchone()[0]
        done = 0
        while rows := connection.execute(
            "SELECT id, data FROM batch WHERE id > ? ORDER BY id LIMIT ?", (done_until, _FILL_PER_COMMIT)
        ).fetchall():
            with connection:
                for batch, data in rows:
                    found = [_row(batch, span) for span in decode_batch(data)]
                    connection.executemany(f"INSERT INTO span VALUES ({', '.join('?' * 12)})", found)  # noqa: S608
                    done += len(found)
                done_until = rows[-1][0]
                connection.execute("INSERT OR REPLACE INTO fact VALUES ('indexed', ?)", (str(done_until),))
            if self._progress is not None:
                self._progress(done, total)
        return connection


def _conditions(wanted: TraceFilter) -> tuple[str, list[Any]]:
    given: list[tuple[str, Any]] = [
        ("service = ?", wanted.service),
        ("workflow = ?", wanted.workflow),
        ("node = ?", wanted.node),
        ("model = ?", wanted.model),
        ("conversation = ?", wanted.conversation),
        ("is_error = ?", None if wanted.is_error is None else int(wanted.is_error)),
        ("start_ns >= ?", wanted.since_ns),
    ]
    kept = [(condition, value) for condition, value in given if value is not None]
    return " AND ".join(condition for condition, _ in kept) or "1", [value for _, value in kept]


def _row(batch: int, span: SpanRecord) -> tuple[Any, ...]:
    attributes = span.attributes
    return (
        batch,
        span.trace_id,
        span.name,
        not span.parent_span_id,
        span.start_ns,
        span.end_ns,
        span.status_code == "ERROR",
        span.service_name,
        attributes.get(semconv.WORKFLOW_NAME),
        attributes.get(semconv.NODE),
        attributes.get(semconv.REQUEST_MODEL),
        attributes.get(semconv.CONVERSATION_ID),
    )
