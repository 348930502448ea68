"""Invariant 5: an error is recorded once, where it was raised; other outcomes are an attribute."""

from __future__ import annotations

import asyncio
import time

import pytest
from langgraph import errors
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphBubbleUp
from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt

from nodespan.testing import span_tree
from small_graphs import State, chain, thread

pytestmark = pytest.mark.usefixtures("traced")


def step(state):
    return {"seen": [1]}


def fails(state):
    raise RuntimeError("down")


async def afails(state):
    await asyncio.sleep(0)
    raise RuntimeError("down")


def asks(state):
    return {"seen": [interrupt("a secret question")]}


def tree(exporter):
    return span_tree(exporter, "nodespan.status", "error.type", "langgraph.interrupted")


FAILED = {"status": "ERROR", "attributes": {"error.type": "RuntimeError", "nodespan.status": "error"}}
INTERRUPTED = {"nodespan.status": "interrupted"}
OK = {"attributes": {"nodespan.status": "ok"}}


def test_an_error_is_recorded_once_where_it_was_raised_and_marks_the_ancestors(run, exporter):
    inner = chain(fails, name="Inner")
    with pytest.raises(RuntimeError, match="down"):
        run(chain(step, ("inner", inner, {})), {"seen": []})
    assert tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            **FAILED,
            "children": [
                {"name": "invoke_node step", **OK},
                {
                    "name": "invoke_node inner",
                    **FAILED,
                    "children": [
                        {
                            "name": "invoke_workflow Inner",
                            **FAILED,
                            "children": [{"name": "invoke_node fails", **FAILED, "events": ["exception"]}],
                        }
                    ],
                },
            ],
        }
    ]


def test_an_error_of_an_async_node_is_recorded_once(arun, exporter):
    with pytest.raises(RuntimeError, match="down"):
        arun(chain(afails), {"seen": []})
    assert tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            **FAILED,
            "children": [{"name": "invoke_node afails", **FAILED, "events": ["exception"]}],
        }
    ]


def test_an_error_handled_by_a_node_is_not_an_error_of_the_node(run, exporter):
    inner = chain(fails, name="Inner")

    def catches(state):
        try:
            inner.invoke({"seen": []})
        except RuntimeError:
            return {"seen": ["caught"]}

    run(chain(catches), {"seen": []})
    (root,) = tree(exporter)
    assert root["attributes"] == {"nodespan.status": "ok"}
    (node,) = root["children"]
    assert node["attributes"] == {"nodespan.status": "ok"}
    assert node["children"][0]["attributes"] == FAILED["attributes"]


def test_an_error_before_a_successful_retry_is_not_an_error_of_the_run(run, exporter):
    calls = []

    def flaky(state):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("once")
        return {}

    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=RuntimeError)
    run(chain(("flaky", flaky, {"retry_policy": policy})), {})
    assert [node["attributes"] for node in (tree(exporter)[0], tree(exporter)[0]["children"][0])] == [
        {"nodespan.status": "ok"}
    ] * 2


def test_two_errors_of_one_run_are_each_recorded_where_they_were_raised(exporter):
    inner = chain(fails, name="Inner")

    def translates(state):
        try:
            inner.invoke({"seen": []})
        except RuntimeError as error:
            raise KeyError("another") from error

    with pytest.raises(KeyError):
        chain(translates).invoke({"seen": []})
    spans = {span.name: span for span in exporter.get_finished_spans()}
    recorded = {name: [e.attributes["exception.type"] for e in span.events] for name, span in spans.items()}
    assert recorded == {
        "invoke_node fails": ["RuntimeError"],
        "invoke_workflow Inner": [],
        "invoke_node translates": ["KeyError"],
        "invoke_workflow Main": [],
    }


def test_an_interrupt_is_not_an_error(run, exporter):
    graph = chain(asks, checkpointer=InMemorySaver())
    run(graph, {"seen": []}, thread())
    assert tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "attributes": {**INTERRUPTED, "langgraph.interrupted": True},
            "children": [{"name": "invoke_node asks", "attributes": INTERRUPTED}],
        }
    ]


def test_an_interrupt_in_a_subgraph_is_not_an_error(run, exporter):
    graph = chain(("inner", chain(asks, name="Inner"), {}), checkpointer=InMemorySaver())
    run(graph, {"seen": []}, thread())
    assert tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "attributes": {**INTERRUPTED, "langgraph.interrupted": True},
            "children": [
                {
                    "name": "invoke_node inner",
                    "attributes": INTERRUPTED,
                    "children": [
                        {
                            "name": "invoke_workflow Inner",
                            "attributes": {**INTERRUPTED, "langgraph.interrupted": True},
                            "children": [{"name": "invoke_node asks", "attributes": INTERRUPTED}],
                        }
                    ],
                }
            ],
        }
    ]


def test_a_static_interrupt_is_not_an_error(run, exporter):
    graph = chain(step, ("after", step, {}), checkpointer=InMemorySaver(), interrupt_before=["after"])
    run(graph, {"seen": []}, thread())
    assert tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            "attributes": {**INTERRUPTED, "langgraph.interrupted": True},
            "children": [{"name": "invoke_node step", **OK}],
        }
    ]


def test_an_interrupt_in_a_tool_is_not_an_error(run, exporter):
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import MessagesState
    from langgraph.prebuilt import ToolNode

    @tool
    def confirm(what: str) -> str:
        """Asks."""
        return interrupt(what)

    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([confirm]))
    builder.add_edge(START, "tools")
    call = {"name": "confirm", "args": {"what": "ok?"}, "id": "c1"}
    graph = builder.compile(checkpointer=InMemorySaver())
    run(graph, {"messages": [AIMessage("", tool_calls=[call])]}, thread())
    (root,) = tree(exporter)
    assert root["attributes"] == {**INTERRUPTED, "langgraph.interrupted": True}
    assert root["children"] == [{"name": "invoke_node tools", "attributes": INTERRUPTED}]


def test_a_command_to_the_parent_graph_is_not_an_error(run, exporter):
    def leaves(state):
        return Command(graph=Command.PARENT, goto="after")

    builder = StateGraph(State)
    builder.add_node("inner", chain(leaves, name="Inner"))
    builder.add_node("after", step)
    builder.add_edge(START, "inner")
    run(builder.compile(name="Main"), {"seen": []})
    assert tree(exporter) == [
        {
            "name": "invoke_workflow Main",
            **OK,
            "children": [
                {
                    "name": "invoke_node inner",
                    **OK,
                    "children": [
                        {
                            "name": "invoke_workflow Inner",
                            **OK,
                            "children": [{"name": "invoke_node leaves", **OK}],
                        }
                    ],
                },
                {"name": "invoke_node after", **OK},
            ],
        }
    ]


def test_other_control_flow_of_langgraph_is_not_an_error(exporter):
    def bubbles(state):
        raise GraphBubbleUp

    with pytest.raises(GraphBubbleUp):
        chain(bubbles).invoke({"seen": []})
    (root,) = tree(exporter)
    assert "status" not in root
    assert "status" not in root["children"][0]


async def test_a_cancelled_run_is_not_an_error(exporter):
    started = asyncio.Event()

    async def hangs(state):
        started.set()
        await asyncio.Event().wait()

    run = asyncio.create_task(chain(hangs).ainvoke({"seen": []}))
    await started.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    (root,) = tree(exporter)
    assert root["attributes"] == {"nodespan.status": "cancelled"}
    assert {"status", "events"}.isdisjoint(root)
    assert {"status", "events"}.isdisjoint(root["children"][0])


async def test_a_node_timeout_shows_langgraphs_error_and_not_a_cancellation(exporter):
    if not hasattr(errors, "NodeTimeoutError"):
        pytest.skip("node timeouts came with LangGraph 1.2")

    async def slow(state):
        await asyncio.Event().wait()

    with pytest.raises(errors.NodeTimeoutError):
        await chain(("slow", slow, {"timeout": 0.02})).ainvoke({"seen": []})
    failed = {"error.type": "langgraph.errors.NodeTimeoutError", "nodespan.status": "error"}
    (root,) = tree(exporter)
    assert root["attributes"] == failed
    assert root["children"] == [
        {"name": "invoke_node slow", "status": "ERROR", "attributes": failed, "events": ["exception"]}
    ]


@pytest.mark.parametrize("is_async", [False, True])
def test_an_error_handled_by_an_error_handler_is_not_an_error_of_the_run(is_async, exporter):
    import inspect

    if "error_handler" not in inspect.signature(StateGraph.add_node).parameters:
        pytest.skip("error handlers came with LangGraph 1.2")

    def handler(state):
        return {"seen": ["handled"]}

    graph = chain(("fails", fails, {"error_handler": handler}))
    result = asyncio.run(graph.ainvoke({"seen": []})) if is_async else graph.invoke({"seen": []})
    assert result["seen"] == ["handled"]
    (root,) = tree(exporter)
    assert root["attributes"] == {"nodespan.status": "ok"}
    broken, handling = root["children"]
    assert (broken["name"], broken["attributes"]) == ("invoke_node fails", FAILED["attributes"])
    assert handling["attributes"] == {"nodespan.status": "ok"}


def test_the_exception_has_type_message_and_the_line_of_the_program(exporter):
    with pytest.raises(RuntimeError):
        chain(fails).invoke({"seen": []})
    node = next(span for span in exporter.get_finished_spans() if span.name == "invoke_node fails")
    (event,) = node.events
    assert event.attributes["exception.type"] == "RuntimeError"
    assert event.attributes["exception.message"] == "down"
    assert 'raise RuntimeError("down")' in event.attributes["exception.stacktrace"]
    assert node.status.description == "down"


def test_one_exception_object_raised_in_two_runs_is_recorded_in_both(exporter):
    shared = RuntimeError("shared")

    def raises(state):
        raise shared

    for _ in range(2):
        with pytest.raises(RuntimeError):
            chain(raises).invoke({"seen": []})
    nodes = [span for span in exporter.get_finished_spans() if span.name == "invoke_node raises"]
    assert [len(node.events) for node in nodes] == [1, 1]


def test_times_of_a_node_do_not_include_other_nodes(exporter):
    def waits(state):
        time.sleep(0.05)  # much longer than the first node
        return {}

    chain(step, waits).invoke({"seen": []})
    nodes = {span.name: span for span in exporter.get_finished_spans()}
    waiting = nodes["invoke_node waits"]
    assert (waiting.end_time - waiting.start_time) / 1e9 >= 0.05
    assert nodes["invoke_node step"].end_time <= waiting.start_time


class Detached:
    """A row whose attributes cannot be read, as of an ORM after its session has ended."""

    @property
    def user_id(self):
        raise RuntimeError("detached from its session")

    conversation_id = ("not", "a", "scalar")


@entrypoint()
def job(row):
    return 1


@pytest.mark.parametrize("is_async", [False, True])
def test_for_an_unreadable_input_only_its_attribute_is_missing(is_async, exporter):
    assert (asyncio.run(job.ainvoke(Detached())) if is_async else job.invoke(Detached())) == 1
    (run,) = [span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow")]
    assert not {"user.id", "gen_ai.conversation.id"} & set(run.attributes)
