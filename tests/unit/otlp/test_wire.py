"""The encoder of nodespan writes the message that the SDK's encoder writes."""

from __future__ import annotations

import logging
import os
import random
import struct
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common import trace_encoder
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from nodespan.fastspan import LeanProcessors, check
from nodespan.otlp import decode_batch, encode_spans, wire

EXAMPLES = int(os.environ.get("NODESPAN_TEST_EXAMPLES", "50"))
TEXTS = st.text(max_size=140)
WORDS = st.text(min_size=1, max_size=140)
NUMBERS = st.sampled_from([0, 1, -1, True, False, 1.0, 0.0, -0.0, 127, 128, 2**63 - 1, -(2**63), float("inf")])
SCALARS = st.one_of(TEXTS, NUMBERS, st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.binary(max_size=9))
# Each level is written out: a recursive strategy draws three times as much for the same values.
INNER = st.one_of(SCALARS, st.none(), st.lists(SCALARS, max_size=2), st.dictionaries(WORDS, SCALARS, max_size=2))
VALUES = st.one_of(SCALARS, st.none(), st.lists(INNER, max_size=3), st.dictionaries(WORDS, INNER, max_size=3))
KEYS = st.one_of(st.sampled_from(["a", "b", "gen_ai.operation.name"]), WORDS)
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=8)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.sampled_from([TraceFlags(1), TraceFlags(3)]),
    st.sampled_from([TraceState(), TraceState([("k", "v"), ("a", "b")])]),
)
TIMES = st.integers(0, 2**63)
SPANS = st.lists(
    st.fixed_dictionaries(
        {
            "name": TEXTS,
            "kind": st.sampled_from(SpanKind),
            "attributes": ATTRIBUTES,
            "more": ATTRIBUTES,
            "links": st.lists(st.tuples(CONTEXTS, ATTRIBUTES), max_size=2),
            "events": st.lists(st.tuples(TEXTS, ATTRIBUTES, TIMES), max_size=2),
            "status": st.sampled_from([Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "why")]),
            "parent": st.one_of(st.none(), CONTEXTS),
            "scope": st.sampled_from(["nodespan", "other", ""]),
            "resource": st.booleans(),
        }
    ),
    min_size=1,
    max_size=2,
)
LIMITS = st.sampled_from(
    [{}, {"max_span_attributes": 3}, {"max_span_attributes": 0}, {"max_attribute_length": 7}, {"max_events": 1},
     {"max_links": 0}, {"max_event_attributes": 1, "max_link_attributes": 1}]
)  # fmt: skip


class Kept(sdk.SpanProcessor):
    accepts_lean_spans = True

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span):
        self.spans.append(span)


class Copies(Kept):
    accepts_lean_spans = False


def make(is_lean: bool, kept: Kept, limits: dict[str, int], resource: Resource) -> sdk.TracerProvider:
    class Provider(sdk.TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
            tracer: Any = super().get_tracer(*args, **kwargs)
            return check.lean_tracer(tracer) if is_lean else tracer

    processors = LeanProcessors()
    processors.add_span_processor(kept)
    return Provider(
        resource=resource,
        shutdown_on_exit=False,
        active_span_processor=processors,
        span_limits=sdk.SpanLimits(**limits),
        id_generator=check._Ids(),
    )


RESOURCES = [Resource({"service.name": "s", "list": ["a"], "n": 1}, "https://schema"), Resource({"service.name": "t"})]


def ended(is_lean: bool, kept: Kept, limits: dict[str, int], programs: list[dict[str, Any]]) -> list[Any]:
    providers = [make(is_lean, kept, limits, resource) for resource in RESOURCES]
    for number, program in enumerate(programs):
        parent = program["parent"]
        context = trace.set_span_in_context(trace.NonRecordingSpan(parent), Context()) if parent else Context()
        tracer = providers[program["resource"]].get_tracer(program["scope"], "1" if number else None, "https://s")
        links = [Link(other, dict(given)) for other, given in program["links"]]
        span = tracer.start_span(program["name"], context, program["kind"], program["attributes"], links, number)
        span.set_attributes(program["more"])
        for name, described, at in program["events"]:
            span.add_event(name, described, at)
        span.set_status(program["status"])
        span.end(2**62 + number)
    return kept.spans


def message(data: bytes) -> Any:
    """The decoded request, its groups in one order: the SDK's encoder groups by equality, ours by identity."""
    groups = []
    for of_resource in ExportTraceServiceRequest.FromString(data).resource_spans:
        for of_scope in of_resource.scope_spans:
            around = (of_resource.resource, of_resource.schema_url, of_scope.scope, of_scope.schema_url)
            groups += [(repr(around), exact(span)) for span in of_scope.spans]
    return sorted(groups, key=lambda pair: pair[1])


def exact(span: Any) -> bytes:
    """Deterministic bytes: repr() would show -0.0 and 0.0, 1.0 and 1 alike."""
    return span.SerializeToString(deterministic=True)


@settings(max_examples=EXAMPLES, deadline=None)
@given(SPANS, LIMITS)
def test_the_message_equals_that_of_the_sdk_s_encoder(programs, limits):
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    reference = ended(False, Copies(), limits, programs)
    expected = message(trace_encoder.encode_spans(reference).SerializeToString())
    assert message(wire.encode(reference)) == expected
    assert message(wire.encode(ended(True, Kept(), limits, programs))) == expected
    assert message(wire.encode(ended(True, Copies(), limits, programs))) == expected


def spans_with(*attributes: dict[str, Any]) -> list[Any]:
    programs = [
        {"name": "n", "kind": SpanKind.INTERNAL, "attributes": given, "more": {}, "links": [], "events": [],
         "status": Status(), "parent": None, "scope": "nodespan", "resource": False}
        for given in attributes
    ]  # fmt: skip
    return ended(True, Kept(), {}, programs)


def test_equal_values_of_different_types_keep_their_types() -> None:
    values = [1, True, 1.0, "1", (1,), (True,), (1.0,), ("1",), 0, False, 0.0, -0.0, (), ""]
    for _ in range(3):  # from the tables the second time
        random.shuffle(values)
        (batch,) = encode_spans(spans_with(*({"same.key": value} for value in values)))
        decoded = [span.attributes["same.key"] for span in decode_batch(batch.data)]
        expected = [list(value) if isinstance(value, tuple) else value for value in values]
        assert [(type(one), repr(one)) for one in decoded] == [(type(one), repr(one)) for one in expected]


def test_not_a_number_keeps_its_bits() -> None:
    (batch,) = encode_spans(spans_with({"nan": float("nan")}))
    assert struct.pack("<d", float("nan")) in batch.data


def test_the_tables_are_bounded_and_further_values_are_encoded() -> None:
    wire._keys.clear()
    spans = spans_with(*({"many": f"task {n}", "n": n, f"key.{n % 2000}": f"value {n}"} for n in range(5000)))
    data = b"".join(batch.data for start in range(0, 5000, 500) for batch in encode_spans(spans[start : start + 500]))
    assert [span.attributes["many"] for span in decode_batch(data)] == [f"task {n}" for n in range(5000)]
    assert len(wire._keys) <= wire._KEYS_MAX
    assert len(wire._keys["n"].ints) <= wire._VALUES_MAX
    assert wire._keys["many"].texts is None
    assert len(wire._frames) <= wire._FRAMES_MAX


def test_dropped_providers_are_removed_from_the_tables() -> None:
    for n in range(3 * wire._FRAMES_MAX):
        kept = Kept()
        make(True, kept, {}, Resource({"service.name": f"s{n}"})).get_tracer("nodespan").start_span("a").end()
        (batch,) = encode_spans(kept.spans)
        assert next(iter(decode_batch(batch.data))).service_name == f"s{n}"
    assert len(wire._frames) <= wire._FRAMES_MAX


@pytest.mark.filterwarnings("ignore")
def test_only_the_value_that_cannot_be_encoded_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "opentelemetry"):
        batches = encode_spans(spans_with({"good": 1}, {"bad": 2**64, "good": 2}, {"bad": "\ud800", "good": 3}))
    spans = [span for batch in batches for span in decode_batch(batch.data)]
    assert [span.attributes for span in spans] == [{"good": 1}, {"good": 2}, {"good": 3}]


def test_threads_that_fill_the_tables_together_write_the_same_bytes() -> None:
    spans = spans_with(*({f"thread.key.{n % 50}": n % 7, "text": f"{n % 90}"} for n in range(400)))
    made: list[bytes] = []
    threads = [threading.Thread(target=lambda: made.append(wire.encode(spans))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert len(made) == 6
