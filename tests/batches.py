"""Batches of spans for a store, made by hand: number 0 of a trace is its root."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nodespan import semconv
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore

SECOND = 10**9


def span(trace: int, number: int, start: float, end: float, *, failed: bool = False, **words: str) -> Span:
    """Number 0 is the root; times in seconds."""
    keys = {"node": semconv.NODE, "model": semconv.REQUEST_MODEL, "workflow": semconv.WORKFLOW_NAME}
    made = Span(
        trace_id=trace.to_bytes(16, "big"),
        span_id=(trace * 1000 + number + 1).to_bytes(8, "big"),
        parent_span_id=(trace * 1000 + 1).to_bytes(8, "big") if number else b"",
        name=f"span {number} of {trace}",
        start_time_unix_nano=round(start * SECOND),
        end_time_unix_nano=round(end * SECOND),
        status=Status(code=Status.STATUS_CODE_ERROR) if failed else None,
    )
    for kind, word in words.items():
        made.attributes.add(key=keys[kind]).value.string_value = word
    return made


def encoded(*spans: Span, service: str = "app") -> Encoded:
    """One batch."""
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    resource.scope_spans.add().spans.extend(spans)
    return Encoded(request.SerializeToString(), len(spans))


def write(store: SqliteStore, *spans: Span, service: str = "app") -> int:
    """Stores one batch without a destination; returns its id."""
    return store.append(encoded(*spans, service=service), None)


def trace_id(trace: int) -> str:
    """The id in hex."""
    return trace.to_bytes(16, "big").hex()
