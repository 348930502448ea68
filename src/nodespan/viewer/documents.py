"""The documents of the pages; docs/viewer-data.md describes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from nodespan import semconv
from nodespan.store import TraceFilter
from nodespan.viewer.columns import View, new_columns, now_us
from nodespan.viewer.graphs import drawn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodespan.store import StoreReader
    from nodespan.store.records import SpanRecord, TraceRecord

_CONVERSATION_MAX: Final = 50


def runs(reader: StoreReader, trace_filter: TraceFilter, limit: int) -> dict[str, Any]:
    """A page of the list of runs.

    Raises:
        StoreError: The store cannot be read.
    """
    cursor = reader.cursor()
    found = reader.find(trace_filter, limit)
    return {
        "traces": found,
        "next": found[-1]["trace_id"] if len(found) == limit else None,
        "cursor": cursor,
        "status": reader.status(),
        "now_ns": time.time_ns(),
    }


def trace(reader: StoreReader, trace_id: str) -> dict[str, Any]:
    """A run as columns.

    Raises:
        StoreError: No trace or more than one matches, or the store cannot be read.
    """
    cursor = reader.cursor()
    columns = new_columns()
    content = reader.fill_columns(trace_id, columns)
    view = View(columns, content["spans"])
    found = content["trace"]
    graphs = drawn(content["graphs"])
    t0_ns = min((columns.starts_ns[row] for row in view.order[:1]), default=found["start_ns"])
    return {
        "trace": found,
        "cursor": cursor,
        "t0_ns": str(t0_ns),
        "now_us": now_us(t0_ns),
        "spans": view.spans(t0_ns),
        **parts_of(view, graphs),
        "graphs": graphs,
        "conversations": _conversations(reader, found),
    }


def span(reader: StoreReader, trace_id: str, span_id: str, jaeger_url: str) -> dict[str, Any]:
    """A span with attributes, events and links.

    Raises:
        StoreError: There is none, or the store cannot be read.
    """
    address = jaeger_url.replace("{trace_id}", trace_id).replace("{span_id}", span_id)
    return span_document(reader.get_span(trace_id, span_id), address)


def span_document(found: SpanRecord, jaeger_url: str) -> dict[str, Any]:
    """A span with the metadata that its node put into the state, and its address in Jaeger."""
    attributes = found["attributes"]
    metadata = {key: attributes[name] for key, name in semconv.MIRROR_KEYS.items() if name in attributes}
    return {**found, "node_metadata": metadata or None, "jaeger_url": jaeger_url or None}


def parts_of(view: View, graphs: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a document, or of a change of a trace, besides the columns."""
    return {
        "phases": view.of_open("phase"),
        "processes": view.of_open("process"),
        "edges": view.edges(),
        "writes": view.writes(),
        "prefixes": view.prefixes(),
        "runs": _runs(view, graphs),
        "strings": view.columns.strings,
    }


def _runs(view: View, graphs: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for place in view.runs():
        graph_hash = view.text(semconv.LANGGRAPH_GRAPH_HASH, place)
        resumed = view.columns.resumed.get(view.order[place])
        found.append(
            {
                "row": place,
                "graph": graph_hash if graph_hash in graphs else None,
                "conversation": view.text(semconv.CONVERSATION_ID, place),
                "link": None if resumed is None else {"trace_id": resumed[0], "span_id": resumed[1]},
            }
        )
    return found


def _conversations(reader: StoreReader, found: TraceRecord) -> dict[str, list[TraceRecord]]:
    """The other runs of the trace's conversations, newest first."""
    others: dict[str, list[TraceRecord]] = {}
    for conversation in found["labels"].get("conversation", ()):
        traces = reader.find(TraceFilter(conversation=conversation), _CONVERSATION_MAX + 1)
        others[conversation] = [one for one in traces if one["trace_id"] != found["trace_id"]][:_CONVERSATION_MAX]
    return others
