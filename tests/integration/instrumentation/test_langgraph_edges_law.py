"""The law of taken edges, on generated graphs: each has an execution, and each execution has one."""

from __future__ import annotations

import json
import operator
import os
from contextlib import suppress
from typing import Annotated, NamedTuple, TypedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

EXAMPLES = min(int(os.environ.get("NODESPAN_TEST_EXAMPLES", "60")), 120)
NAMES = ("a", "b", "c", "d", "e")
MAX_STEPS = 7


class State(TypedDict, total=False):
    seen: Annotated[list, operator.add]


class Node(NamedTuple):
    """The successors of a node of a generated graph.

    Attributes:
        edges: Targets of its plain edges.
        turns: Of a branch or command, the targets at each of its executions in turn.
        way: ``branch``, ``command`` or ``send``.
        is_declared: The branch has declared ends: all of its turns.
        is_deferred: It waits for all other nodes.
    """

    edges: frozenset[str]
    turns: tuple[tuple[str, ...], ...]
    way: str
    is_declared: bool
    is_deferred: bool


class Plan(NamedTuple):
    """A generated graph."""

    nodes: dict[str, Node]
    entries: tuple[str, ...]
    joins: frozenset[tuple[str, str, str]]


@st.composite
def plans(draw):
    names = NAMES[: draw(st.integers(2, len(NAMES)))]
    targets = st.sampled_from((*names, END))
    turn = st.lists(targets, max_size=2).map(tuple)
    node = st.builds(
        Node,
        st.frozensets(targets, max_size=2),
        st.lists(turn, max_size=3).map(tuple),
        st.sampled_from(("branch", "command", "send")),
        st.booleans(),
        st.sampled_from((False, False, True)),
    )
    two = st.tuples(st.sampled_from(names), st.sampled_from(names), st.sampled_from(names))
    joins = st.frozensets(two.filter(lambda join: join[0] != join[1]), max_size=1)
    entries = st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True).map(tuple)
    return Plan({name: draw(node) for name in names}, draw(entries), draw(joins))


def build(plan):
    builder = StateGraph(State)
    for name, node in plan.nodes.items():
        builder.add_node(name, body(node) if node.way == "command" else plain, defer=node.is_deferred)
        for target in node.edges:
            builder.add_edge(name, target)
        if node.way != "command" and node.turns:
            ends = sorted({target for turn in node.turns for target in turn}) if node.is_declared else None
            builder.add_conditional_edges(name, route(node), ends or None)
    for entry in plan.entries:
        builder.add_edge(START, entry)
    for first, second, target in plan.joins:
        builder.add_edge([first, second], target)
    return builder.compile()


def plain(state):
    return {"seen": [0]}


def turns(node):
    """The targets of each execution, one after the other; none when they are used up, so that loops end."""
    left = list(node.turns)
    return lambda: left.pop(0) if left else ()


def body(node):
    take = turns(node)
    return lambda state: Command(goto=list(take()), update={"seen": [0]})


def route(node):
    take = turns(node)

    def choose(state):
        found = [target for target in take() if target != END]
        return [Send(target, {"seen": []}) for target in found] if node.way == "send" else found

    return choose


class Execution(NamedTuple):
    """A node's span."""

    name: str
    step: int
    is_push: bool
    edges: tuple[str, ...]


def executions(exporter):
    """The node executions of a run, its own edges, and its topology."""
    spans = exporter.get_finished_spans()
    (run,) = (span for span in spans if span.name.startswith("invoke_workflow"))
    found = [
        Execution(
            span.attributes["langgraph.node"],
            span.attributes["langgraph.step"],
            span.attributes["langgraph.path"].startswith("__pregel_push"),
            span.attributes.get("langgraph.edges", ()),
        )
        for span in spans
        if span.name.startswith("invoke_node")
    ]
    return found, Execution(START, 0, False, run.attributes["langgraph.edges"]), run.attributes


def parsed(text):
    """Kind, target, number of executions, and whether the edge is declared."""
    words = text.removeprefix("undeclared ")
    kind, target = words.split(" ", 1)
    kind, _, count = kind.partition("*")
    return kind, target, int(count or 1), words == text


def declares(topology, source, target, kind):
    if kind == "edge":
        return [source, target] in topology["edges"]
    if kind == "join":
        return any(source in sources and end == target for sources, end in topology["joins"])
    named = any(branch["source"] == source and target in (branch["ends"] or ()) for branch in topology["branches"])
    return named or (kind == "implied" and [source, END] in topology["edges"])


@pytest.mark.usefixtures("traced")
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans())
def test_each_edge_has_its_execution_and_each_execution_its_edge(plan, exporter, topologies):
    exporter.clear()
    is_cut = True
    with suppress(GraphRecursionError):
        build(plan).invoke({"seen": []}, {"recursion_limit": MAX_STEPS})
        is_cut = False
    nodes, start, attributes = executions(exporter)
    topology = topologies(attributes)
    last = max(node.step for node in nodes)
    for source in (start, *nodes):
        for text in source.edges:
            kind, target, count, is_declared = parsed(text)
            assert is_declared == declares(topology, source.name, target, kind)
            if kind == "implied":
                assert (target, len(source.edges)) == (END, 1)
                continue
            later = [node for node in nodes if node.name == target and node.step > source.step]
            if kind == "send":
                sent = [node for node in later if node.is_push and node.step == source.step + 1]
                assert len(sent) >= count or (is_cut and source.step == last)
            elif kind == "join":
                sources = {node.name for node in nodes if any(edge == text for edge in node.edges)}
                is_complete = any(sources.issuperset(join[:2]) and join[2] == target for join in plan.joins)
                assert (
                    later
                    or is_cut
                    or not is_complete
                    or source.step > min(node.step for node in nodes if text in node.edges)
                )
            else:
                assert later or is_cut
    for node in nodes:
        before = [one for one in (start, *nodes) if one.step < node.step]
        edges = [parsed(text) for one in before for text in one.edges]
        assert any(target == node.name for _, target, _, _ in edges)
    sends = sum(
        count
        for node in nodes
        if node.step < last or not is_cut
        for kind, _, count, _ in map(parsed, node.edges)
        if kind == "send"
    )
    assert sum(node.is_push for node in nodes) == sends


@pytest.fixture
def topologies():
    """The topology of a run, which is on the first run with its hash."""
    known = {}

    def topology(attributes):
        if "langgraph.graph.topology" in attributes:
            known[attributes["langgraph.graph.hash"]] = json.loads(attributes["langgraph.graph.topology"])
        return known[attributes["langgraph.graph.hash"]]

    return topology
