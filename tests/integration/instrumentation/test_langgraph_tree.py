"""Invariants 1, 6 and 8: one span per run, one per node execution, each where it belongs."""

from __future__ import annotations

import asyncio
import operator
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, TypedDict

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.propagate import extract

from nodespan.testing import span_tree
from small_graphs import State, chain, fan, thread

pytestmark = pytest.mark.usefixtures("traced")


def one(state):
    return {"seen": ["one"]}


def two(state):
    return {"seen": ["two"]}


def three(state):
    return {"seen": ["three"]}


ONE = {"name": "invoke_node one"}
TWO = {"name": "invoke_node two"}
THREE = {"name": "invoke_node three"}


def test_a_run_has_one_workflow_span_and_one_span_per_node_execution(run, exporter):
    run(chain(one, two, three), {"seen": []})
    assert span_tree(exporter) == [{"name": "invoke_workflow Main", "children": [ONE, TWO, THREE]}]


def test_parallel_nodes_are_siblings_below_the_run(run, exporter):
    run(fan(one, two, three), {"seen": []})
    (root,) = span_tree(exporter)
    assert sorted(child["name"] for child in root["children"]) == sorted(node["name"] for node in (ONE, TWO, THREE))


def test_a_subgraph_that_is_a_node_runs_under_its_node(run, exporter):
    run(chain(one, ("inner", chain(two, name="Inner"), {})), {"seen": []})
    inner = {"name": "invoke_workflow Inner", "children": [TWO]}
    assert span_tree(exporter) == [
        {"name": "invoke_workflow Main", "children": [ONE, {"name": "invoke_node inner", "children": [inner]}]}
    ]


def test_a_graph_that_a_node_invokes_runs_under_that_node(run, exporter):
    inner = chain(two, name="Inner")

    def calls(state):
        return {"seen": inner.invoke({"seen": []})["seen"]}

    run(chain(calls), {"seen": []})
    assert span_tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "children": [
                {
                    "name": "invoke_node calls",
                    "children": [{"name": "invoke_workflow Inner", "children": [TWO]}],
                }
            ],
        }
    ]


def test_a_graph_that_an_async_node_awaits_runs_under_that_node(arun, exporter):
    inner = chain(two, name="Inner")

    async def calls(state):
        return {"seen": (await inner.ainvoke({"seen": []}))["seen"]}

    arun(chain(calls), {"seen": []})
    (root,) = span_tree(exporter)
    assert root["children"][0]["children"] == [{"name": "invoke_workflow Inner", "children": [TWO]}]


def test_tasks_of_the_functional_api_run_under_their_entrypoint(run_tasks, exporter):
    @task
    def double(n):
        return 2 * n

    @entrypoint()
    def flow(n):
        return double(n).result() + double(n + 1).result()

    run_tasks(flow, 1)
    double_span = {"name": "invoke_node double", "attributes": {"gen_ai.workflow.name": "LangGraph"}}
    assert span_tree(exporter, "gen_ai.workflow.name") == [
        {
            "name": "invoke_workflow LangGraph",
            "attributes": {"gen_ai.workflow.name": "LangGraph"},
            "children": [
                {
                    "name": "invoke_node flow",
                    "attributes": {"gen_ai.workflow.name": "LangGraph"},
                    "children": [double_span, double_span],
                }
            ],
        }
    ]


def test_async_tasks_of_the_functional_api_run_under_their_entrypoint(arun_tasks, exporter):
    @task
    async def double(n):
        return 2 * n

    @entrypoint()
    async def flow(n):
        return sum(await asyncio.gather(double(n), double(n + 1)))

    arun_tasks(flow, 1)
    (root,) = span_tree(exporter)
    (node,) = root["children"]
    assert (node["name"], node["children"]) == ("invoke_node flow", [{"name": "invoke_node double"}] * 2)


def test_send_branches_differ_in_their_path(run, exporter):
    def branch(state):
        return {"seen": [state["n"]]}

    builder = StateGraph(State)
    builder.add_node("branch", branch)
    builder.add_conditional_edges(START, lambda state: [Send("branch", {"n": n}) for n in range(3)], ["branch"])
    run(builder.compile(), {"seen": []})
    spans = [span for span in exporter.get_finished_spans() if span.name == "invoke_node branch"]
    assert len({span.attributes["langgraph.path"] for span in spans}) == 3
    assert len({span.attributes["langgraph.task.id"] for span in spans}) == 3
    assert len({span.attributes["langgraph.checkpoint_ns"] for span in spans}) == 3


def test_a_node_has_its_step_triggers_path_and_checkpoint(run, exporter):
    graph = chain(one, two, checkpointer=InMemorySaver())
    config = thread()
    run(graph, {"seen": []}, config)
    first, second = (s for s in exporter.get_finished_spans() if s.name.startswith("invoke_node"))
    # newest first: the end, after `one`, after `__start__`, which is where `one` began
    history = [snapshot.config["configurable"]["checkpoint_id"] for snapshot in graph.get_state_history(config)]
    assert {k: first.attributes[k] for k in ("langgraph.step", "langgraph.path", "langgraph.triggers")} == {
        "langgraph.step": 1,
        "langgraph.path": "__pregel_pull/one",
        "langgraph.triggers": ("branch:to:one",),
    }
    assert [s.attributes["langgraph.checkpoint.id"] for s in (first, second)] == [history[2], history[1]]
    assert first.attributes["langgraph.checkpoint_ns"] == f"one:{first.attributes['langgraph.task.id']}"


def test_retries_are_one_span_with_an_event_per_failed_attempt(run, exporter):
    calls = []

    def flaky(state):
        calls.append(1)
        time.sleep(0.02)  # the duration of an attempt, which is compared
        if len(calls) < 3:
            raise ValueError(f"attempt {len(calls)}")
        return {}

    policy = RetryPolicy(initial_interval=0.2, backoff_factor=1, jitter=False, retry_on=ValueError)
    run(chain(("flaky", flaky, {"retry_policy": policy})), {"seen": []})
    assert span_tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "children": [{"name": "invoke_node flaky", "events": ["nodespan.attempt_failed"] * 2}],
        }
    ]
    node = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node flaky")
    events = node.events
    assert [event.attributes["nodespan.attempt"] for event in events] == [1, 2]
    assert {event.attributes["error.type"] for event in events} == {"ValueError"}
    durations_s = [event.attributes["nodespan.attempt.duration_s"] for event in events]
    assert min(durations_s) >= 0.02
    assert sum(durations_s) <= (node.end_time - node.start_time) / 1e9 - 2 * 0.2  # the back-off belongs to no attempt


def test_a_retry_that_gives_up_has_an_event_per_attempt_and_records_the_error_once(run, exporter):
    def broken(state):
        raise ValueError("always")

    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ValueError, max_attempts=2)
    with pytest.raises(ValueError, match="always"):
        run(chain(("broken", broken, {"retry_policy": policy})), {"seen": []})
    (root,) = span_tree(exporter, "error.type")
    assert root["children"] == [
        {
            "name": "invoke_node broken",
            "status": "ERROR",
            "attributes": {"error.type": "ValueError"},
            "events": ["nodespan.attempt_failed", "nodespan.attempt_failed", "exception"],
        }
    ]
    assert "events" not in root


def test_a_cached_node_has_no_span(run, exporter):
    class Plain(TypedDict, total=False):
        n: Annotated[int, operator.add]

    calls = []

    def costly(state):
        calls.append(1)
        return {"n": 1}

    builder = StateGraph(Plain)
    builder.add_node("costly", costly, cache_policy=CachePolicy())
    builder.add_edge(START, "costly")
    graph = builder.compile(cache=InMemoryCache())
    run(graph, {"n": 0})
    exporter.clear()
    run(graph, {"n": 0})
    assert len(calls) == 1
    assert span_tree(exporter) == [{"name": "invoke_workflow LangGraph"}]


def test_a_node_reached_by_command_has_one_span_per_execution(run, exporter):
    def hop(state):
        return Command(update={"seen": ["hop"]}, goto="hop" if len(state["seen"]) < 2 else "__end__")

    run(chain(hop), {"seen": []})
    (root,) = span_tree(exporter, "langgraph.step")
    assert [child["attributes"]["langgraph.step"] for child in root["children"]] == [1, 2, 3]


def test_an_active_span_and_a_remote_parent_are_the_parent_of_the_run(run, exporter, tracer):
    graph = chain(one)
    with tracer.start_as_current_span("request"):
        run(graph, {"seen": []})
    assert [(t["name"], [c["name"] for c in t["children"]]) for t in span_tree(exporter)] == [
        ("request", ["invoke_workflow Main"])
    ]
    exporter.clear()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    token = context_api.attach(extract({"traceparent": traceparent}))
    try:
        run(graph, {"seen": []})
    finally:
        context_api.detach(token)
    root = next(span for span in exporter.get_finished_spans() if span.name == "invoke_workflow Main")
    assert f"{root.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    assert root.parent.is_remote


def _check_hundred(exporter):
    spans = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in spans}
    runs = [span for span in spans if span.name == "invoke_workflow Main"]
    assert len(runs) == 100
    for node in (span for span in spans if span.name.startswith("invoke_node")):
        run_span = by_id[node.parent.span_id]
        request = by_id[run_span.parent.span_id]
        assert request.name == f"request {node.attributes['n']}"


async def test_a_hundred_concurrent_async_runs_have_separate_trees(exporter, tracer):
    async def mark(state):
        trace.get_current_span().set_attribute("n", state["n"])
        await asyncio.sleep(0)
        assert baggage.get_baggage("n") == state["n"]
        return {}

    graph = chain(("first", mark, {}), ("second", mark, {}))

    async def request(n):
        with tracer.start_as_current_span(f"request {n}"):
            token = context_api.attach(baggage.set_baggage("n", n))
            async for _ in graph.astream_events({"n": n, "seen": []}, version="v2"):
                await asyncio.sleep(0)
            context_api.detach(token)

    await asyncio.gather(*(request(n) for n in range(100)))
    _check_hundred(exporter)


def test_a_hundred_concurrent_sync_runs_have_separate_trees(exporter, tracer):
    def mark(state):
        trace.get_current_span().set_attribute("n", state["n"])
        return {}

    graph = chain(("first", mark, {}), ("second", mark, {}))

    def request(n):
        with tracer.start_as_current_span(f"request {n}"):
            graph.invoke({"n": n, "seen": []})

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(request, range(100)))
    _check_hundred(exporter)


def test_a_batch_is_one_run_per_input_under_the_caller(exporter, tracer):
    graph = chain(one)
    with tracer.start_as_current_span("request"):
        graph.batch([{"seen": []}] * 3)
        asyncio.run(graph.abatch([{"seen": []}] * 3))
    (request,) = span_tree(exporter)
    assert request["children"] == [{"name": "invoke_workflow Main", "children": [ONE]}] * 6
