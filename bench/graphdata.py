"""The cost of running spans, edges and writes per node, and of reading the declared graph."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.pregel import _runner
from opentelemetry.metrics import NoOpMeterProvider

import nodespan
from bench.graphs import chain
from bench.measure import Figure, Size, Statistic, added, figure, interleaved, median
from bench.overhead_worker import Counting, configured
from nodespan import semconv
from nodespan.delivery.running_spans import RunningSpans
from nodespan.instrumentation.langgraph._edges import of_execution
from nodespan.instrumentation.langgraph._spans import NodeSpan, WorkflowSpan
from nodespan.instrumentation.langgraph._topology import declared
from nodespan.spans.attributes import PlainAttributes
from nodespan.spans.fingerprint import set_hash_key
from nodespan.spans.scope import current_scope

TITLE = "Added per node by running spans, edges and writes"
ROUNDS = {"quick": 2, "normal": 60, "full": 200}
CALLS = 1000
NODES = 50


class State(TypedDict):
    """The state that the nodes write."""

    n: int
    text: str


class Written:
    """A task as LangGraph leaves it when the node has returned."""

    def __init__(self, task: Any, writes: list[tuple[str, object]]) -> None:
        self.name = task.name
        self.config = task.config
        self.writes = writes


def step(state: State) -> dict[str, Any]:
    return {"n": state["n"] + 1, "text": "a short text"}


def run(size: Size) -> list[Figure]:
    return [*of_nodes(ROUNDS[size]), *of_graphs(ROUNDS[size])]


def of_nodes(rounds: int) -> list[Figure]:
    """The functions that nodespan calls at each node, called many times inside one."""
    tasks: list[Any] = []
    found: list[Figure] = []
    original = _runner.run_with_retry

    def keeps_task(task: Any, *args: Any, **kwargs: Any) -> Any:
        tasks.append(task)
        return original(task, *args, **kwargs)

    def measures(state: State) -> dict[str, Any]:
        scope = current_scope()
        assert isinstance(scope, NodeSpan)
        found.extend(figures(scope, next(task for task in tasks if task.name == "step"), rounds))
        return step(state)

    builder = StateGraph(State)
    builder.add_node("step", step)
    builder.add_node("measures", measures)
    builder.add_edge(START, "step")
    builder.add_edge("step", "measures")
    graph = builder.compile(name="graph")
    nodespan.instrument(tracer_provider=configured(Counting())[0], meter_provider=NoOpMeterProvider())
    set_hash_key(b"a key of any store")
    original, _runner.run_with_retry = _runner.run_with_retry, keeps_task
    try:
        graph.invoke({"n": 0, "text": ""})
    finally:
        _runner.run_with_retry = original
        nodespan.uninstrument()
        set_hash_key(None)
    return found


def figures(scope: NodeSpan, task: Any, rounds: int) -> list[Figure]:
    running = RunningSpans()
    edges = Written(task, [write for write in task.writes if write[0].startswith("branch:to:")])
    assert edges.writes
    assert len(task.writes) == len(edges.writes) + 2
    parent = scope.parent
    assert isinstance(parent, WorkflowSpan)

    def end(task: Any) -> None:
        """What a node with a declared graph does at its start and its end, and what any span does: set its status."""
        attributes = PlainAttributes()
        if task is not None:
            parent.iteration(task.name, 1)
            attributes = of_execution(scope, task)
            assert attributes
        attributes[semconv.STATUS] = "ok"
        scope.span.set_attributes(attributes)

    calls: dict[str, Callable[[], None]] = {
        "nothing": lambda: None,
        "start": lambda: running.on_start(scope.span),
        "status": lambda: end(None),
        "edges": lambda: end(edges),
        "writes": lambda: end(task),
    }
    columns = interleaved({name: us_per_call(call) for name, call in calls.items()}, rounds)
    of = f"{CALLS} calls"
    start, taken = added("start", "nothing"), added("edges", "status")
    both: Statistic = lambda columns: start(columns) + added("writes", "status")(columns)  # noqa: E731
    without: Statistic = lambda columns: start(columns) + taken(columns)  # noqa: E731
    return [
        figure("recording a start for running spans", "µs", columns, start, of=of),
        figure("taken edges", "µs/node", columns, taken, of=of),
        figure("running spans and edges", "µs/node", columns, without, "<= 1.5", of),
        figure("running spans, edges and hashes of a number and a short text", "µs/node", columns, both, "<= 3", of),
    ]


def of_graphs(rounds: int) -> list[Figure]:
    """Reading the declared graph, once per compilation."""

    def once() -> float:
        graph = chain(State, step, NODES)
        started = time.process_time()
        declared(graph)
        return (time.process_time() - started) * 1e3

    columns = interleaved({"read": once}, rounds)
    return [figure(f"the declared graph of {NODES} nodes, read once", "ms", columns, median("read"), "<= 1", "a graph")]


def us_per_call(call: Callable[[], None]) -> Callable[[], float]:
    def once() -> float:
        started = time.process_time()
        for _ in range(CALLS):
            call()
        return (time.process_time() - started) / CALLS * 1e6

    return once
