"""The changes of a list or of a trace in one step of the store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nodespan import semconv
from nodespan.store import matches
from nodespan.viewer.columns import View, new_columns, now_us
from nodespan.viewer.documents import parts_of
from nodespan.viewer.graphs import drawn_by_hash

if TYPE_CHECKING:
    from nodespan.store import StoreReader, TraceFilter
    from nodespan.store.records import Changes


def of_list(changes: Changes, trace_filter: TraceFilter) -> dict[str, Any] | None:
    """Changed records that match a filter, and the ids of those that do not (any more)."""
    found = [trace for trace in changes["traces"] if matches(trace, trace_filter)]
    kept = {trace["trace_id"] for trace in found}
    if not changes["traces"] and not changes["is_reset"]:
        return None
    return {
        "traces": found,
        "gone": [trace["trace_id"] for trace in changes["traces"] if trace["trace_id"] not in kept],
        "is_reset": changes["is_reset"],
        "now_ns": time.time_ns(),
    }


def of_trace(
    reader: StoreReader, changes: Changes, batches: list[bytes], trace_id: str, t0_ns: int | None
) -> dict[str, Any] | None:
    """New and changed spans of a trace.

    Args:
        reader: Of the store, for the graphs of new runs.
        changes: Of the store.
        batches: New ones.
        trace_id: The full id.
        t0_ns: Origin of the times; ``None``: the trace's start.
    """
    if changes["is_reset"]:
        return {"is_reset": True}
    trace = next((trace for trace in changes["traces"] if trace["trace_id"] == trace_id), None)
    if trace is None:
        return None
    columns = new_columns()
    for data in batches:
        columns.add_batch(data, trace_id)
    opened = [span for span in changes["running"] or () if span["trace_id"] == trace_id]
    view = View(columns, opened)
    hashes = {view.text(semconv.LANGGRAPH_GRAPH_HASH, place) for place in view.runs()}
    graphs = drawn_by_hash(reader, filter(None, hashes))
    origin_ns = trace["start_ns"] if t0_ns is None else t0_ns
    return {
        "trace": trace,
        "t0_ns": str(origin_ns),
        "now_us": now_us(origin_ns),
        "spans": view.spans(origin_ns, with_parent_ids=True),
        **parts_of(view, graphs),
        "graphs": graphs,
        "open": None if changes["running"] is None else [span["span_id"] for span in opened],
        "is_reset": False,
    }
