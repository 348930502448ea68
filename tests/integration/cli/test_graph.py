"""`nodespan graph`: the declared graph of a trace, and the edges that the trace took."""

from __future__ import annotations

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

import nodespan
from nodespan.spans import announced
from nodespan.store import StoreReader, TraceFilter, open_store
from small_graphs import State, chain


def step(state):
    return {"seen": [0]}


def sends(state):
    return [Send("work", {"seen": []})] * 3


def three_workers():
    builder = StateGraph(State)
    builder.add_node("plan", step)
    builder.add_node("work", step)
    builder.add_node("check", chain(("inner", step, {}), name="Inner"))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", sends, ["work", END])
    builder.add_edge("work", "check")
    builder.add_conditional_edges("check", lambda state: END if len(state["seen"]) > 12 else "plan")
    return builder.compile(name="Three")


@pytest.fixture
def trace_id():
    """A stored run of the graph, with two iterations."""
    with nodespan.configure() as telemetry:
        nodespan.instrument(langchain=False, llama_cpp=False)
        three_workers().invoke({"seen": []})
        assert telemetry.force_flush()
    with StoreReader(open_store()) as reader:
        (trace,) = reader.find()
    return trace["trace_id"]


def test_the_text_has_each_edge_and_how_often_it_was_taken(cli, trace_id):
    assert cli("graph", trace_id).code == 0, cli.err
    first, *lines = cli.out.splitlines()
    assert first.startswith("graph Three  ")
    end = lines.index(next(line for line in lines if line.startswith("graph Inner")))
    check = next(line for line in lines if line.startswith("  check"))
    assert check.startswith("  check  executed 2  runs graph ")
    lines[lines.index(check)] = "  check  executed 2"
    assert lines[:end] == [
        "  __start__",
        "    -> plan  edge  taken 1",
        "  check  executed 2",
        "    -> any node  branch",
        "    -> __end__  implied, not declared  taken 1",
        "    -> plan  branch, not declared  taken 1",
        "  plan  executed 2",
        "    -> __end__  branch",
        "    -> work  branch  taken 6",
        "  work  executed 6",
        "    -> check  edge  taken 6",
    ]


def test_json_has_one_record_per_graph(cli, trace_id):
    outer, inner = cli("graph", trace_id, "--format", "json").json
    assert (outer["name"], inner["name"]) == ("Three", "Inner")
    assert outer["executions"] == {"plan": 2, "work": 6, "check": 2}
    assert {"source": "plan", "target": "work", "kind": "branch", "is_declared": True, "taken": 6} in outer["edges"]
    assert inner["executions"] == {"inner": 2}
    assert inner["hash"] in outer["topology"]["subgraphs"]


def test_mermaid_has_subgraphs_counts_and_undeclared_edges(cli, trace_id):
    assert cli("graph", trace_id, "--format", "mermaid").code == 0, cli.err
    lines = cli.out.splitlines()
    assert lines[0] == "flowchart TD"
    assert [line for line in lines if "subgraph" in line] == ['    subgraph n2["check"]']
    assert "    n4 --> n2" not in lines
    assert '    n4 -->|"6x"| n2' in lines
    assert sum('|"undeclared 1x"|' in line for line in lines) == 2


def test_a_graph_is_shown_by_its_hash_without_a_trace(cli, trace_id):
    outer, _ = cli("graph", trace_id, "--format", "json").json
    assert cli("graph", outer["hash"][:20]).code == 0, cli.err
    assert "    -> work  branch" in cli.out.splitlines()
    shown, _ = cli("graph", outer["hash"], "--format", "json").json
    assert (shown["executions"], {edge["taken"] for edge in shown["edges"]}) == (None, {None})


def test_names_cannot_break_out_of_the_flowchart(cli):
    with nodespan.configure() as telemetry:
        nodespan.instrument(langchain=False, llama_cpp=False)
        chain(('a"]; click n0 "javascript x', step, {})).invoke({"seen": []})
        assert telemetry.force_flush()
    with StoreReader(open_store()) as reader:
        (trace,) = reader.find()
    assert 'n1["a#34;#93;#59; click n0 #34;javascript x"]' in cli("graph", trace["trace_id"], "--format", "mermaid").out


def test_the_error_for_a_graph_that_cannot_be_shown_has_a_reason(cli, trace_id):
    assert cli("graph", "ffff").code == 1
    assert cli.err.startswith("nodespan: No graph in ")
    assert "'ffff'. No trace in " in cli.err
    assert cli("graph", trace_id, "--format", "svg").code == 1
    assert "text, mermaid, json" in cli.err


def test_a_trace_is_found_by_its_graph_and_has_it_in_its_content(trace_id):
    with StoreReader(open_store()) as reader:
        content = reader.get(trace_id)
        hashes = content["trace"]["labels"]["graph"]
        assert sorted(content["graphs"]) == hashes
        assert len(hashes) == 2
        assert [trace["trace_id"] for trace in reader.find(TraceFilter(graph=hashes[0]))] == [trace_id]
        assert reader.find(TraceFilter(graph="0" * 64)) == []
        by_name = {span["name"]: span for span in content["spans"]}
        assert by_name["invoke_workflow Three"]["edges"] == [
            {"target": "plan", "kind": "edge", "is_declared": True, "count": 1}
        ]
        assert by_name["invoke_node plan"]["edges"] == [
            {"target": "work", "kind": "send", "is_declared": True, "count": 3}
        ]


def test_a_second_configuration_writes_the_graph_to_the_new_store(cli, trace_id, monkeypatch, tmp_path):
    monkeypatch.setenv("NODESPAN_STORE", str(tmp_path / "second.db"))
    graph = three_workers()
    with nodespan.configure() as telemetry:
        graph.invoke({"seen": []})
        assert telemetry.force_flush()
    with StoreReader(open_store()) as reader:
        (trace,) = reader.find()
        assert len(reader.get(trace["trace_id"])["graphs"]) == 2
    assert not announced.is_due(trace["labels"]["graph"][0])
