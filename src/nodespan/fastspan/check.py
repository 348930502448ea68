"""Compares a lean span with the SDK's, so that another version of the SDK cannot change what is exported."""

# The SDK has no public way to make a span; find_difference() compares what comes out.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from typing_extensions import override

from nodespan import semconv
from nodespan.fastspan.processors import LeanProcessors
from nodespan.fastspan.tracer import LeanTracer

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

_START_NS: Final = 1_700_000_000_000_000_000


class _Ids(IdGenerator):
    """The same ids in each comparison."""

    def __init__(self) -> None:
        self._last = 0

    @override
    def generate_span_id(self) -> int:
        self._last += 1
        return self._last

    @override
    def generate_trace_id(self) -> int:
        return 2**127 + 1


class _Kept(SpanProcessor):
    """Stores the data that other processors receive."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    @override
    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def lean_tracer(tracer: sdk.Tracer, meter_provider: MeterProvider | None = None) -> LeanTracer:
    """A lean tracer with the configuration of this one, whose processors must be ``LeanProcessors``."""
    return LeanTracer(
        tracer.sampler,
        tracer.resource,
        tracer.span_processor,
        tracer.id_generator,
        tracer.instrumentation_info,
        tracer._span_limits,
        tracer._instrumentation_scope,
        meter_provider=meter_provider,
        _tracer_config=tracer._tracer_config,
    )


def find_difference() -> str | None:
    """Creates one small trace with the SDK's tracer and one with the lean tracer.

    Returns:
        ``None`` if both are equal, else the difference. Never raises.
    """
    try:
        expected, found = _trace(is_lean=False), _trace(is_lean=True)
    except Exception as error:  # noqa: BLE001 if this version of the SDK differs, its own span is used instead
        return f"{type(error).__name__}: {error}"
    for one, other in zip(expected, found, strict=True):
        if one != other:
            return f"{other!r} instead of {one!r}"
    return None


def _trace(*, is_lean: bool) -> list[Any]:
    processors, kept = LeanProcessors(), _Kept()
    processors.add_span_processor(kept)
    provider = sdk.TracerProvider(
        ALWAYS_ON,
        Resource({"service.name": "check"}),
        shutdown_on_exit=False,
        active_span_processor=processors,
        id_generator=_Ids(),
        span_limits=sdk.SpanLimits(max_span_attributes=8, max_events=2, max_links=2),
        _tracer_configurator=lambda _: sdk._TracerConfig(is_enabled=True),
    )
    tracer = provider.get_tracer(semconv.SCOPE, "1", semconv.SCHEMA_URL)
    if not isinstance(tracer, sdk.Tracer):
        return [type(tracer).__name__]
    if is_lean:
        tracer = lean_tracer(tracer)
    remote = SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    links, far_away = [Link(remote, {"l": 1})], trace.set_span_in_context(trace.NonRecordingSpan(remote), Context())
    root = tracer.start_span("root", Context(), SpanKind.CLIENT, {"a": 1, "b": [True], "c": "d"}, start_time=_START_NS)
    child = tracer.start_span("child", trace.set_span_in_context(root, Context()), links=links, start_time=1)
    child.set_attribute("a", 1.5)
    child.set_attributes({f"k{n}": n for n in range(4)})
    child.add_event("event", {"e": ["x", "y"]}, _START_NS + 2)
    child.add_link(remote)
    child.set_status(Status(StatusCode.ERROR, "why"))
    child.update_name("renamed")
    child.end(_START_NS + 3)
    far = tracer.start_span("far", far_away, start_time=_START_NS + 4)
    far.end(_START_NS + 5)
    root.end(_START_NS + 6)
    return [fact for span in kept.spans for fact in [json.loads(span.to_json()), *fields(span)]]


def fields(span: ReadableSpan) -> list[Any]:
    """Everything that a processor can read of a span."""
    return [
        span.get_span_context(),
        span.parent,
        dict(span.attributes or {}),
        [(event.name, event.timestamp, dict(event.attributes or {})) for event in span.events],
        [(link.context, dict(link.attributes or {})) for link in span.links],
        (span.dropped_attributes, span.dropped_events, span.dropped_links),
        (span.status.status_code, span.status.description, span.kind),
        (span.resource.to_json(), span.instrumentation_scope),
    ]
