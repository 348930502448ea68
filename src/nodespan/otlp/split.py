"""Halves of an encoded batch, for a destination that rejects the whole as too large."""

from __future__ import annotations

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def split_batch(data: bytes) -> tuple[bytes, bytes] | None:
    """The first and the second half of the spans, as separate messages; ``None`` if there is only one span.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not an ``ExportTraceServiceRequest``.
    """
    count = sum(
        len(of_scope.spans)
        for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans
        for of_scope in of_resource.scope_spans
    )
    if count < 2:
        return None
    return _part(data, 0, count // 2), _part(data, count // 2, count)


def _part(data: bytes, begin: int, end: int) -> bytes:
    request = ExportTraceServiceRequest.FromString(data)
    seen = 0
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            size = len(of_scope.spans)
            del of_scope.spans[max(end - seen, 0) :]
            del of_scope.spans[: min(max(begin - seen, 0), size)]
            seen += size
    return request.SerializeToString()
