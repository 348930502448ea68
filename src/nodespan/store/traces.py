"""The read model: finds, gets and follows the traces of a store, as records that are ready for JSON."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from nodespan.errors import StoreBusyError, StoreError
from nodespan.spans.log import warn
from nodespan.store import graphs, merge, search
from nodespan.store.convert import span_records
from nodespan.store.database import MEMORY, Database, DatabaseReader
from nodespan.store.index import INDEX, Index, indexed_spans
from nodespan.store.paths import index_path
from nodespan.store.records import ANY
from nodespan.store.running import OpenSpans, keep_lost, read_open
from nodespan.store.schema import OUTBOX

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from nodespan.store.outbox import SqliteStore
    from nodespan.store.records import Changes, GraphRecord, StoreStatus, TraceContent, TraceFilter, TraceRecord

_POLL_S: Final = 0.05
_STATES_S: Final = 0.5
"""How often a follower looks whether the processes with open spans live."""
_FOLLOWED_BATCHES: Final = 32
_FOLLOWED_BYTES: Final = 4 * 1024 * 1024

_T = TypeVar("_T")


class StoreReader:
    """Reads a store, through connections of its own that never take the outbox's write lock.

    Safe from any thread and across forks. Close it, or use it as a context manager. A process other than the writer's
    sees nothing of a store in memory.

    Args:
        store: The store to read. The file need not exist: it then reads as empty.
        progress: Called while the index is filled, with the number of spans so far and of all that are to be indexed.
        fill_s: How long a call may fill the index before it answers from what is indexed; the newest traces are indexed
            first. ``None``: every answer is complete.
    """

    def __init__(
        self,
        store: SqliteStore,
        progress: Callable[[int, int], None] | None = None,
        fill_s: float | None = None,
    ) -> None:
        self._path = store.path
        self._outbox = store.database if store.path == MEMORY else DatabaseReader(store.path, OUTBOX)
        self._progress = progress
        self._fill_s = fill_s
        self._index: Index | None = None
        self._is_index_unavailable = False
        self._followed: tuple[str, object, float] = ("", None, 0.0)

    def __enter__(self) -> StoreReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a later call opens them again."""
        if self._path != MEMORY:
            self._outbox.close()
        if self._index is not None:
            self._index.database.close()

    def find(self, wanted: TraceFilter = ANY, limit: int = 20) -> list[TraceRecord]:
        """Find the newest traces that match, newest first, with ended and open spans alike.

        Args:
            wanted: The filter; ``before`` in it gives the next page.
            limit: Maximum number of traces.

        Raises:
            StoreError: The store cannot be read.
        """
        spans = merge.by_trace(self._open_spans().spans.values())
        if not spans and not wanted.is_running:
            return self._search(lambda connection: search.find(connection, wanted, limit))
        ended = self._search(lambda connection: search.by_ids(connection, [*spans, *filter(None, [wanted.before])]))
        opened = [merge.with_open_spans(ended.get(trace_id), spans[trace_id]) for trace_id in spans]
        if wanted.before is not None:
            last = next((trace for trace in opened if trace["trace_id"] == wanted.before), ended.get(wanted.before))
            until_ns = 0 if last is None else min(last["start_ns"], wanted.until_ns or last["start_ns"])
            of_page = replace(wanted, until_ns=until_ns)
            # Of traces that start at once, those with open spans come first; the index orders the others by itself.
            wanted = replace(of_page, before=None) if wanted.before in spans else wanted
        else:
            of_page = wanted
        found = [trace for trace in opened if merge.matches(trace, of_page)]
        if not wanted.is_running:
            more = self._search(lambda connection: search.find(connection, wanted, limit + len(spans)))
            found += [trace for trace in more if trace["trace_id"] not in spans]
        return sorted(found, key=lambda trace: -trace["start_ns"])[:limit]

    def get(self, trace_id: str) -> TraceContent:
        """Get a trace with its spans.

        Args:
            trace_id: Its id, or a unique prefix of it.

        Raises:
            StoreError: No trace or more than one matches, or the store cannot be read.
        """
        found = self._get(trace_id)
        batches = self._search(lambda connection: search.batches_of(connection, found["trace_id"]))
        opened = self._open_spans().spans.values()
        spans = {span["span_id"]: span for span in opened if span["trace_id"] == found["trace_id"]}
        for batch_id in batches:
            data = self._outbox.read(lambda connection, batch_id=batch_id: _data(connection, batch_id))
            if data is not None:  # it may have been deleted meanwhile
                spans.update((span["span_id"], span) for span in span_records(data, found["trace_id"]))
        ordered = sorted(spans.values(), key=lambda span: (span["start_ns"], -span["duration_s"]))
        hashes = found["labels"].get("graph", ())
        declared = self._outbox.read(lambda connection: graphs.by_hashes(connection, hashes))
        return {"trace": found, "spans": ordered, "graphs": declared}

    def get_graph(self, graph_hash: str) -> GraphRecord:
        """Get a declared graph.

        Args:
            graph_hash: Its hash, or a unique prefix of it.

        Raises:
            StoreError: No graph or more than one matches, or the store cannot be read.
        """
        found = self._outbox.read(lambda connection: graphs.by_prefix(connection, graph_hash))
        if len(found) != 1:
            what = "More than one graph" if found else "No graph"
            raise StoreError(f"{what} in {self._path} has a hash that begins with {graph_hash!r}.")
        return found[0]

    def cursor(self) -> str:
        """Return the cursor of now: ``follow`` then gives what changes from now on.

        Take it before ``find`` or ``get``: a change between the two is then given twice, never missed.
        """
        opened = self._open_spans()
        return self._outbox.read(lambda connection: self._now(connection, opened))

    def follow(self, cursor: str, wanted: TraceFilter = ANY, wait_s: float = 0.0) -> Changes:
        """Return what has changed since a cursor, a few MB at most.

        A call that finds no change costs one ``PRAGMA data_version`` (some µs): polling every 50 ms is cheap.

        Args:
            cursor: Of ``cursor()`` or of the last ``Changes``.
            wanted: Only changes of traces that match now. Spans of a trace that were stored before it matched are not
                given later: ``get`` has them. ``before`` is ignored.
            wait_s: If nothing has changed, poll this long until something has. Blocks the thread; in asyncio use
                ``asyncio.to_thread``.

        Raises:
            StoreError: The store cannot be read, or the text is not a cursor.
        """
        deadline = time.monotonic() + wait_s
        while True:
            if not self._is_unchanged(cursor):
                changes = self._changes(cursor, wanted)
                cursor = changes["cursor"]
                if changes["traces"] or changes["is_reset"] or changes["has_more"] or changes["running"] is not None:
                    return changes
            if (left_s := deadline - time.monotonic()) <= 0:
                return _no_changes(cursor)
            time.sleep(min(_POLL_S, left_s))

    def fill(self, budget_s: float | None = None) -> bool:
        """Take stored batches into the index, newest first.

        ``find``, ``get`` and ``follow`` do so first, within the ``fill_s`` of the constructor.

        Args:
            budget_s: How long, at most; one slice of about 2,000 spans is read in any case. ``None``: until all are in.

        Returns:
            Whether the index has all batches.

        Raises:
            StoreError: The store cannot be read.
        """
        return self._with_index(lambda index: index.fill(budget_s))

    def status(self) -> StoreStatus:
        """Return how the store is read, and how much of it is in the index.

        Raises:
            StoreError: The store cannot be read.
        """
        query = "SELECT spans, bytes FROM totals"
        spans, size_bytes = self._outbox.read(lambda connection: connection.execute(query).fetchone())
        return {
            "path": str(self._path),
            "spans": spans,
            "size_bytes": size_bytes,
            "indexed_spans": self._with_index(lambda index: index.database.read(indexed_spans)),
            "is_copy": self._is_copy(),
            "untracked": self._open_spans().untracked,
            "is_index_temporary": self._with_index(lambda index: index.database.path == MEMORY),
            "sees_running": self._path != MEMORY and not self._is_copy(),
        }

    def iter_batches(self, prefixes: Sequence[str] = ()) -> Iterator[tuple[bytes, set[str]]]:
        """Encoded batches, the oldest first, each with the ids of the wanted traces in it.

        Args:
            prefixes: Prefixes of the wanted traces' ids. Without any, every batch is given, and no ids.

        Raises:
            StoreError: No trace or more than one matches a prefix, or the store cannot be read.
        """
        wanted: dict[int, set[str]] = {}
        for trace_id in [self._get(prefix)["trace_id"] for prefix in prefixes]:
            for batch_id in self._search(lambda connection, trace_id=trace_id: search.batches_of(connection, trace_id)):
                wanted.setdefault(batch_id, set()).add(trace_id)
        if not prefixes:
            wanted = {batch_id: set() for batch_id in self._outbox.read(_batch_ids)}
        for batch_id in sorted(wanted):
            data = self._outbox.read(lambda connection, batch_id=batch_id: _data(connection, batch_id))
            if data is not None:  # it may have been deleted meanwhile
                yield data, wanted[batch_id]

    def copy_to(self, path: Path) -> None:
        """Write a copy of the outbox into a new file, while others write to the store.

        Raises:
            StoreError: The file exists or cannot be written, or the store cannot be read.
        """
        self._outbox.version()
        if self._is_absent():
            raise StoreError(f"There is no store at {self._path}.")
        self._outbox.copy_to(path, lambda connection: keep_lost(connection, self._path))

    def _get(self, prefix: str) -> TraceRecord:
        ended = self._search(lambda connection: search.by_prefix(connection, prefix))
        if not ended and self._fill_s is not None:
            self.fill()
            ended = self._search(lambda connection: search.by_prefix(connection, prefix))
        spans = merge.by_trace(
            span for span in self._open_spans().spans.values() if span["trace_id"].startswith(prefix.lower())
        )
        found = [trace for trace in ended if trace["trace_id"] not in spans]
        if spans:
            known = {trace["trace_id"]: trace for trace in ended}
            found += [merge.with_open_spans(known.get(trace_id), spans[trace_id]) for trace_id in spans]
        if len(found) != 1:
            what = "More than one trace" if found else "No trace"
            raise StoreError(
                f"{what} in {self._path} has an id that begins with {prefix!r}. List them: nodespan traces"
            )
        return found[0]

    def _is_unchanged(self, cursor: str) -> bool:
        version = self._outbox.version()
        known, known_version, until = self._followed
        return (cursor, version) == (known, known_version) and time.monotonic() < until

    def _changes(self, cursor: str, wanted: TraceFilter) -> Changes:
        version = self._outbox.version()
        since = _parsed(cursor)
        opened = self._open_spans()
        now = _parsed(self._outbox.read(lambda connection: self._now(connection, opened)))
        if (since.store_id and since.store_id != now.store_id) or since.batch > now.batch:
            return {**_no_changes(str(now)), "is_reset": True}
        batches = self._outbox.read(lambda connection: _batches_after(connection, since.batch))
        until = batches[-1][0] if batches else since.batch
        is_open_changed = since.running != now.running
        reached = str(now._replace(batch=until))
        if until == now.batch or not batches:
            # The state of a process changes without a write: it stops, or dies.
            self._followed = reached, version, time.monotonic() + (_STATES_S if opened.spans else math.inf)
        if not batches and not is_open_changed:
            return _no_changes(reached)
        spans = merge.by_trace(opened.spans.values())
        ended = {
            trace["trace_id"]: trace
            for trace in self._search(lambda connection: search.changed(connection, (since.batch + 1, until)))
        }
        if is_open_changed:
            ended |= self._search(lambda connection: search.by_ids(connection, spans.keys() - ended.keys()))
        ids = ended.keys() | spans.keys() if is_open_changed else ended.keys()
        traces = [
            merge.with_open_spans(ended.get(trace_id), spans[trace_id]) if trace_id in spans else ended[trace_id]
            for trace_id in ids
        ]
        matching = {trace["trace_id"]: trace for trace in traces if merge.matches(trace, wanted)}
        return {
            "cursor": reached,
            "is_reset": False,
            "has_more": bool(batches) and until < now.batch,
            "traces": sorted(matching.values(), key=lambda trace: trace["start_ns"]),
            "spans": [span for _, data in batches for span in span_records(data) if span["trace_id"] in matching],
            "running": (
                [span for span in opened.spans.values() if span["trace_id"] in matching] if is_open_changed else None
            ),
        }

    def _open_spans(self) -> OpenSpans:
        path = None if self._path == MEMORY else self._path
        return self._outbox.read(lambda connection: read_open(connection, path))

    def _now(self, connection: sqlite3.Connection, opened: OpenSpans) -> str:
        store_id = connection.execute("SELECT store_id FROM identity").fetchone()[0]
        last = connection.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()[0]
        return str(_Cursor("" if self._is_absent() else store_id, last, opened.token))

    def _search(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def fill_and_read(index: Index) -> _T:
            try:
                index.fill(self._fill_s)
            except StoreBusyError:
                if self._fill_s is None:
                    raise
            return index.database.read(work)

        return self._with_index(fill_and_read)

    def _with_index(self, work: Callable[[Index], _T]) -> _T:
        """Runs the work on the index beside the store, or on a temporary one where that cannot be used."""
        self._outbox.version()  # an error of the outbox is not one of the index
        if self._is_copy() or self._is_absent() or self._path == MEMORY or self._is_index_unavailable:
            return work(self._index_at(MEMORY))
        try:
            return work(self._index_at(index_path(self._path)))
        except StoreBusyError:
            raise
        except StoreError as error:
            self._is_index_unavailable = True
            warn("store.index_unavailable", "%s This process uses a temporary search index.", error)
            return work(self._index_at(MEMORY))

    def _index_at(self, path: Path) -> Index:
        if self._index is None or self._index.database.path != path:
            if self._index is not None:
                self._index.database.close()
            self._index = Index(self._outbox, Database(path, INDEX), self._progress)
        return self._index

    def _is_copy(self) -> bool:
        return isinstance(self._outbox, DatabaseReader) and self._outbox.is_copy

    def _is_absent(self) -> bool:
        return isinstance(self._outbox, DatabaseReader) and self._outbox.is_absent


class _Cursor(NamedTuple):
    """Where a follower stands: in which file, after which batch, and with which open spans."""

    store_id: str
    batch: int
    running: str

    def __str__(self) -> str:
        return f"{self.store_id}.{self.batch}.{self.running}"


def _parsed(cursor: str) -> _Cursor:
    parts = cursor.split(".")
    if len(parts) != 3 or not (parts[1].isascii() and parts[1].isdecimal()):
        raise StoreError(f"{cursor!r} is not a cursor of a store. Call cursor() for one.")
    return _Cursor(parts[0], int(parts[1]), parts[2])


def _no_changes(cursor: str) -> Changes:
    return {"cursor": cursor, "is_reset": False, "has_more": False, "traces": [], "spans": [], "running": None}


def _batches_after(connection: sqlite3.Connection, after: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    size = 0
    query = "SELECT id, data FROM batch WHERE id > ? ORDER BY id LIMIT ?"
    for batch_id, data in connection.execute(query, (after, _FOLLOWED_BATCHES)):
        found.append((batch_id, data))
        size += len(data)
        if size >= _FOLLOWED_BYTES:
            break
    return found


def _batch_ids(connection: sqlite3.Connection) -> list[int]:
    return [batch_id for (batch_id,) in connection.execute("SELECT id FROM batch")]


def _data(connection: sqlite3.Connection, batch_id: int) -> bytes | None:
    row = connection.execute("SELECT data FROM batch WHERE id = ?", (batch_id,)).fetchone()
    return row[0] if row is not None else None
