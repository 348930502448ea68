"""The read model: finds, gets and follows the traces of a store, as JSON-ready records."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from nodespan.errors import StoreError
from nodespan.otlp import SpanColumns
from nodespan.store import graphs, merge, search
from nodespan.store.connections import StoreConnections
from nodespan.store.convert import span_records
from nodespan.store.database import MEMORY
from nodespan.store.index import indexed_spans
from nodespan.store.reading import Cursor, batch_data, batch_ids, batches_after, no_changes, parse_cursor
from nodespan.store.records import ANY
from nodespan.store.running import OpenSpans, keep_lost

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nodespan.store.records import (
        Changes,
        GraphRecord,
        SpanRecord,
        StoreStatus,
        TraceContent,
        TraceFilter,
        TraceRecord,
    )

_POLL_S: Final = 0.05
_STATES_S: Final = 0.5
"""Interval at which a follower checks whether the processes with open spans exist."""

_T = TypeVar("_T")


class StoreReader(StoreConnections):
    """Reads a store, through separate connections that never acquire the outbox's write lock.

    Safe from any thread and across forks. Close it, or use it as a context manager. A store in memory can be read only
    by its own process.

    Args:
        store: The store to read. A missing file is read as an empty store.
        progress: Called while the index is filled, with the number of spans so far and of all that are to be indexed.
        fill_s: Time for which a call may fill the index before it answers from the indexed traces; the newest are
            indexed first. ``None``: every answer is complete.
    """

    _followed: tuple[str, object, float] = ("", None, 0.0)

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
            # Of traces with equal starts, those with open spans come first; the index orders the others.
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
        opened = self._open_spans().spans.values()
        spans = {span["span_id"]: span for span in opened if span["trace_id"] == found["trace_id"]}
        for data in self._batches_of(found["trace_id"]):
            spans.update((span["span_id"], span) for span in span_records(data, found["trace_id"]))
        ordered = sorted(spans.values(), key=lambda span: (span["start_ns"], -span["duration_s"]))
        return {"trace": found, "spans": ordered, "graphs": self._graphs_of(found)}

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

    def fill_columns(self, trace_id: str, columns: SpanColumns) -> TraceContent:
        """Get a trace with its ended spans as columns: 100,000 of them in less than a second.

        Args:
            trace_id: Its id, or a unique prefix of it.
            columns: Receives the ended spans. A span that is stored twice is added twice.

        Returns:
            The trace; its ``spans`` are only the open ones.

        Raises:
            StoreError: No trace or more than one matches, or the store cannot be read.
        """
        found = self._get(trace_id)
        opened = [span for span in self._open_spans().spans.values() if span["trace_id"] == found["trace_id"]]
        for data in self._batches_of(found["trace_id"]):
            columns.add_batch(data, found["trace_id"])
        return {"trace": found, "spans": opened, "graphs": self._graphs_of(found)}

    def iter_spans(self, trace_id: str) -> Iterator[SpanRecord]:
        """Iterate over the spans of a trace by its full id, ended and open, each once, without holding all of them.

        Raises:
            StoreError: The store cannot be read.
        """
        opened = {key[1]: span for key, span in self._open_spans().spans.items() if key[0] == trace_id}
        seen: set[str] = set()
        for data in self._batches_of(trace_id):
            for span in span_records(data, trace_id):
                if span["span_id"] not in seen:
                    seen.add(span["span_id"])
                    yield span
        yield from (span for span_id, span in opened.items() if span_id not in seen)

    def get_span(self, trace_id: str, span_id: str) -> SpanRecord:
        """Get one span of a trace, by the full ids.

        Raises:
            StoreError: There is none, or the store cannot be read.
        """
        opened = self._open_spans().spans.get((trace_id, span_id))
        try:
            id_bytes = bytes.fromhex(span_id)
        except ValueError:
            id_bytes = b""
        for data in self._batches_of(trace_id):
            if id_bytes and id_bytes in data:  # most batches are not decoded
                for span in span_records(data, trace_id):
                    if span["span_id"] == span_id:
                        return span
        if opened is None:
            raise StoreError(f"Trace {trace_id} has no span {span_id}. List its spans: nodespan trace {trace_id}")
        return opened

    def add_span_ids(self, trace_id: str, ids: set[str], after: int = 0) -> int:
        """Add the ids of a trace's ended spans to a set.

        Args:
            trace_id: The full id.
            ids: Receives the ids, in hex.
            after: Only of batches after this one.

        Returns:
            The last batch that was read, for the next call.

        Raises:
            StoreError: The store cannot be read.
        """
        columns = SpanColumns()
        for batch_id in self._search(lambda connection: search.batches_of(connection, trace_id)):
            if batch_id > after and (data := self._batch(batch_id)) is not None:
                columns.add_batch(data, trace_id)
                after = batch_id
        ids.update(columns.ids)
        return after

    def cursor(self) -> str:
        """Return a cursor for the current state: ``follow`` then returns the changes from now on.

        Call it before ``find`` or ``get``: a change in between is then returned twice, never missed.
        """
        opened = self._open_spans()
        return self._outbox.read(lambda connection: self._now(connection, opened))

    def follow(self, cursor: str, wanted: TraceFilter = ANY, wait_s: float = 0.0) -> Changes:
        """Return the changes since a cursor, a few MB at most.

        A call that finds no change costs one ``PRAGMA data_version`` (some µs): polling every 50 ms is cheap.

        Args:
            cursor: Of ``cursor()`` or of the last ``Changes``.
            wanted: Only changes of traces that match now. Spans that were stored before their trace matched are not
                returned later; ``get`` returns them. ``before`` is ignored.
            wait_s: If nothing has changed, poll this long until something has. Blocks the thread; in asyncio use
                ``asyncio.to_thread``.

        Raises:
            StoreError: The store cannot be read, or the text is not a cursor.
        """
        changes, batches = self.follow_batches(cursor, wanted, wait_s)
        matching = {trace["trace_id"] for trace in changes["traces"]}
        spans = [span for data in batches for span in span_records(data) if span["trace_id"] in matching]
        return {**changes, "spans": spans}

    def follow_batches(
        self, cursor: str, wanted: TraceFilter = ANY, wait_s: float = 0.0
    ) -> tuple[Changes, list[bytes]]:
        """Return the changes like ``follow``, with the new batches as stored instead of ``spans``, which is empty.

        For a reader of few of the changed traces: the spans of the others are not decoded.
        """
        deadline = time.monotonic() + wait_s
        while True:
            if not self._is_unchanged(cursor):
                changes, batches = self._changes(cursor, wanted)
                cursor = changes["cursor"]
                if changes["traces"] or changes["is_reset"] or changes["has_more"] or changes["running"] is not None:
                    return changes, batches
            if (left_s := deadline - time.monotonic()) <= 0:
                return no_changes(cursor), []
            time.sleep(min(_POLL_S, left_s))

    def fill(self, budget_s: float | None = None) -> bool:
        """Add stored batches to the index, newest first.

        ``find``, ``get`` and ``follow`` do so first, within the ``fill_s`` of the constructor.

        Args:
            budget_s: Time limit; one slice of about 2,000 spans is always read. ``None``: until all are indexed.

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
        """Encoded batches, the oldest first, each with the ids of its requested traces.

        Args:
            prefixes: Prefixes of the ids of the requested traces. If empty, every batch is returned, without ids.

        Raises:
            StoreError: No trace or more than one matches a prefix, or the store cannot be read.
        """
        wanted: dict[int, set[str]] = {}
        for trace_id in [self._get(prefix)["trace_id"] for prefix in prefixes]:
            for batch_id in self._search(lambda connection, trace_id=trace_id: search.batches_of(connection, trace_id)):
                wanted.setdefault(batch_id, set()).add(trace_id)
        if not prefixes:
            wanted = {batch_id: set() for batch_id in self._outbox.read(batch_ids)}
        for batch_id in sorted(wanted):
            if (data := self._batch(batch_id)) is not None:
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

    def _graphs_of(self, trace: TraceRecord) -> dict[str, GraphRecord]:
        hashes = trace["labels"].get("graph", ())
        return self._outbox.read(lambda connection: graphs.by_hashes(connection, hashes))

    def _batches_of(self, trace_id: str) -> Iterator[bytes]:
        for batch_id in self._search(lambda connection: search.batches_of(connection, trace_id)):
            if (data := self._batch(batch_id)) is not None:
                yield data

    def _batch(self, batch_id: int) -> bytes | None:
        """The bytes of a batch; ``None`` if it was deleted meanwhile."""
        return self._outbox.read(lambda connection: batch_data(connection, batch_id))

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

    def _changes(self, cursor: str, wanted: TraceFilter) -> tuple[Changes, list[bytes]]:
        version = self._outbox.version()
        since = parse_cursor(cursor)
        opened = self._open_spans()
        now = parse_cursor(self._outbox.read(lambda connection: self._now(connection, opened)))
        if (since.store_id and since.store_id != now.store_id) or since.batch > now.batch:
            return {**no_changes(str(now)), "is_reset": True}, []
        batches = self._outbox.read(lambda connection: batches_after(connection, since.batch))
        until = batches[-1][0] if batches else since.batch
        is_open_changed = since.running != now.running
        reached = str(now._replace(batch=until))
        if until == now.batch or not batches:
            # The state of a process changes without a write when it is stopped or ends.
            self._followed = reached, version, time.monotonic() + (_STATES_S if opened.spans else math.inf)
        if not batches and not is_open_changed:
            return no_changes(reached), []
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
        changes: Changes = {
            **no_changes(reached),
            "has_more": bool(batches) and until < now.batch,
            "traces": sorted(matching.values(), key=lambda trace: trace["start_ns"]),
            "running": (
                [span for span in opened.spans.values() if span["trace_id"] in matching] if is_open_changed else None
            ),
        }
        return changes, [data for _, data in batches]

    def _now(self, connection: sqlite3.Connection, opened: OpenSpans) -> str:
        store_id = connection.execute("SELECT store_id FROM identity").fetchone()[0]
        last = connection.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()[0]
        return str(Cursor("" if self._is_absent() else store_id, last, opened.token))
