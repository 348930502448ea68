"""The graph of a run: declared nodes and edges with their places, taken edges and written channels by row."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batches import span, trace_id, write
from nodespan import semconv
from nodespan.store import SqliteStore, StoreReader
from nodespan.viewer.columns import UNDECLARED_EDGE
from running import until
from viewer_pages import Drawn
from viewer_process import ViewerThread

PROGRAM = Path(__file__).with_name("graph_program.py")


class Watched(NamedTuple):
    """Documents of a run, the changes between the first and the last, and its records."""

    first: dict[str, Any]
    deltas: list[dict[str, Any]]
    during: dict[str, Any]
    last: dict[str, Any]
    content: Any


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A run of `graph_program.py`, watched from its first document to its end."""
    store = SqliteStore(tmp_path_factory.mktemp("graphs") / "store.db")
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        viewer = stack.enter_context(ViewerThread(store))
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "0.5"], env={**os.environ, "NODESPAN_STORE": str(store.path)}
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        until(lambda: document(viewer)["trace"]["state"], "running")
        drawn = Drawn(viewer, document(viewer)["trace"]["trace_id"])
        with drawn.events(viewer) as events:
            until(lambda: "trip" in graph_names(document(viewer)), True)
            during = document(viewer)
            until(lambda: events.found[-1][1]["trace"]["state"] if events.found else "", "ended")
        with StoreReader(store) as reader:
            content = reader.get(during["trace"]["trace_id"])
        yield Watched(drawn.document, [delta for _, delta in events.found], during, document(viewer), content)


def document(viewer: ViewerThread) -> dict[str, Any]:
    """The document of the newest run; of none, a record without a state."""
    traces = viewer.client.get("/runs.json").json()["traces"]
    return viewer.client.get(f"/trace/{traces[0]['trace_id']}.json").json() if traces else {"trace": {"state": ""}}


def graph_names(found: dict[str, Any]) -> set[str]:
    return {graph["topology"]["name"] for graph in found.get("graphs", {}).values()}


def test_the_declared_graph_is_drawn_while_its_first_run_lasts(watched: Watched) -> None:
    found = watched.during
    assert found["trace"]["state"] == "running"
    run = found["runs"][0]
    assert {node["id"] for node in found["graphs"][run["graph"]]["layout"]["nodes"]} >= {"plan", "left", "detail"}


def test_an_open_page_receives_graph_and_edges_with_the_changes(watched: Watched) -> None:
    assert "trip" in set().union(*map(graph_names, (watched.first, *watched.deltas)))
    edges = [edge for delta in watched.deltas for several in delta["edges"].values() for edge in several]
    assert {"target": "review", "kind": "join", "is_declared": True, "count": 1} in edges


def test_the_graph_view_equals_the_recorded_topology_and_the_executions(watched: Watched) -> None:
    found, content = watched.last, watched.content
    spans, strings = found["spans"], found["strings"]
    assert [span["span_id"] for span in content["spans"]] == spans["id"]
    # Taken edges and writes: those of the records.
    assert {int(row): edges for row, edges in found["edges"].items()} == {
        row: one["edges"] for row, one in enumerate(content["spans"]) if one["edges"]
    }
    assert {int(row): writes for row, writes in found["writes"].items()} == {
        row: one["writes"] for row, one in enumerate(content["spans"]) if one["writes"]
    }
    outer = next(run for run in found["runs"] if found["graphs"][run["graph"]]["topology"]["name"] == "trip")
    graph = found["graphs"][outer["graph"]]
    assert graph["topology"] == content["graphs"][outer["graph"]]["topology"]
    nodes = {node["id"] for node in graph["layout"]["nodes"]}
    assert nodes == {node["id"] for node in graph["topology"]["nodes"]} | {"__start__", "__end__"}
    declared = {(edge["source"], edge["target"]) for edge in graph["layout"]["edges"]}
    inside = {row for row, parent in enumerate(spans["parent"]) if parent == outer["row"]}
    executed = Counter(strings[spans["node"][row]] for row in inside)
    assert executed == {"plan": 3, "left": 3, "right": 3, "review": 3, "detail": 1}
    taken = [
        (strings[spans["node"][row]] or "__start__", edge["target"])
        for row in {outer["row"], *inside}
        for edge in found["edges"].get(str(row), ())
    ]
    assert set(taken) <= declared
    assert {target for _, target in taken} - {"__end__"} == set(executed)
    # The subgraph: a graph of its own, with a run of its own.
    hashes = {node["id"]: node["graph"] for node in graph["topology"]["nodes"]}
    inner = found["graphs"][hashes["detail"]]
    assert {node["id"] for node in inner["layout"]["nodes"]} >= {"inside"}
    assert [run["graph"] for run in found["runs"]].count(hashes["detail"]) == 1
    assert {run["conversation"] for run in found["runs"]} == {"talk"}
    assert [flag & UNDECLARED_EDGE for flag in spans["flags"]] == [0] * spans["n"]


def test_an_edge_that_is_not_declared_is_marked(viewer: ViewerThread, store: SqliteStore) -> None:
    one = span(7, 0, 1, 2)
    edges = one.attributes.add(key=semconv.LANGGRAPH_EDGES).value.array_value
    edges.values.add().string_value = "undeclared branch plan"
    write(store, one, span(7, 1, 1, 2))
    found = viewer.client.get(f"/trace/{trace_id(7)}.json").json()
    assert [flag & UNDECLARED_EDGE for flag in found["spans"]["flags"]] == [UNDECLARED_EDGE, 0]


@pytest.mark.parametrize(
    "topology", ["", "7", "no json", '{"edges": 7}', '{"nodes": [7]}', '{"edges": [["a"]]}', '{"nodes": [{"id": 7}]}',
                 '{"nodes": [{"id": "a"}], "branches": [{"source": "a"}]}', '{"subgraphs": [1]}']
)  # fmt: skip
def test_a_topology_of_another_form_is_left_out(viewer: ViewerThread, store: SqliteStore, topology: str) -> None:
    one = span(7, 0, 1, 2)
    for key, value in (
        (semconv.OPERATION_NAME, semconv.INVOKE_WORKFLOW),
        (semconv.LANGGRAPH_GRAPH_HASH, "ab" * 32),
        (semconv.LANGGRAPH_GRAPH_TOPOLOGY, topology),
    ):
        one.attributes.add(key=key).value.string_value = value
    write(store, one)
    answer = viewer.client.get(f"/trace/{trace_id(7)}.json")
    assert answer.status_code == 200
    assert [(run["row"], run["graph"]) for run in answer.json()["runs"]] == [(0, None)]
    assert answer.json()["graphs"] == {}
