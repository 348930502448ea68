"""OTLP's JSON, which the collector's file receiver and uploads to Jaeger's page accept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_IDS: Final = {"traceId": "trace_id", "spanId": "span_id", "parentSpanId": "parent_span_id"}


def to_json(data: bytes, trace_ids: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The ``resourceSpans`` of an encoded ``ExportTraceServiceRequest``.

    Args:
        data: The message.
        trace_ids: In hex; if not empty, only spans of these traces.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not such a message.
    """
    request = ExportTraceServiceRequest.FromString(data)
    wanted = {bytes.fromhex(trace_id) for trace_id in trace_ids}
    found: list[dict[str, Any]] = []
    for of_resource in request.resource_spans:
        scopes: list[dict[str, Any]] = []
        for of_scope in of_resource.scope_spans:
            spans = [_span(span) for span in of_scope.spans if not wanted or span.trace_id in wanted]
            del of_scope.spans[:]
            if spans:
                scopes.append({**_plain(of_scope), "spans": spans})
        del of_resource.scope_spans[:]
        if scopes:
            found.append({**_plain(of_resource), "scopeSpans": scopes})
    return found


def _span(span: Span) -> dict[str, Any]:
    """Protobuf's JSON has bytes in base64; OTLP's has ids in hex."""
    plain = _plain(span)
    ids = {name: getattr(span, field).hex() for name, field in _IDS.items()}
    plain.update({name: value for name, value in ids.items() if value})
    for link, shown in zip(span.links, plain.get("links", ()), strict=True):
        shown.update(traceId=link.trace_id.hex(), spanId=link.span_id.hex())
    return plain


def _plain(message: Any) -> dict[str, Any]:
    return MessageToDict(message, use_integers_for_enums=True)
