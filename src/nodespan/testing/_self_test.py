"""Runs a two-node graph and compares what is recorded with what is expected, to detect a changed library.

A missing name of a library is reported where it is looked up. A name that exists and has another meaning is detected
only by a run.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypedDict

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

_INTERRUPTED: Final = "invoke_workflow self_test"
_RESUMED: Final = "invoke_workflow self_test_resumed"
_FIRST: Final = "invoke_node first"
_SECOND: Final = "invoke_node second"
_SPANS: Final[dict[str, Any]] = {
    _INTERRUPTED: {_FIRST: {"invoke_workflow inner": {"invoke_node sync": {"work": {}}}}, _SECOND: {}},
    _RESUMED: {_SECOND: {}},
}
_RESULT: Final = {"visits": 3}
_ATTRIBUTES: Final[dict[str, dict[str, object]]] = {
    _INTERRUPTED: {
        semconv.STATUS: "interrupted",
        semconv.LANGGRAPH_INTERRUPTED: True,
        semconv.LANGGRAPH_EDGES: ("edge first",),
    },
    _FIRST: {
        semconv.OPERATION_NAME: semconv.INVOKE_NODE,
        semconv.LANGGRAPH_NODE: "first",
        semconv.LANGGRAPH_STEP: 1,
        semconv.LANGGRAPH_EDGES: ("edge second",),
    },
}
_WRITE: Final = "visits int 1 "
"""The write of the first node, without its hash."""
_ATTEMPTS: Final = 3
_EVENTS_OF_NODE: Final = ["on_chain_end", "on_chain_start", "on_chain_stream"]


def self_test() -> list[str]:
    """Run a two-node graph in this process and check what is recorded of it.

    One node calls another graph, synchronously; the other fails twice, interrupts the run, and ends in a second run
    that resumes it. The result, the spans, the current span, attempts, edges, writes, interrupts, links and events are
    checked. This detects versions of LangGraph, langchain-core and OpenTelemetry in which a private name that nodespan
    uses has another meaning. Requires LangGraph and the OpenTelemetry SDK; takes some 50 ms after their import; changes
    no global provider and exports nothing. Not for use inside a running event loop.

    Returns:
        One sentence per difference; empty if there is none.
    """
    try:
        return list(_differences())
    except Exception as error:  # noqa: BLE001 a changed library may raise anything
        return [f"The self-test failed: {type(error).__name__}: {error}"]


def _differences() -> Iterator[str]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    exporter = InMemorySpanExporter()
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    attempts: list[int] = []
    events = asyncio.run(_run(provider, attempts))
    spans = exporter.get_finished_spans()
    tree = _tree(spans)
    yield from _compare("spans", tree, _SPANS)
    if tree != _SPANS:
        return
    yield from _compare("result", events[-1]["data"].get("output"), _RESULT)
    by_name = {span.name: span for span in reversed(spans)}  # of the two executions of the second node the first one
    for name, expected in _ATTRIBUTES.items():
        attributes = by_name[name].attributes or {}
        yield from _compare(f"attributes of {name}", {key: attributes.get(key) for key in expected}, expected)
    writes: Any = (by_name[_FIRST].attributes or {}).get(semconv.LANGGRAPH_WRITES, ())
    yield from _compare("writes of a node", [text[: len(_WRITE)] for text in writes], [_WRITE])
    second = by_name[_SECOND]
    failed = [(event.name, (event.attributes or {}).get(semconv.ATTEMPT)) for event in second.events]
    expected_failed = [(semconv.ATTEMPT_FAILED, number) for number in range(1, _ATTEMPTS)]
    yield from _compare("failed attempts of a node", failed, expected_failed)
    current = [_id(second.get_span_context())] * _ATTEMPTS
    yield from _compare("span that is current in each attempt", attempts[:_ATTEMPTS], current)
    links = [_id(link.context) for link in by_name[_RESUMED].links]
    yield from _compare("link of the resumed run", links, [_id(by_name[_INTERRUPTED].get_span_context())])
    of_node = sorted({event["event"] for event in events if event["metadata"]["span_id"] == f"{attempts[-1]:016x}"})
    yield from _compare("events with a node's span id", of_node, _EVENTS_OF_NODE)


async def _run(provider: Any, attempts: list[int]) -> list[dict[str, Any]]:
    """Runs and resumes the graph; returns the events of the resumed run, and appends the current span ids."""
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, StateGraph
    from langgraph.types import Command, RetryPolicy, interrupt
    from opentelemetry import trace

    from nodespan.workflow import ComposerService

    class State(TypedDict):
        visits: int

    def sync(state: State) -> State:
        with provider.get_tracer(__name__).start_as_current_span("work"):
            return {"visits": state["visits"] + 1}

    inner: Any = StateGraph(State)
    inner.add_node("sync", sync)
    inner.add_edge(START, "sync")
    nested = inner.compile(name="inner")

    def first(state: State) -> State:
        return nested.invoke(state)

    async def second(state: State) -> State:
        attempts.append(trace.get_current_span().get_span_context().span_id)
        if len(attempts) < _ATTEMPTS:
            raise ConnectionError("this attempt fails")
        return {"visits": state["visits"] + interrupt("visits?")}

    graph: Any = StateGraph(State)
    graph.add_node("first", first)
    retry = RetryPolicy(initial_interval=0.001, max_attempts=_ATTEMPTS, jitter=False)
    graph.add_node("second", second, retry_policy=retry)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    compiled = graph.compile(checkpointer=InMemorySaver(), name="self_test")
    composer = ComposerService(tracer_provider=provider)
    config: dict[str, Any] = {"configurable": {"thread_id": "self_test"}}
    async for _ in composer.execute_workflow(compiled, {"visits": 1}, config=config):
        pass
    resume = composer.execute_workflow(compiled, Command(resume=1), config={**config, "run_name": "self_test_resumed"})
    return [event async for event in resume]


def _tree(spans: Sequence[ReadableSpan], parent: int | None = None) -> dict[str, Any]:
    children = sorted((span for span in spans if _id(span.parent) == parent), key=lambda span: span.start_time or 0)
    return {span.name: _tree(spans, _id(span.get_span_context())) for span in children}


def _id(context: SpanContext | None) -> int | None:
    return None if context is None else context.span_id


def _compare(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"The {what} of a two-node graph: {found!r} instead of {expected!r}."
