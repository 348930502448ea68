"""Runs a two-node graph and compares what is recorded with what must be, to find a library whose meaning has changed.

A name that a library no longer has is reported when it is looked for. A name that is there but works in another way is
not: only a run shows it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypedDict

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

_NODES: Final[dict[str, Any]] = {"invoke_node first": {"inside first": {}}, "invoke_node second": {}}
_RESULT: Final = {"visits": 3}
_NODE: Final = {semconv.OPERATION_NAME: semconv.INVOKE_NODE, semconv.LANGGRAPH_NODE: "second"}
_EVENTS_OF_NODE: Final = ["on_chain_end", "on_chain_start", "on_chain_stream"]


def self_test() -> list[str]:
    """Run a two-node graph in this process and check its result, spans, attempts and events.

    It finds versions of LangGraph, langchain-core and OpenTelemetry in which a private name that nodespan uses has
    changed its meaning. It needs LangGraph and the OpenTelemetry SDK, takes some 30 ms after their import, changes no
    global provider, and exports nothing. Not for use inside a running event loop.

    Returns:
        One sentence per difference; empty when everything is as it must be.
    """
    try:
        return list(_differences())
    except Exception as error:  # noqa: BLE001 a library that raises is what is looked for
        return [f"The self-test failed: {type(error).__name__}: {error}"]


def _differences() -> Iterator[str]:
    from langgraph.graph import START, StateGraph
    from langgraph.types import RetryPolicy
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from nodespan.workflow import ComposerService

    class State(TypedDict):
        visits: int

    exporter = InMemorySpanExporter()
    provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    attempts: list[int] = []

    def first(state: State) -> State:
        with provider.get_tracer(__name__).start_as_current_span("inside first"):
            return {"visits": state["visits"] + 1}

    def second(state: State) -> State:
        attempts.append(trace.get_current_span().get_span_context().span_id)
        if len(attempts) == 1:
            raise ConnectionError("the first attempt fails")
        return {"visits": state["visits"] + 1}

    retry = RetryPolicy(initial_interval=0.001, max_attempts=2, jitter=False)
    graph: Any = StateGraph(State)
    graph.add_node("first", first)
    graph.add_node("second", second, retry_policy=retry)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    compiled = graph.compile(name="self_test")

    async def run() -> list[dict[str, Any]]:
        composer = ComposerService(tracer_provider=provider)
        return [event async for event in composer.execute_workflow(compiled, {"visits": 1})]

    events = asyncio.run(run())
    spans = exporter.get_finished_spans()
    yield from _compare("spans", _tree(spans), {"invoke_workflow self_test": _NODES})
    yield from _compare("result", events[-1]["data"].get("output"), _RESULT)
    by_name = {span.name: span for span in spans}
    second_span = by_name.get("invoke_node second")
    if second_span is None:
        return
    attributes = dict(second_span.attributes or {})
    yield from _compare("attributes of a node", {key: attributes.get(key) for key in _NODE}, _NODE)
    retries = [event.name for event in second_span.events]
    yield from _compare("events of a node with a failed attempt", retries, [semconv.ATTEMPT_FAILED])
    span_id = _id(second_span.get_span_context()) or 0
    yield from _compare("span that is current in each attempt", attempts, [span_id, span_id])
    shown = f"{span_id:016x}"
    of_node = sorted({event["event"] for event in events if event["metadata"]["span_id"] == shown})
    yield from _compare("events with a node's span id", of_node, _EVENTS_OF_NODE)


def _tree(spans: Sequence[ReadableSpan], parent: int | None = None) -> dict[str, Any]:
    children = sorted((span for span in spans if _id(span.parent) == parent), key=lambda span: span.start_time or 0)
    return {span.name: _tree(spans, _id(span.get_span_context())) for span in children}


def _id(context: SpanContext | None) -> int | None:
    return None if context is None else context.span_id


def _compare(what: str, found: object, expected: object) -> Iterator[str]:
    if found != expected:
        yield f"The {what} of a two-node graph: {found!r} instead of {expected!r}."
