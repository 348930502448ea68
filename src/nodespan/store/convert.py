"""Spans of a batch as records of the read model."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any, Final, cast

from nodespan import semconv
from nodespan.otlp import decode_batch
from nodespan.spans.fingerprint import LARGE, NO_FORM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nodespan import otlp
    from nodespan.store.records import EdgeRecord, SpanRecord, WriteRecord

_EDGE: Final = re.compile(
    r"(?P<undeclared>undeclared )?(?P<kind>edge|branch|send|join|implied)(?:\*(?P<count>\d{1,9}))? (?P<target>.+)",
    re.DOTALL,
)


def span_records(data: bytes, trace_id: str | None = None) -> Iterator[SpanRecord]:
    """The spans of an encoded batch, or those of one trace in it.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not an ``ExportTraceServiceRequest``.
    """
    return map(_record, decode_batch(data, trace_id))


def _record(span: otlp.SpanRecord) -> SpanRecord:
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "name": span.name,
        "kind": span.kind,
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "duration_s": (span.end_ns - span.start_ns) / 1e9,
        "state": "ended",
        "status_code": span.status_code,
        "status_message": span.status_message,
        "attributes": json_value(span.attributes),
        "resource": json_value(span.resource),
        "scope": span.scope,
        "events": [
            {"name": event.name, "time_ns": event.time_ns, "attributes": json_value(event.attributes)}
            for event in span.events
        ],
        "links": [
            {"trace_id": link.trace_id, "span_id": link.span_id, "attributes": json_value(link.attributes)}
            for link in span.links
        ],
        "phase": None,
        "process": None,
        "edges": edge_records(span.attributes.get(semconv.LANGGRAPH_EDGES)),
        "writes": write_records(
            span.attributes.get(semconv.LANGGRAPH_WRITES), span.attributes.get(semconv.LANGGRAPH_WRITTEN_VALUES)
        ),
    }


def edge_records(texts: object) -> list[EdgeRecord]:
    """Taken edges from ``langgraph.edges``; entries of another form are left out."""
    if not isinstance(texts, list | tuple):
        return []
    matches = (_EDGE.fullmatch(text) for text in cast("Sequence[object]", texts) if isinstance(text, str))
    return [
        {
            "target": found["target"],
            "kind": found["kind"],
            "is_declared": not found["undeclared"],
            "count": int(found["count"] or 1),
        }
        for found in matches
        if found is not None
    ]


def write_records(texts: object, values: object) -> list[WriteRecord]:
    """Writes from ``langgraph.writes`` and ``langgraph.written_values``; entries of another form are left out."""
    if not isinstance(texts, list | tuple):
        return []
    several = cast("Sequence[object]", texts)
    captured = _captured(values, len(several))
    parts = [text.rsplit(" ", 3) if isinstance(text, str) else [] for text in several]
    return [
        {
            "channel": channel,
            "type": type_,
            "size_bytes": int(size) if size.isdecimal() else None,
            "is_large": size == LARGE,
            "hmac": None if digits == NO_FORM else digits,
            "value": value,
        }
        for (channel, type_, size, digits), value in (
            (one, value) for one, value in zip(parts, captured, strict=True) if len(one) == 4
        )
    ]


def _captured(values: object, count: int) -> Sequence[str | None]:
    """The values as JSON texts; none of them where the list was cut to a text."""
    try:
        found = json.loads(values) if isinstance(values, str) else None
    except ValueError:
        found = None
    if not isinstance(found, list) or len(cast("list[object]", found)) != count:
        return [None] * count
    return [json.dumps(value) for value in cast("list[object]", found)]


def json_value(value: Any) -> Any:
    """The value with JSON's types alone, as OTLP's JSON has it: non-finite numbers as text, bytes in base64."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType] of any type
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]  # pyright: ignore[reportUnknownVariableType] of any type
    return value
