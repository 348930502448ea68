"""Finds traces in a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from nodespan.errors import StoreError
from nodespan.otlp import ERROR, SpanRecord, decode_batch
from nodespan.store import records
from nodespan.store.database import MEMORY, Database
from nodespan.store.index import fill_index
from nodespan.store.records import ANY
from nodespan.store.records import TraceFilter as Filter

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from nodespan.store.outbox import SqliteStore

_COUNTED: Final = 1_000
"""Of several words the rarest leads the search; how rare one is, is counted so far."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which traces are wanted: those that fit every field that is given, with whichever of their spans.

    Attributes:
        node: LangGraph's name of a node, or the name that it was given.
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
    is_error: bool = False
    since_ns: int | None = None


@dataclass(frozen=True, slots=True)
class TraceSummary:
    """A line of ``nodespan traces``. Times are Unix time in ns; name and service are of the span that began first."""

    trace_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    spans: int
    errors: int


class StoreReader:
    """Reads a store through a connection of its own, so that nobody who writes waits for a search.

    Args:
        store: Whose batches to read; what came since the last time is taken into the search index first.
        progress: Called with the number of spans indexed so far and of all that are to be, while a long fill goes on.
    """

    def __init__(self, store: SqliteStore, progress: Callable[[int, int], None] | None = None) -> None:
        self._path = store.path
        self._database = store.database if store.path == MEMORY else Database(store.path)
        self._progress = progress

    def find(self, wanted: Filter = ANY, limit: int = 20) -> list[records.TraceRecord]:
        """Find the newest traces that match, newest first, with ended and open spans alike.

        Args:
            wanted: The filter; ``before`` in it gives the next page.
            limit: Maximum number of traces.

        Raises:
            StoreError: The store cannot be read.
        """
        raise NotImplementedError

    def get(self, trace_id: str) -> records.TraceContent:
        """Get a trace with its spans.

        Args:
            trace_id: Its id, or a unique prefix of it.

        Raises:
            StoreError: No trace or more than one matches, or the store cannot be read.
        """
        raise NotImplementedError

    def cursor(self) -> str:
        """Return the cursor of now: ``follow`` then gives what changes from now on.

        Take it before ``find`` or ``get``: a change between the two is then given twice, never missed.
        """
        raise NotImplementedError

    def follow(self, cursor: str, wanted: Filter = ANY, wait_s: float = 0.0) -> records.Changes:
        """Return what has changed since a cursor, a few MB at most.

        A call that finds no change costs one ``PRAGMA data_version`` (some µs): polling every 50 ms is cheap.

        Args:
            cursor: Of ``cursor()`` or of the last ``Changes``.
            wanted: Only changes of traces that match now. Spans of a trace that were stored before it matched are not
                given later: ``get`` has them.
            wait_s: If nothing has changed, poll this long until something has. Blocks the thread; in asyncio use
                ``asyncio.to_thread``.

        Raises:
            StoreError: The store cannot be read.
        """
        raise NotImplementedError

    def graph(self, digest: str) -> records.GraphRecord | None:
        """Return the declared graph with this hash (or unique prefix of it), if the store has it."""
        raise NotImplementedError

    def fill(self, budget_s: float | None = None) -> bool:
        """Take stored batches into the index, newest first.

        ``find``, ``get`` and ``follow`` do so first, within the ``fill_s`` of the constructor.

        Args:
            budget_s: How long, at most; at least one slice of about 2,000 spans is read. ``None``: until all are in.

        Returns:
            Whether the index has all batches.
        """
        raise NotImplementedError

    def status(self) -> records.StoreStatus:
        """Return how the store is read, and how much of it is in the index."""
        raise NotImplementedError

    def find_traces(self, wanted: TraceFilter, limit: int) -> list[TraceSummary]:
        """The newest traces that fit, newest first."""
        return self._search(lambda connection: _find(connection, wanted, limit))

    def get_trace(self, prefix: str) -> list[SpanRecord]:
        """The spans of the trace whose id begins so, each once, by start.

        Raises:
            StoreError: There is none, or more than one.
        """

        def work(connection: sqlite3.Connection) -> list[SpanRecord]:
            trace, trace_id = self._get(connection, prefix)
            batches = connection.execute(
                "SELECT data FROM batch WHERE id IN (SELECT batch FROM part WHERE trace = ?)", (trace,)
            )
            spans = {span.span_id: span for (data,) in batches for span in decode_batch(data, trace_id)}
            return sorted(spans.values(), key=lambda span: (span.start_ns, -span.end_ns))

        return self._search(work)

    def iter_batches(self, prefixes: Sequence[str] = ()) -> Iterator[tuple[bytes, set[str]]]:
        """Encoded batches, the oldest first, each with the ids of the wanted traces in it.

        Args:
            prefixes: How the wanted traces' ids begin. Without any every batch is given, and no ids.

        Raises:
            StoreError: Of a trace there is none, or more than one.
        """

        def of_traces(connection: sqlite3.Connection) -> dict[int, set[str]]:
            found: dict[int, set[str]] = {}
            for trace, trace_id in [self._get(connection, prefix) for prefix in prefixes]:
                for (batch_id,) in connection.execute("SELECT batch FROM part WHERE trace = ?", (trace,)):
                    found.setdefault(batch_id, set()).add(trace_id)
            return found

        def all_batches(connection: sqlite3.Connection) -> dict[int, set[str]]:
            return {batch_id: set() for (batch_id,) in connection.execute("SELECT id FROM batch")}

        wanted = self._search(of_traces) if prefixes else self._search(all_batches)
        for batch_id in sorted(wanted):
            data = self._search(lambda connection, batch_id=batch_id: _data(connection, batch_id), fill=False)
            if data is not None:  # it may have had to make room meanwhile
                yield data, wanted[batch_id]

    def _get(self, connection: sqlite3.Connection, prefix: str) -> tuple[int, str]:
        first = prefix.lower()
        found = connection.execute(
            "SELECT id, trace_id FROM trace WHERE trace_id >= ? AND trace_id < ? LIMIT 2", (first, first + "g")
        ).fetchall()
        if len(found) != 1:
            what = "More than one trace" if found else "No trace"
            raise StoreError(f"{what} in {self._path} begins with {prefix!r}. See them all: nodespan traces")
        return found[0]

    def _search(self, work: Callable[[sqlite3.Connection], _T], *, fill: bool = True) -> _T:
        try:
            if fill:
                fill_index(self._database, self._progress)
            return self._database.read(work)
        finally:
            if self._path != MEMORY:
                self._database.close()


def _data(connection: sqlite3.Connection, batch_id: int) -> bytes | None:
    row = connection.execute("SELECT data FROM batch WHERE id = ?", (batch_id,)).fetchone()
    return row[0] if row is not None else None


def _find(connection: sqlite3.Connection, wanted: TraceFilter, limit: int) -> list[TraceSummary]:
    shortest_ns = (wanted.min_duration_s or 0.0) * 1e9
    since_ns = wanted.since_ns or 0
    columns = "trace_id, name, service, trace.start_ns, end_ns, spans, errors"
    words = _words(wanted)
    if len(words) > 1:
        words.sort(key=lambda word: _frequency(connection, word))
    if not words:
        query = (
            f"SELECT {columns} FROM trace WHERE start_ns >= ? AND end_ns - start_ns >= ? ORDER BY start_ns DESC LIMIT ?"  # noqa: S608 our own words
        )
        return [TraceSummary(*row) for row in connection.execute(query, (since_ns, shortest_ns, limit))]
    # CROSS JOIN has SQLite walk the traces of the rarest word, newest first, until enough of them fit.
    others = "".join(
        " AND EXISTS (SELECT 1 FROM word WHERE kind = ? AND word = ? "
        "AND start_ns = lead.start_ns AND trace = lead.trace)"
        for _ in words[1:]
    )
    query = (
        f"SELECT {columns} FROM word AS lead CROSS JOIN trace ON trace.id = lead.trace "  # noqa: S608 our own words
        f"WHERE kind = ? AND word = ? AND lead.start_ns >= ? {others} AND end_ns - trace.start_ns >= ? "
        "ORDER BY lead.start_ns DESC LIMIT ?"
    )
    bound = (*words[0], since_ns, *(part for word in words[1:] for part in word), shortest_ns, limit)
    return [TraceSummary(*row) for row in connection.execute(query, bound)]


def _words(wanted: TraceFilter) -> list[tuple[str, str]]:
    given = [(kind, getattr(wanted, kind)) for kind in ("service", "workflow", "node", "model", "conversation")]
    words = [(kind, word) for kind, word in given if word is not None]
    return [*words, ERROR] if wanted.is_error else words


def _frequency(connection: sqlite3.Connection, word: tuple[str, str]) -> int:
    query = "SELECT count(*) FROM (SELECT 1 FROM word WHERE kind = ? AND word = ? LIMIT ?)"
    return connection.execute(query, (*word, _COUNTED)).fetchone()[0]
