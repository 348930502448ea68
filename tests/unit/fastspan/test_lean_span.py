"""A lean span equals the span of the SDK for every reader."""

from __future__ import annotations

import gc
import json
import logging
import os
import pickle
import sys
import threading
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from nodespan.fastspan import LeanProcessors, LeanSpan, LeanTracer, check, find_difference
from nodespan.spans.attributes import to_attributes

EXAMPLES = int(os.environ.get("NODESPAN_TEST_EXAMPLES", "50"))
START_NS = 1_700_000_000_000_000_000


class Kept(sdk.SpanProcessor):
    """A processor of others: keeps what it receives, at the start and at the end."""

    def __init__(self) -> None:
        self.started: list[tuple[str, dict[str, Any], bool]] = []
        self.spans: list[sdk.ReadableSpan] = []

    def on_start(self, span, parent_context=None):
        self.started.append((span.name, dict(span.attributes), span.is_recording()))
        span.set_attribute("set.at.start", True)

    def on_end(self, span):
        self.spans.append(span)


class Ours(sdk.SpanProcessor):
    accepts_lean_spans = True

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def on_end(self, span):
        self.spans.append(span)


def make(is_lean: bool, *processors: sdk.SpanProcessor, sampler: Sampler = ALWAYS_ON, **limits: int) -> sdk.Tracer:
    several = LeanProcessors()
    provider = sdk.TracerProvider(
        sampler,
        Resource({"service.name": "s"}),
        shutdown_on_exit=False,
        active_span_processor=several,
        id_generator=check._Ids(),
        span_limits=sdk.SpanLimits(**limits),
    )
    for processor in processors:
        provider.add_span_processor(processor)
    tracer = provider.get_tracer("nodespan", "1", "https://schema")
    assert isinstance(tracer, sdk.Tracer)
    return check.lean_tracer(tracer) if is_lean else tracer


REMOTE = SpanContext(7, 8, True, TraceFlags(TraceFlags.SAMPLED), TraceState([("v", "1")]))
UNSAMPLED = SpanContext(7, 9, True, TraceFlags(0))
SCALARS = st.one_of(
    st.text(max_size=12), st.booleans(), st.integers(), st.floats(), st.binary(max_size=4), st.none(), st.just(object)
)
# Each level is written out: a recursive strategy draws three times as much for the same values.
INNER = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2))
VALUES = st.one_of(SCALARS, st.lists(INNER, max_size=3), st.dictionaries(st.text(max_size=3), INNER, max_size=2))
KEYS = st.one_of(st.sampled_from(["a", "b", "c", "d", ""]), st.text(max_size=3), st.integers(0, 2))
ATTRIBUTES = st.dictionaries(KEYS, VALUES, max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("attribute"), KEYS, VALUES),
        st.tuples(st.just("attributes"), ATTRIBUTES),
        st.tuples(st.just("event"), st.text(max_size=5), ATTRIBUTES),
        st.tuples(st.just("link"), st.sampled_from([REMOTE, UNSAMPLED]), ATTRIBUTES),
        st.tuples(st.just("status"), st.sampled_from(StatusCode), st.text(max_size=5)),
        st.tuples(st.just("name"), st.text(max_size=5)),
        st.tuples(st.just("exception"), st.text(max_size=5)),
        st.tuples(st.just("end")),
        st.tuples(st.just("child"), st.text(max_size=5), ATTRIBUTES, st.sampled_from(SpanKind)),
    ),
    max_size=8,
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_span_attributes": st.sampled_from([0, 1, 5]),
        "max_span_attribute_length": st.sampled_from([0, 3]),
        "max_events": st.sampled_from([0, 1]),
        "max_links": st.sampled_from([0, 1]),
        "max_event_attributes": st.sampled_from([0, 1]),
    },
)
PARENTS = st.sampled_from([None, REMOTE, UNSAMPLED])
SAMPLERS = st.sampled_from([ALWAYS_ON, ALWAYS_OFF, ParentBased(ALWAYS_ON), ParentBased(ALWAYS_OFF)])


def context_of(parent: SpanContext | None) -> Context:
    return trace.set_span_in_context(trace.NonRecordingSpan(parent), Context()) if parent else Context()


DO = {
    "attribute": lambda span, at, key, value: span.set_attribute(key, value),
    "event": lambda span, at, name, several: span.add_event(name, several, at),
    "link": lambda span, at, context, several: span.add_link(context, several),
    "status": lambda span, at, code, text: span.set_status(Status(code, text if code is StatusCode.ERROR else None)),
    "name": lambda span, at, name: span.update_name(name),
    "exception": lambda span, at, text: span.record_exception(ValueError(text), timestamp=at),
    "end": lambda span, at: span.end(at),
}


def plain(attributes: Any) -> Any:
    """The attributes as nodespan passes them to its own spans."""
    return to_attributes(attributes) if all(type(key) is str for key in attributes) else attributes


def perform(
    tracer: sdk.Tracer, parent: SpanContext | None, attributes: Any, steps: Any, is_plain: bool
) -> list[trace.Span]:
    """A fixed clock and fixed ids; the same program on each tracer."""
    given_as = plain if is_plain else dict
    links = [Link(REMOTE, {"l": [1]})]
    spans = [tracer.start_span("root", context_of(parent), SpanKind.SERVER, given_as(attributes), links, START_NS)]
    for number, step in enumerate(steps):
        span = spans[-1]
        if step[0] == "child":
            below = trace.set_span_in_context(span, Context())
            spans.append(tracer.start_span(step[1], below, step[3], given_as(step[2]), (), START_NS + number))
        elif step[0] == "attributes":
            span.set_attributes(given_as(step[1]))
        else:
            DO[step[0]](span, START_NS + number, *step[1:])
    for span in reversed(spans):
        span.end(START_NS + 100)
    return spans


def facts(span: Any) -> str:
    try:
        text = json.loads(span.to_json())
    except TypeError as error:  # bytes and the like: the SDK cannot write them as JSON
        text = str(error)
    info = span._instrumentation_info
    return repr([text, check.fields(span), type(span).__name__, span.context, span.end_time, info])


@settings(max_examples=EXAMPLES, deadline=None)
@given(LIMITS, PARENTS, SAMPLERS, ATTRIBUTES, STEPS, st.booleans())
def test_other_processors_receive_the_same_spans_as_with_the_sdk(limits, parent, sampler, attributes, steps, is_plain):
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    seen = []
    for is_lean in (False, True):
        kept = Kept()
        spans = perform(make(is_lean, kept, sampler=sampler, **limits), parent, attributes, steps, is_plain)
        contexts = [(span.get_span_context(), span.is_recording()) for span in spans]
        seen.append((kept.started, [facts(span) for span in kept.spans], contexts))
    assert repr(seen[1]) == repr(seen[0])


def test_the_comparison_finds_no_difference_with_this_sdk() -> None:
    assert find_difference() is None


def test_the_comparison_finds_a_changed_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdk.Span, "update_name", lambda self, name: None)
    monkeypatch.setattr(LeanSpan, "update_name", lambda self, name: setattr(self, "_name", name))
    assert "renamed" in (find_difference() or "")


def test_the_comparison_reports_a_missing_name_and_does_not_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sdk.Tracer, "_is_enabled")
    assert "_is_enabled" in (find_difference() or "")


def test_our_processor_receives_the_span_itself_and_others_a_copy() -> None:
    ours, kept = Ours(), Kept()
    tracer = make(True, ours, kept)
    span = tracer.start_span("a")
    span.end()
    assert ours.spans == [span]
    assert type(kept.spans[0]) is sdk.ReadableSpan


def test_a_processor_added_later_receives_spans_that_end_afterwards() -> None:
    ours, exporter = Ours(), InMemorySpanExporter()
    tracer = make(True, ours)
    first, second = tracer.start_span("first"), tracer.start_span("second")
    first.end()
    tracer.span_processor.add_span_processor(SimpleSpanProcessor(exporter))
    second.end()
    assert [span.name for span in exporter.get_finished_spans()] == ["second"]


def test_open_spans_end_under_the_resource_and_processors_that_they_started_with() -> None:
    ours = Ours()
    tracer = make(True, ours)
    assert isinstance(tracer, LeanTracer)
    span = tracer.start_span("before")
    tracer._set_resource(Resource({"service.name": "other"}))
    after = tracer.start_span("after")
    for one in (span, after):
        one.end()
    assert [one.resource.attributes["service.name"] for one in ours.spans] == ["s", "other"]


class Dropping(Sampler):
    """Records every span and samples those that are named so."""

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None):
        decision = Decision.RECORD_AND_SAMPLE if name.startswith("s") else Decision.RECORD_ONLY
        return SamplingResult(decision, {"sampler": name})

    def get_description(self):
        return "dropping"


def test_a_sampler_of_the_user_s_is_called_for_each_span() -> None:
    ours = Ours()
    tracer = make(True, ours, sampler=Dropping())
    root = tracer.start_span("sampled")
    tracer.start_span("child", trace.set_span_in_context(root)).end()
    (child,) = ours.spans
    assert (child.attributes, child.is_sampled) == ({"sampler": "child"}, False)
    root.end()


def test_eight_threads_that_end_one_span_end_it_once() -> None:
    ours = Ours()
    tracer = make(True, ours)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            span = tracer.start_span("a")
            threads = [threading.Thread(target=span.end) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(ours.spans) == len({id(span) for span in ours.spans}) == 50


def test_attributes_set_by_other_threads_are_recorded_before_the_end_only() -> None:
    ours = Ours()
    tracer = make(True, ours)
    span = tracer.start_span("a")
    go = threading.Barrier(5)

    def write(number: int) -> None:
        go.wait()
        for index in range(25):
            span.set_attribute(f"{number}.{index}", index)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    go.wait()
    for thread in threads:
        thread.join()
    span.end()
    span.set_attribute("late", 1)
    assert len(ours.spans[0].wire_fields().attributes) == 100


def test_a_forked_child_generates_other_ids() -> None:
    tracer = make(True, Ours())
    tracer.id_generator = sdk.RandomIdGenerator()
    tracer.refresh()

    def new_ids() -> list[int]:
        spans = [tracer.start_span("a") for _ in range(5)]
        for span in spans:
            span.end()
        return [span.get_span_context().span_id for span in spans]

    reading, writing = os.pipe()
    if not (child := os.fork()):
        ids = new_ids()
        os.write(writing, pickle.dumps(ids))
        os._exit(0)
    os.waitpid(child, 0)
    ids = pickle.loads(os.read(reading, 4096))
    os.close(reading), os.close(writing)
    assert not set(ids) & set(new_ids())


def test_a_waiting_span_of_twelve_attributes_has_at_most_1_1_kib() -> None:
    ours = Ours()
    tracer = make(True, ours, sampler=ALWAYS_ON)
    root = tracer.start_span("root")
    below = trace.set_span_in_context(root)
    texts = {f"key.{n}": f"value {n}" for n in range(8)}
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(1000):
        tracer.start_span("node", below, attributes={**texts, "number": n, "half": n / 2, "is": True, "one": 1}).end()
    size = (tracemalloc.get_traced_memory()[0] - before) / 1000
    tracemalloc.stop()
    root.end()
    assert size <= 1.1 * 1024
