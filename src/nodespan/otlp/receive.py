"""The stored part of a received message: valid spans, each once, in batches of the usual size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from nodespan.otlp.encode import MAX_BATCH_BYTES, Encoded
from nodespan.otlp.split import split_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_KIND_MAX: Final = 5
_STATUS_MAX: Final = 2
_TIME_MAX: Final = 2**63 - 1
"""SQLite's integers are signed."""
_NAME_MAX: Final = 64 * 1024

Key = tuple[str, str]
"""Trace and span id in hex."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message reduced to its valid spans.

    Attributes:
        request: The valid spans.
        rejected: Number of invalid spans.
        reason: Reason for the first invalid span; empty if there is none.
    """

    request: ExportTraceServiceRequest
    rejected: int
    reason: str


def parse_request(data: bytes) -> ExportTraceServiceRequest:
    """Parses a message in protobuf.

    Raises:
        google.protobuf.message.DecodeError: The bytes are not such a message.
    """
    return ExportTraceServiceRequest.FromString(data)


def check_spans(request: ExportTraceServiceRequest) -> Received:
    """Removes invalid spans from a message, and spans with the ids of an earlier one."""
    rejected = 0
    reason = ""
    seen: set[Key] = set()
    for spans in _lists(request):
        kept: list[Span] = []
        for span in spans:
            _normalise(span)
            problem = _problem(span)
            if problem:
                rejected += 1
                reason = reason or problem
            elif (key := _key(span)) not in seen:
                seen.add(key)
                kept.append(span)
        _replace(spans, kept)
    return Received(request, rejected, reason)


def keys_of(request: ExportTraceServiceRequest) -> set[Key]:
    """Trace and span ids of its spans."""
    return {_key(span) for spans in _lists(request) for span in spans}


def without(request: ExportTraceServiceRequest, known: Set[Key]) -> list[Encoded]:
    """Encodes the spans of a message, without those with these ids, in batches of the usual size."""
    count = 0
    for spans in _lists(request):
        kept = [span for span in spans if _key(span) not in known]
        count += len(kept)
        _replace(spans, kept)
    for of_resource in request.resource_spans:
        for i in reversed(range(len(of_resource.scope_spans))):
            if not of_resource.scope_spans[i].spans:
                del of_resource.scope_spans[i]
    return list(_split(request.SerializeToString(), count)) if count else []


def _split(data: bytes, count: int) -> Iterator[Encoded]:
    halves = split_batch(data) if len(data) > MAX_BATCH_BYTES else None
    if halves is None:
        yield Encoded(data, count)
        return
    yield from _split(halves[0], count // 2)
    yield from _split(halves[1], count - count // 2)


def _lists(request: ExportTraceServiceRequest) -> Iterator[list[Span]]:
    for of_resource in request.resource_spans:
        for of_scope in of_resource.scope_spans:
            yield of_scope.spans  # pyright: ignore[reportReturnType] a list in all uses here


def _replace(spans: list[Span], kept: list[Span]) -> None:
    if len(kept) != len(spans):
        copies = [type(span).FromString(span.SerializeToString()) for span in kept]
        del spans[:]
        spans.extend(copies)


def _normalise(span: Span) -> None:
    if not any(span.parent_span_id):  # some encoders write zeros for a root
        span.parent_span_id = b""


def _problem(span: Span) -> str:
    """The reason why a span is invalid; empty if it is valid."""
    if len(span.trace_id) != _TRACE_ID_BYTES or not any(span.trace_id):
        return f"trace id {span.trace_id[:20].hex()!r} is not 16 bytes, or zero"
    if len(span.span_id) != _SPAN_ID_BYTES or not any(span.span_id):
        return f"span id {span.span_id[:20].hex()!r} is not 8 bytes, or zero"
    if len(span.parent_span_id) not in (0, _SPAN_ID_BYTES):
        return f"parent span id {span.parent_span_id[:20].hex()!r} is not 8 bytes"
    if not 0 <= span.kind <= _KIND_MAX:
        return f"kind {span.kind} is not one of OTLP's"
    if not 0 <= span.status.code <= _STATUS_MAX:
        return f"status code {span.status.code} is not one of OTLP's"
    if max(span.start_time_unix_nano, span.end_time_unix_nano) > _TIME_MAX:
        return "a time is above 2^63 - 1 ns"
    if len(span.name) > _NAME_MAX:
        return f"the name has more than {_NAME_MAX} characters"
    return ""


def _key(span: Span) -> Key:
    return span.trace_id.hex(), span.span_id.hex()
