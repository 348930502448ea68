"""The cost of a node with a large state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypedDict

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import nodespan
from bench.graphs import chain
from bench.measure import Columns, Figure, Size, Statistic, added, figure, interleaved, ratio
from nodespan import ComposerService

TITLE = "Cost per node at a large state"
ROUNDS = {"quick": 2, "normal": 60, "full": 200}
NODES = 10
RUNS = 10
TEXTS, TEXT_BYTES = 10_000, 1_000  # 10 MB


class State(TypedDict):
    """A number that the nodes change, and texts that they do not."""

    n: int
    texts: list[str]


async def step(state: State) -> dict[str, int]:
    return {"n": state["n"] + 1}


def run(size: Size) -> list[Figure]:
    trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    graph = chain(State, step, NODES)
    loop = asyncio.new_event_loop()
    states: dict[str, State] = {
        "small": {"n": 0, "texts": ["x"]},
        "10 MB": {"n": 0, "texts": [f"{i:0{TEXT_BYTES}}" for i in range(TEXTS)]},
    }
    variants: dict[str, Callable[[], float]] = {}
    for name, state in states.items():
        for way, with_nodespan, without in (
            ("ainvoke", invoke, invoke),
            ("execute_workflow", read_composer, read_langgraph),
        ):
            variants[f"{way} {name}"] = us_per_node(loop, with_nodespan, graph, state, instrumented=True)
            variants[f"{way} {name} bare"] = us_per_node(loop, without, graph, state, instrumented=False)
    columns = interleaved(variants, ROUNDS[size])
    of = f"{RUNS} runs of {NODES} trivial nodes"
    return [each for way in ("ainvoke", "execute_workflow") for each in figures(way, columns, of)]


async def invoke(graph: Any, state: State) -> None:
    await graph.ainvoke(state)


async def read_langgraph(graph: Any, state: State) -> None:
    async for _ in graph.astream_events(state, version="v2"):
        pass


async def read_composer(graph: Any, state: State) -> None:
    async for _ in ComposerService().execute_workflow(graph, state):
        pass


def us_per_node(
    loop: asyncio.AbstractEventLoop,
    run_graph: Callable[[Any, State], Coroutine[Any, Any, None]],
    graph: Any,
    state: State,
    *,
    instrumented: bool,
) -> Callable[[], float]:
    async def runs() -> None:
        for _ in range(RUNS):
            await run_graph(graph, state)

    def once() -> float:
        if instrumented:
            nodespan.instrument()
        started = time.process_time()
        loop.run_until_complete(runs())
        took_s = time.process_time() - started
        nodespan.uninstrument()
        return took_s / (RUNS * NODES) * 1e6

    return once


def figures(way: str, columns: Columns, of: str) -> list[Figure]:
    def cost(name: str) -> Statistic:
        return added(f"{way} {name}", f"{way} {name} bare")

    return [
        figure(f"added, small state, {way}", "µs/node", columns, cost("small"), of=of),
        figure(f"added, 10 MB state, {way}", "µs/node", columns, cost("10 MB"), of=of),
        figure(f"10 MB / small, {way}", "x", columns, ratio(cost("10 MB"), cost("small")), "<= 1.1", of),
    ]
