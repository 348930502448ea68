"""The declared graph: its hash on every run, its topology on the first, read from what LangGraph compiled."""

from __future__ import annotations

import inspect
import json
import logging
import operator
from typing import Annotated, Literal, TypedDict

import pytest
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from nodespan.instrumentation.langgraph import LangGraphInstrumentor, _topology
from nodespan.spans import announced
from nodespan.spans.log import CODE_FIELD
from small_graphs import chain

HASH, TOPOLOGY, EDGES = "langgraph.graph.hash", "langgraph.graph.topology", "langgraph.edges"


class State(TypedDict, total=False):
    seen: Annotated[list, operator.add]


def step(state):
    return {"seen": [0]}


def goes(state) -> Command[Literal["a", "__end__"]]:
    return Command(goto="__end__")


def runs(exporter):
    """Attributes of the runs, in the order in which they started."""
    spans = [span for span in exporter.get_finished_spans() if span.name.startswith("invoke_workflow")]
    return [dict(span.attributes) for span in sorted(spans, key=lambda span: span.start_time)]


def everything(name="Everything"):
    builder = StateGraph(State)
    for node in ("a", "b", "c"):
        builder.add_node(node, step)
    builder.add_node("goes", goes)
    builder.add_node("late", step, defer=True)
    builder.add_node("inner", chain(step, name="Inner"))
    builder.add_edge(START, "a")
    builder.add_edge(START, "b")
    builder.add_edge(["a", "b"], "c")
    builder.add_conditional_edges("c", lambda state: "goes")
    builder.add_conditional_edges("a", lambda state: "x", {"x": "inner", "y": END})
    builder.add_edge("inner", "late")
    builder.add_edge("late", END)
    return builder.compile(name=name)


@pytest.mark.usefixtures("traced")
def test_the_topology_has_nodes_edges_joins_branches_and_subgraphs(run, exporter):
    run(everything(), {"seen": []})
    outer, inner = runs(exporter)
    topology = json.loads(outer[TOPOLOGY])
    assert [node["id"] for node in topology["nodes"]] == [
        "__end__", "__start__", "a", "b", "c", "goes", "inner", "late",
    ]  # fmt: skip
    by_id = {node["id"]: node for node in topology["nodes"]}
    assert by_id["inner"]["graph"] == inner[HASH]
    assert by_id["late"]["is_deferred"]
    assert topology["edges"] == [["__start__", "a"], ["__start__", "b"], ["inner", "late"], ["late", "__end__"]]
    assert topology["joins"] == [[["a", "b"], "c"]]
    assert [(branch["source"], branch["ends"]) for branch in topology["branches"]] == [
        ("a", ["__end__", "inner"]),
        ("c", None),
        ("goes", ["__end__", "a"]),
    ]
    assert topology["subgraphs"] == {inner[HASH]: json.loads(inner[TOPOLOGY])}
    assert (topology["name"], topology["is_truncated"]) == ("Everything", False)


@pytest.mark.usefixtures("traced")
def test_every_run_has_the_hash_and_the_first_one_the_topology(exporter):
    graph = chain(step)
    for _ in range(3):
        graph.with_config(run_name="other").invoke({"seen": []})
    found = runs(exporter)
    assert len({one[HASH] for one in found}) == 1
    assert [TOPOLOGY in one for one in found] == [True, False, False]


@pytest.mark.usefixtures("traced")
def test_the_topology_is_sent_again_after_a_day(exporter, monkeypatch):
    graph = chain(step)
    graph.invoke({"seen": []})
    monkeypatch.setattr(announced, "AGAIN_AFTER_S", 0.0)
    graph.invoke({"seen": []})
    assert [TOPOLOGY in one for one in runs(exporter)] == [True, True]


@pytest.mark.usefixtures("traced")
def test_the_hash_is_of_the_form_and_not_of_the_name(exporter):
    for graph in (chain(step), chain(step, name="Renamed"), chain(step, ("more", step, {}))):
        graph.invoke({"seen": []})
    first, renamed, longer = (one[HASH] for one in runs(exporter))
    assert first == renamed != longer


def made(*edges, branch=None, join=False, deferred=False, inner=None):
    """A graph of the nodes a, b and c."""
    builder = StateGraph(State)
    builder.add_node("a", inner or step, defer=deferred)
    builder.add_node("b", step)
    builder.add_node("c", step)
    for source, target in ((START, "a"), (START, "b"), *edges):
        builder.add_edge(source, target)
    if join:
        builder.add_edge(["a", "b"], "c")
    if branch is not None:
        builder.add_conditional_edges("b", lambda state: END, branch)
    return builder.compile()


def test_each_part_of_the_form_is_in_the_hash():
    forms = [
        made(),
        made(("a", "c")),
        made(("a", "c"), ("b", "c")),
        made(join=True),
        made(branch=[END]),
        made(branch=["c", END]),
        made(branch=["c", "a"]),
        made(deferred=True),
        made(inner=chain(step)),
        made(inner=chain(step, ("more", step, {}))),
    ]
    assert len({_topology.declared(form).hash for form in forms}) == len(forms)
    assert (
        _topology.declared(made(("a", "c"), ("b", "c"))).hash == _topology.declared(made(("b", "c"), ("a", "c"))).hash
    )


def test_an_error_handler_is_a_branch_of_its_node(exporter):
    builder = StateGraph(State)
    if "error_handler" not in inspect.signature(builder.add_node).parameters:
        pytest.skip("this LangGraph has no error handlers")
    builder.add_node("a", step, error_handler=step)
    builder.add_edge(START, "a")
    assert _topology.declared(builder.compile()).topology["branches"] == [
        {"source": "a", "name": "error", "ends": ["__error_handler__a"]}
    ]


class SampledLater(Sampler):
    """Records without sampling first, and samples from then on."""

    def __init__(self):
        self.decision = Decision.RECORD_ONLY

    def should_sample(self, *args, **kwargs):
        return SamplingResult(self.decision)

    def get_description(self):
        return "SampledLater"


def test_the_first_sampled_run_has_the_topology():
    sampler, exporter = SampledLater(), InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    LangGraphInstrumentor().instrument(tracer_provider=provider)
    graph = chain(step)
    graph.invoke({"seen": []})
    sampler.decision = Decision.RECORD_AND_SAMPLE
    for _ in range(2):
        graph.invoke({"seen": []})
    assert [TOPOLOGY in one for one in runs(exporter)] == [True, False]


def test_a_graph_is_read_once_and_is_not_kept_alive():
    import gc
    import weakref

    graph = chain(step)
    found = _topology.declared(graph)
    assert _topology.declared(graph.with_config(tags=["x"])) is found
    key = weakref.ref(next(iter(graph.nodes.values())))
    del graph
    gc.collect()
    assert key() is None


def test_a_topology_that_is_too_long_is_cut_and_marked():
    builder = StateGraph(State)
    names = [f"a node with a rather long name {i}" for i in range(1000)]
    for before, name in zip([START, *names], names, strict=False):
        builder.add_node(name, step)
        builder.add_edge(before, name)
    found = _topology.declared(builder.compile())
    assert len(found.text) <= 32 * 1024
    topology = json.loads(found.text)
    assert topology["is_truncated"]
    ids = {node["id"] for node in topology["nodes"]}
    assert len(ids) > 100
    assert all(ids.issuperset(edge) for edge in topology["edges"])


def test_a_graph_that_contains_itself_is_read():
    graphs = {}

    def again(state):
        return graphs["outer"].invoke(state) if len(state["seen"]) < 2 else state

    graphs["outer"] = chain(again)
    assert _topology.declared(graphs["outer"]).hash


@pytest.mark.usefixtures("traced")
def test_a_workflow_of_the_functional_api_has_its_node_and_no_edges(exporter):
    @task
    def work(n):
        return n

    @entrypoint()
    def flow(n):
        return work(n).result()

    flow.invoke(1)
    (found,) = runs(exporter)
    assert [node["id"] for node in json.loads(found[TOPOLOGY])["nodes"]] == ["flow"]
    assert EDGES not in found


@pytest.mark.usefixtures("traced")
def test_with_a_langgraph_with_other_names_a_warning_is_logged_and_no_edges(exporter, monkeypatch, caplog):
    import langgraph.graph.state as theirs

    monkeypatch.setattr(theirs, "_CHANNEL_BRANCH_TO", "goto-node:{}")
    with caplog.at_level(logging.WARNING, "nodespan"):
        assert chain(step).invoke({"seen": []}) == {"seen": [0]}
    spans = exporter.get_finished_spans()
    assert len(spans) == 2
    assert not [span for span in spans if {EDGES, HASH} & set(span.attributes)]
    assert [getattr(record, CODE_FIELD, None) for record in caplog.records] == ["graph.unreadable"]


@pytest.mark.parametrize("missing", ["branch:to:", "join:", "__pregel_tasks"])
def test_a_graph_without_one_of_the_channels_of_edges_is_reported(missing, caplog):
    """Else its edges would be absent without a reason, or its nodes would seem to lead to the end."""
    graph = made(join=True)
    for name in [name for name in graph.channels if name.startswith(missing)]:
        graph.channels[f"other {name}"] = graph.channels.pop(name)
    with caplog.at_level(logging.WARNING, "nodespan"):
        assert _topology.declared(graph) is None
    assert [getattr(record, CODE_FIELD, None) for record in caplog.records] == ["graph.unreadable"]


def test_a_graph_whose_only_join_leads_to_the_end_is_declared(caplog):
    """LangGraph has no channel for such an edge."""
    builder = StateGraph(State)
    for name in ("a", "b"):
        builder.add_node(name, step)
        builder.add_edge(START, name)
    builder.add_edge(["a", "b"], END)
    found = _topology.declared(builder.compile())
    assert found is not None
    assert found.joins == {("a", END), ("b", END)}
    assert not caplog.records
