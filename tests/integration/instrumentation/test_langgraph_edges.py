"""Taken edges: on the span of the node that took them, and of a run those from its start."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Literal, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt

from small_graphs import thread

pytestmark = pytest.mark.usefixtures("traced")


class State(TypedDict, total=False):
    seen: Annotated[list, operator.add]


def step(state):
    return {"seen": [0]}


def graph(nodes, edges, *, branches=(), **options):
    """A compiled graph; a branch is ``(source, function, path map)``."""
    builder = StateGraph(State)
    for name, body in nodes.items():
        function, more = body if isinstance(body, tuple) else (body, {})
        builder.add_node(name, function, **more)
    for source, target in edges:
        builder.add_edge(source, target)
    for branch in branches:
        builder.add_conditional_edges(*branch)
    return builder.compile(**options)


def edges_of(exporter):
    """Taken edges by the name of the span, in the order in which the spans started."""
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    return [(span.name.split()[-1], list(span.attributes.get("langgraph.edges", ()))) for span in spans]


def test_plain_edges_and_the_edge_to_the_end(run, exporter):
    run(graph({"a": step, "b": step}, [(START, "a"), ("a", "b"), ("b", END)]), {"seen": []})
    assert edges_of(exporter) == [("LangGraph", ["edge a"]), ("a", ["edge b"]), ("b", ["implied __end__"])]


def test_a_node_without_edges_takes_none(exporter):
    graph({"a": step}, [(START, "a")]).invoke({"seen": []})
    assert edges_of(exporter) == [("LangGraph", ["edge a"]), ("a", [])]


def test_declared_and_undeclared_branches(run, exporter):
    branches = [
        ("a", lambda state: "b"),
        ("b", lambda state: "x", {"x": "c", "y": END}),
        ("c", lambda state: "y", {"x": "a", "y": END}),
    ]
    run(graph({"a": step, "b": step, "c": step}, [(START, "a")], branches=branches), {"seen": []})
    assert edges_of(exporter)[1:] == [
        ("a", ["undeclared branch b"]),
        ("b", ["branch c"]),
        ("c", ["implied __end__"]),
    ]


def test_an_end_that_an_open_branch_took_is_undeclared(exporter):
    graph({"a": step}, [(START, "a")], branches=[("a", lambda state: END)]).invoke({"seen": []})
    assert edges_of(exporter)[1:] == [("a", ["undeclared implied __end__"])]


def test_a_branch_from_the_start(exporter):
    graph({"a": step, "b": step}, [], branches=[(START, lambda state: ["a", "b"], ["a", "b"])]).invoke({"seen": []})
    assert edges_of(exporter)[0] == ("LangGraph", ["branch a", "branch b"])


def test_two_branches_to_one_node_and_an_edge_beside_a_branch(exporter):
    def first(state):
        return "b"

    def second(state):
        return "b"

    branches = [("a", first, ["b"]), ("a", second, ["b"])]
    graph({"a": step, "b": step}, [(START, "a")], branches=branches).invoke({"seen": []})
    assert edges_of(exporter)[1:] == [("a", ["branch b"]), ("b", [])]
    exporter.clear()
    graph({"a": step, "b": step}, [(START, "a"), ("a", "b")], branches=branches[:1]).invoke({"seen": []})
    assert edges_of(exporter)[1:] == [("a", ["edge b", "branch b"]), ("b", [])]


def test_commands(run, exporter):
    def declared(state) -> Command[Literal["b"]]:
        return Command(goto="b", update={"seen": [1]})

    def undeclared(state):
        return Command(goto=["c"])

    run(graph({"a": declared, "b": undeclared, "c": step}, [(START, "a")]), {"seen": []})
    assert edges_of(exporter)[1:] == [("a", ["branch b"]), ("b", ["undeclared branch c"]), ("c", [])]


def test_sends_are_counted_by_target(run, exporter):
    def sends(state):
        return [Send("b", {"seen": []}), Send("b", {"seen": []}), Send("c", {"seen": []})]

    run(graph({"a": step, "b": step, "c": step}, [(START, "a")], branches=[("a", sends, ["b"])]), {"seen": []})
    edges = edges_of(exporter)
    assert edges[1] == ("a", ["send*2 b", "undeclared send c"])
    assert sorted(name for name, _ in edges[2:]) == ["b", "b", "c"]


def test_edges_that_wait_for_several_nodes_and_deferred_ones(run, exporter):
    nodes = {"a": step, "b": step, "c": step, "late": (step, {"defer": True})}
    run(graph(nodes, [(START, "a"), (START, "b"), (["a", "b"], "c"), ("a", "late"), ("c", END)]), {"seen": []})
    assert sorted(edges_of(exporter)[1:]) == [
        ("a", ["edge late", "join c"]),
        ("b", ["join c"]),
        ("c", ["implied __end__"]),
        ("late", []),
    ]


def test_a_command_to_the_parent_is_an_edge_of_the_subgraph_s_node(run, exporter):
    def leaves(state):
        return Command(goto="b", graph=Command.PARENT)

    inner = graph({"i": leaves}, [(START, "i"), ("i", END)], name="Inner")
    run(graph({"sub": inner, "b": step}, [(START, "sub")], name="Outer"), {"seen": []})
    assert edges_of(exporter) == [
        ("Outer", ["edge sub"]),
        ("sub", ["undeclared branch b"]),
        ("Inner", ["edge i"]),
        ("i", []),
        ("b", []),
    ]


def test_nodes_in_loops_have_the_iteration(run, exporter):
    def until(state):
        return END if len(state["seen"]) >= 5 else "a"

    run(graph({"a": step, "b": step}, [(START, "a"), ("a", "b")], branches=[("b", until, ["a", END])]), {"seen": []})
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.start_time)
    assert [(span.name[-1], span.attributes.get("langgraph.iteration")) for span in spans[1:]] == [
        ("a", None), ("b", None), ("a", 2), ("b", 2), ("a", 3), ("b", 3),
    ]  # fmt: skip


def test_executions_of_one_step_are_one_iteration(run, exporter):
    def sends(state):
        return [Send("b", {"seen": []})] * 3 if len(state["seen"]) < 6 else END

    branches = [("a", sends, ["b", END])]
    run(graph({"a": step, "b": step}, [(START, "a"), ("b", "a")], branches=branches), {"seen": []})
    spans = sorted(exporter.get_finished_spans(), key=lambda span: span.attributes.get("langgraph.step", 0))
    assert [(span.name[-1], span.attributes.get("langgraph.iteration")) for span in spans[1:]] == [
        ("a", None), *[("b", None)] * 3, ("a", 2), *[("b", 2)] * 3, ("a", 3),
    ]  # fmt: skip


def test_an_interrupted_node_has_no_edge_to_its_error_handler(exporter):
    def asks(state):
        interrupt("?")

    built = graph({"a": (asks, {"error_handler": step})}, [(START, "a")], checkpointer=InMemorySaver())
    if "__error_handler__a" not in built.nodes:
        pytest.skip("this LangGraph has no error handlers")
    built.invoke({"seen": []}, thread())
    assert edges_of(exporter)[1:] == [("a", [])]


def test_nodes_that_write_the_same_have_their_own_edges(exporter):
    """What is known of one node's writes is not used for another's."""
    nodes = {"a": step, "b": step, "c": step}
    branches = [("b", lambda state: "c"), ("c", lambda state: END, [END])]
    built = graph(nodes, [(START, "a"), (START, "b"), ("a", "c")], branches=branches)
    for _ in range(2):
        built.invoke({"seen": []})
    found = [edge for edge in edges_of(exporter) if edge[0] in "abc"]
    expected = [("a", ["edge c"]), ("b", ["undeclared branch c"]), ("c", ["implied __end__"])]
    assert sorted(found, key=lambda edge: edge[0]) == [edge for edge in expected for _ in range(2)]


def test_a_failed_and_an_interrupted_node_take_no_edge(exporter):
    def fails(state):
        raise ValueError("down")

    def asks(state):
        interrupt("?")

    with pytest.raises(ValueError, match="down"):
        graph({"a": fails, "b": step}, [(START, "a"), ("a", "b")]).invoke({"seen": []})
    saved = graph({"c": asks, "d": step}, [(START, "c"), ("c", "d")], checkpointer=InMemorySaver())
    saved.invoke({"seen": []}, thread())
    edges = edges_of(exporter)
    assert [edge for edge in edges if edge[0] in "ac"] == [("a", []), ("c", [])]
    saved.invoke(Command(resume="x"), thread())
    assert edges_of(exporter)[len(edges) :][1:] == [("c", ["edge d"]), ("d", [])]


def test_edges_of_a_retried_node_are_those_of_the_last_attempt(run, exporter):
    calls = []

    def flaky(state):
        calls.append(1)
        if len(calls) < 2:
            raise ConnectionError
        return Command(goto="b")

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    run(graph({"a": (flaky, {"retry_policy": policy}), "b": step}, [(START, "a")]), {"seen": []})
    assert edges_of(exporter)[1] == ("a", ["undeclared branch b"])


def test_a_failed_node_has_an_edge_to_its_error_handler(exporter):
    def fails(state):
        raise ValueError("down")

    built = graph({"a": (fails, {"error_handler": step}), "b": step}, [(START, "a"), ("a", "b")])
    if "__error_handler__a" not in built.nodes:
        pytest.skip("this LangGraph has no error handlers")
    built.invoke({"seen": []})
    assert edges_of(exporter)[1:] == [("a", ["branch __error_handler__a"]), ("__error_handler__a", [])]


def test_async_nodes_and_branches(exporter):
    async def body(state):
        await asyncio.sleep(0)
        return {"seen": [0]}

    async def route(state):
        return "b"

    built = graph({"a": body, "b": body}, [(START, "a")], branches=[("a", route, ["b"])])
    asyncio.run(built.ainvoke({"seen": []}))
    assert edges_of(exporter) == [("LangGraph", ["edge a"]), ("a", ["branch b"]), ("b", [])]


def test_a_join_that_leads_to_the_end_is_implied(run, exporter):
    built = graph({"a": step, "b": step}, [(START, "a"), (START, "b"), (["a", "b"], END)])
    run(built, {"seen": []})
    assert sorted(edges_of(exporter)[1:]) == [("a", ["implied __end__"]), ("b", ["implied __end__"])]
