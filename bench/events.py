"""What `ComposerService.execute_workflow` adds to each event of `astream_events`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import nodespan
from bench.graphs import Count, asking, chain, count, echo
from bench.measure import Figure, Size, added, figure, interleaved, median
from nodespan import ComposerService, WorkflowState

TITLE = "Added per event by execute_workflow"
ROUNDS = {"quick": 2, "normal": 40, "full": 150}
RUNS = 10
WORDS = 100

Stream = Callable[[Any, Any], AsyncIterator[Any]]


def run(size: Size) -> list[Figure]:
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    loop = asyncio.new_event_loop()
    with echo(WORDS) as factory:
        graphs = {
            "ten trivial nodes": (chain(Count, count, 10), {"n": 0}, RUNS),
            f"one node, {WORDS} chunks": (asking(factory), WorkflowState.from_prompt("Hello"), 2),
        }
        return [each for name, graph in graphs.items() for each in figures(name, loop, *graph, ROUNDS[size])]


def figures(name: str, loop: asyncio.AbstractEventLoop, graph: Any, given: Any, runs: int, rounds: int) -> list[Figure]:
    """The figures of one graph."""

    def measure(make_stream: Callable[[], Stream], *, instrumented: bool) -> Callable[[], float]:
        def once() -> float:
            if instrumented:
                nodespan.instrument()
            took_us = loop.run_until_complete(us_per_event(make_stream(), graph, given, runs))
            nodespan.uninstrument()
            return took_us

        return once

    columns = interleaved(
        {
            "bare": measure(lambda: events_of_langgraph, instrumented=False),
            "spans": measure(lambda: events_of_langgraph, instrumented=True),
            "composer": measure(lambda: ComposerService().execute_workflow, instrumented=True),
        },
        rounds,
    )
    of = f"{runs} runs"
    over_spans, over_all = f"added to the same with spans, {name}", f"added with all spans, {name}"
    return [
        figure(f"astream_events alone, {name}", "µs/event", columns, median("bare"), of=of),
        figure(over_spans, "µs/event", columns, added("composer", "spans"), "<= 8", of),
        figure(over_all, "µs/event", columns, added("composer", "bare"), of=of),
    ]


def events_of_langgraph(graph: Any, given: Any) -> AsyncIterator[Any]:
    return graph.astream_events(given, version="v2")


async def us_per_event(stream: Stream, graph: Any, given: Any, runs: int) -> float:
    events = 0
    started = time.process_time()
    for _ in range(runs):
        async for _event in stream(graph, given):
            events += 1
    return (time.process_time() - started) / events * 1e6
