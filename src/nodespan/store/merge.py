"""Open spans and the index together: records of traces that have both, and the filter for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodespan.otlp import words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nodespan.store.records import SpanRecord, State, TraceFilter, TraceRecord

_SINGLE_KINDS = ("service", "workflow", "node", "model", "conversation", "user", "graph")


def by_trace(spans: Iterable[SpanRecord]) -> dict[str, list[SpanRecord]]:
    """Spans by the id of their trace."""
    found: dict[str, list[SpanRecord]] = {}
    for span in spans:
        found.setdefault(span["trace_id"], []).append(span)
    return found


def with_open_spans(trace: TraceRecord | None, spans: Sequence[SpanRecord]) -> TraceRecord:
    """The record of a trace.

    Args:
        trace: Of its ended spans; ``None`` if none is stored.
        spans: Its open spans, at least one.
    """
    ordered = sorted(spans, key=lambda span: (span["start_ns"], bool(span["parent_span_id"])))
    first = ordered[0]
    state = _state({span["state"] for span in spans})
    is_older = trace is None or first["start_ns"] <= trace["start_ns"]
    start_ns = first["start_ns"] if trace is None or is_older else trace["start_ns"]
    ends = [span["start_ns"] + round(span["duration_s"] * 1e9) for span in spans]
    end_ns = max(ends) if trace is None else max(*ends, trace["end_ns"] or 0)
    phases = [span["phase"] for span in ordered if span["phase"] is not None]
    return {
        "trace_id": first["trace_id"],
        "name": first["name"] if trace is None or is_older else trace["name"],
        "service": _service(first) if trace is None or is_older else trace["service"],
        "start_ns": start_ns,
        "end_ns": end_ns if state == "lost" else None,
        "duration_s": max(end_ns - start_ns, 0) / 1e9,
        "state": state,
        "spans": 0 if trace is None else trace["spans"],
        "errors": 0 if trace is None else trace["errors"],
        "running": sum(span["state"] != "lost" for span in spans),
        "lost": sum(span["state"] == "lost" for span in spans),
        "phase": phases[-1] if phases else None,
        "tokens_in": None if trace is None else trace["tokens_in"],
        "tokens_out": None if trace is None else trace["tokens_out"],
        "decode_s": None if trace is None else trace["decode_s"],
        "is_interrupted": trace is not None and trace["is_interrupted"],
        "resumes": None if trace is None else trace["resumes"],
        "labels": _labels({} if trace is None else trace["labels"], spans),
    }


def matches(trace: TraceRecord, wanted: TraceFilter) -> bool:
    """Whether the trace matches every given field of the filter, except ``before``."""
    labels = trace["labels"]
    singles = ((kind, getattr(wanted, kind)) for kind in _SINGLE_KINDS)
    return (
        all(word is None or word in labels.get(kind, ()) for kind, word in singles)
        and set(wanted.tags) <= set(labels.get("tag", ()))
        and set(wanted.metadata) <= set(labels.get("metadata", ()))
        and trace["trace_id"].startswith((wanted.trace_id or "").lower())
        and trace["duration_s"] >= (wanted.min_duration_s or 0.0)
        and (not wanted.is_error or trace["errors"] > 0)
        and (not wanted.is_running or trace["state"] != "ended")
        and trace["start_ns"] >= (wanted.since_ns or 0)
        and (wanted.until_ns is None or trace["start_ns"] < wanted.until_ns)
    )


def _state(states: set[State]) -> State:
    order: tuple[State, ...] = ("running", "silent", "lost")
    return next(state for state in order if state in states)


def _service(span: SpanRecord) -> str:
    return str(span["resource"].get("service.name", ""))


def _labels(known: dict[str, list[str]], spans: Iterable[SpanRecord]) -> dict[str, list[str]]:
    labels = {kind: set(words) for kind, words in known.items()}
    for span in spans:
        labels.setdefault("service", set()).add(_service(span))
        for kind, word in words_of(span["attributes"]):
            labels.setdefault(kind, set()).add(word)
    return {kind: sorted(labels[kind]) for kind in sorted(labels)}
