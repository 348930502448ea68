"""Metrics of runs and nodes equal their spans, for every outcome, with and without a recorded span."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter, defaultdict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, RetryPolicy, interrupt
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON
from opentelemetry.trace import NoOpTracerProvider

from nodespan import semconv
from nodespan.fastspan import NodespanTracerProvider
from nodespan.instrumentation.langgraph import LangGraphInstrumentor
from nodespan.spans.instruments import get_instruments
from nodespan.spans.scope import SpanScope
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from small_graphs import chain, fan, thread
from workflow_graphs import echo_factory, one_node

NODE = (semconv.WORKFLOW_NAME, semconv.NODE, semconv.STATUS, semconv.ERROR_TYPE)
WORKFLOW = (semconv.WORKFLOW_NAME, semconv.STATUS, semconv.ERROR_TYPE)
PATIENCE_S = 20.0


@pytest.fixture
def counted(tracer_provider, measured):
    """``instrument()`` of LangGraph alone, with both providers."""
    LangGraphInstrumentor().instrument(tracer_provider=tracer_provider, meter_provider=measured.provider)
    yield measured
    LangGraphInstrumentor().uninstrument()


def step(state):
    return {"seen": [1]}


async def astep(state):
    await asyncio.sleep(0)
    return {"seen": [1]}


def fails(state):
    raise RuntimeError("down")


def asks(state):
    return {"seen": [interrupt("a secret question")]}


def fails_times(times):
    left = [times]

    def flaky(state):
        if left[0]:
            left[0] -= 1
            raise ConnectionError("down")
        return {"seen": [1]}

    return flaky


RETRY = {"retry_policy": RetryPolicy(initial_interval=0.001, jitter=False, max_attempts=3, retry_on=ConnectionError)}


def spans_of(exporter, operation):
    return [span for span in exporter.get_finished_spans() if span.name.startswith(operation)]


def seconds_by(spans, labels):
    found = defaultdict(list)
    for span in spans:
        found[tuple(span.attributes.get(label) for label in labels)].append((span.end_time - span.start_time) / 1e9)
    return {key: (pytest.approx(sum(each)), len(each)) for key, each in found.items()}


def assert_equal_to_the_spans(measured, exporter):
    """Every metric of runs and nodes, against the spans that have ended. None may be under way."""
    runs, nodes = spans_of(exporter, "invoke_workflow"), spans_of(exporter, "invoke_node")
    assert runs
    assert measured.of(semconv.NODE_DURATION, *NODE) == seconds_by(nodes, NODE)
    assert measured.of(semconv.WORKFLOW_DURATION, *WORKFLOW) == seconds_by(runs, WORKFLOW)
    names = {run.attributes[semconv.WORKFLOW_NAME] for run in runs}
    assert measured.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME) == dict.fromkeys(names, 0)
    interrupted = [run for run in runs if run.attributes[semconv.STATUS] == "interrupted"]
    assert measured.of(semconv.WORKFLOW_INTERRUPTS, semconv.WORKFLOW_NAME) == dict(
        Counter(run.attributes[semconv.WORKFLOW_NAME] for run in interrupted)
    )
    retries = Counter()
    for node in nodes:
        failed = [event.attributes[semconv.ERROR_TYPE] for event in node.events if event.name == semconv.ATTEMPT_FAILED]
        if node.attributes[semconv.STATUS] == "error":
            failed = failed[:-1]  # the last attempt was not tried again
        retries.update((node.attributes[semconv.NODE], error) for error in failed)
    assert measured.of(semconv.NODE_RETRIES, semconv.NODE, semconv.ERROR_TYPE) == dict(retries)


def nodes_by_status(measured):
    return {key: count for key, (_, count) in measured.of(semconv.NODE_DURATION, semconv.NODE, semconv.STATUS).items()}


def test_a_run_and_its_nodes(run, counted, exporter):
    run(chain(step, ("again", step, {})), {"seen": []})
    assert nodes_by_status(counted) == {("step", "ok"): 1, ("again", "ok"): 1}
    assert_equal_to_the_spans(counted, exporter)


def test_labels_do_not_depend_on_attributes_set_by_the_program(run, measured):
    def overwrites(state):
        trace.get_current_span().set_attributes({semconv.NODE: f"user {id(state)}", semconv.WORKFLOW_NAME: "other"})
        return {"seen": [1]}

    provider = NodespanTracerProvider(measured.provider)
    provider.apply(Resource({}), ALWAYS_ON, SpanLimits(), [SimpleSpanProcessor(InMemorySpanExporter())])
    LangGraphInstrumentor().instrument(tracer_provider=provider, meter_provider=measured.provider)
    try:
        run(chain(overwrites), {"seen": []})
    finally:
        LangGraphInstrumentor().uninstrument()
    labels = (semconv.WORKFLOW_NAME, semconv.NODE)
    assert list(measured.of(semconv.NODE_DURATION, *labels)) == [("Main", "overwrites")]


def test_an_error_counts_with_its_class_on_every_span_that_it_passes(run, counted, exporter):
    with pytest.raises(RuntimeError, match="down"):
        run(chain(step, ("inner", chain(fails, name="Inner"), {})), {"seen": []})
    durations = counted.of(semconv.NODE_DURATION, *NODE)
    assert {key: count for key, (_, count) in durations.items()} == {
        ("Main", "step", "ok", None): 1,
        ("Main", "inner", "error", "RuntimeError"): 1,
        ("Inner", "fails", "error", "RuntimeError"): 1,
    }
    assert_equal_to_the_spans(counted, exporter)


def test_nested_runs_count_separately(run, counted, exporter):
    run(chain(("inner", chain(step, name="Inner"), {})), {"seen": []})
    runs = counted.of(semconv.WORKFLOW_DURATION, semconv.WORKFLOW_NAME)
    assert {name: count for name, (_, count) in runs.items()} == {"Main": 1, "Inner": 1}
    assert_equal_to_the_spans(counted, exporter)


def test_nodes_beside_each_other(run, counted, exporter):
    def other(state):
        return {"seen": [2]}

    run(fan(step, other), {"seen": []})
    assert nodes_by_status(counted) == {("step", "ok"): 1, ("other", "ok"): 1}
    assert_equal_to_the_spans(counted, exporter)


@pytest.mark.parametrize(("failures", "retries", "status"), [(0, 0, "ok"), (2, 2, "ok"), (3, 2, "error")])
def test_attempts_that_were_tried_again_count_as_retries(failures, retries, status, run, counted, exporter):
    graph = chain(("flaky", fails_times(failures), RETRY))
    if status == "error":
        with pytest.raises(ConnectionError):
            run(graph, {"seen": []})
    else:
        run(graph, {"seen": []})
    assert sum(counted.of(semconv.NODE_RETRIES).values()) == retries
    assert nodes_by_status(counted) == {("flaky", status): 1}
    assert_equal_to_the_spans(counted, exporter)


def test_an_interrupt_counts_once_and_the_resumed_run_is_another(run, counted, exporter):
    graph = chain(asks, checkpointer=InMemorySaver())
    run(graph, {"seen": []}, thread())
    assert counted.of(semconv.WORKFLOW_INTERRUPTS, semconv.WORKFLOW_NAME) == {"Main": 1}
    run(graph, Command(resume="yes"), thread())
    assert counted.of(semconv.WORKFLOW_INTERRUPTS, semconv.WORKFLOW_NAME) == {"Main": 1}
    assert nodes_by_status(counted) == {("asks", "interrupted"): 1, ("asks", "ok"): 1}
    assert_equal_to_the_spans(counted, exporter)


def test_a_run_is_active_until_its_end(counted):
    seen = []

    def looks(state):
        seen.append(counted.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME))
        return {}

    chain(("inner", chain(looks, name="Inner"), {})).invoke({"seen": []})
    assert seen == [{"Main": 1, "Inner": 1}]
    assert counted.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME) == {"Main": 0, "Inner": 0}


@pytest.mark.parametrize("how", ["close", "collect"])
def test_a_stream_closed_early(how, counted, exporter):
    steps = chain(step, ("again", step, {})).stream({"seen": []})
    next(steps)
    if how == "close":
        steps.close()
    del steps
    gc.collect()
    runs = counted.of(semconv.WORKFLOW_DURATION, semconv.STATUS)
    assert {status: count for status, (_, count) in runs.items()} == {"cancelled": 1}
    assert_equal_to_the_spans(counted, exporter)


def test_a_run_ended_by_the_garbage_collector_inside_the_sdk_does_not_block(counted, exporter):
    graph = chain(step, ("again", step, {}))
    steps = graph.stream({"seen": []})
    next(steps)
    steps.close()  # so that there is something to collect
    cycle = [graph.stream({"seen": []})]
    next(cycle[0])
    cycle.append(cycle)
    del cycle
    counted.collect_garbage_while_collecting(semconv.STATUS, "cancelled")
    assert len(spans_of(exporter, "invoke_workflow")) == 2
    assert_equal_to_the_spans(counted, exporter)


def test_a_single_pipeline_node_uses_the_given_meter_provider(tracer_provider, measured, exporter):
    with echo_factory() as factory:
        node = PipelineNode(pipeline_factory=factory, tracer_provider=tracer_provider, meter_provider=measured.provider)
        node.invoke(WorkflowState.from_prompt("hello"))
        one_node(node).invoke(WorkflowState.from_prompt("hello"))
    nodes = spans_of(exporter, "invoke_node")
    assert len(nodes) == 2
    assert measured.of(semconv.NODE_DURATION, *NODE) == seconds_by(nodes, NODE)
    assert sum(count for _, count in measured.of(semconv.OPERATION_DURATION).values()) == 2
    assert semconv.WORKFLOW_ACTIVE not in measured.points()


async def test_an_async_stream_closed_early(counted, exporter):
    steps = chain(astep, ("again", astep, {})).astream({"seen": []})
    await anext(steps)
    await steps.aclose()
    assert_equal_to_the_spans(counted, exporter)


async def test_a_cancelled_run(counted, exporter):
    inside = asyncio.Event()

    async def waits(state):
        inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(chain(waits).ainvoke({"seen": []}))
    await asyncio.wait_for(inside.wait(), PATIENCE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nodes_by_status(counted) == {("waits", "cancelled"): 1}
    assert_equal_to_the_spans(counted, exporter)


def test_a_generator_that_is_never_read_counts_nothing(counted):
    chain(step).stream({"seen": []})
    chain(astep).astream({"seen": []})
    gc.collect()
    assert counted.points() == {}


def test_exemplars_refer_to_the_spans_of_the_node_and_the_run(run, counted, exporter):
    run(chain(step), {"seen": []})
    points = counted.points()
    for name, operation in ((semconv.NODE_DURATION, "invoke_node"), (semconv.WORKFLOW_DURATION, "invoke_workflow")):
        (span,) = spans_of(exporter, operation)
        (exemplar,) = points[name][0].exemplars
        assert (exemplar.trace_id, exemplar.span_id) == (span.context.trace_id, span.context.span_id)


@pytest.mark.parametrize(
    "provider", [NoOpTracerProvider(), TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)], ids=["none", "off"]
)
def test_runs_without_a_recorded_span_are_counted(provider, run, measured):
    LangGraphInstrumentor().instrument(tracer_provider=provider, meter_provider=measured.provider)
    try:
        run(chain(step), {"seen": []})
        with pytest.raises(RuntimeError, match="down"):
            run(chain(fails), {"seen": []})
    finally:
        LangGraphInstrumentor().uninstrument()
    assert nodes_by_status(measured) == {("step", "ok"): 1, ("fails", "error"): 1}
    assert measured.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME) == {"Main": 0}
    assert not any(point.exemplars for point in measured.points()[semconv.NODE_DURATION])


def test_without_providers_no_run_is_opened_or_referenced(run):
    found = []
    nothing = get_instruments()
    writers = list(nothing._writers)  # of another test's provider, which has shut down

    def looks(state):
        owners = [thing for thing in gc.get_objects() if isinstance(thing, SpanScope)]
        found.extend(owner for owner in owners if owner.is_open)
        return {}

    LangGraphInstrumentor().instrument()
    try:
        run(chain(looks), {"seen": []})
    finally:
        LangGraphInstrumentor().uninstrument()
    assert found == []
    assert get_instruments() is nothing
    assert not nothing.are_live
    assert list(nothing._writers) == writers
    assert not nothing._put_off


async def read_events(composer, graph, *, leave_at=None, config=None):
    events = composer.execute_workflow(graph, {"seen": []}, config=config)
    async for event in events:
        if event["event"] == leave_at:
            break
    await events.aclose()


async def test_each_run_of_a_composer_counts_once_on_the_given_meter_provider(tracer_provider, measured, exporter):
    composer = ComposerService(tracer_provider=tracer_provider, meter_provider=measured.provider)
    await read_events(composer, chain(astep, name="Whole"))
    await read_events(composer, chain(("inner", chain(astep, name="Inner"), {}), name="Nested"))
    await read_events(composer, chain(astep, name="Left"), leave_at="on_chain_stream")
    with pytest.raises(RuntimeError, match="down"):
        await read_events(composer, chain(fails, name="Failed"))
    await read_events(composer, chain(asks, name="Asked", checkpointer=InMemorySaver()), config=thread())
    runs = measured.of(semconv.WORKFLOW_DURATION, semconv.WORKFLOW_NAME, semconv.STATUS)
    assert {key: count for key, (_, count) in runs.items()} == {
        ("Whole", "ok"): 1,
        ("Nested", "ok"): 1,
        ("Inner", "ok"): 1,
        ("Left", "cancelled"): 1,
        ("Failed", "error"): 1,
        ("Asked", "interrupted"): 1,
    }
    assert_equal_to_the_spans(measured, exporter)


async def test_a_dropped_run_of_a_composer_is_no_longer_active(tracer_provider, measured):
    composer = ComposerService(tracer_provider=tracer_provider, meter_provider=measured.provider)
    events = composer.execute_workflow(chain(astep), {"seen": []})
    await anext(events)
    assert measured.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME) == {"Main": 1}
    del events
    deadline = time.monotonic() + PATIENCE_S
    while (active := measured.of(semconv.WORKFLOW_ACTIVE, semconv.WORKFLOW_NAME)) != {"Main": 0}:
        assert time.monotonic() < deadline, active
        gc.collect()
        await asyncio.sleep(0.01)
