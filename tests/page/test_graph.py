"""The graph view shows what a program declared and did: random graphs of LangGraph, compared with their own counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from viewer_process import Viewer

PROGRAM = Path(__file__).parents[1] / "random_graphs.py"
COUNT = int(os.environ.get("NODESPAN_TEST_GRAPHS", "12"))
SEED = 20261127
ENDS = {"__start__", "__end__"}
DRAWN = """() => ({
    nodes: [...document.querySelectorAll('[data-node]')].map((node) => [node.dataset.node, Number(node.dataset.count)]),
    edges: [...document.querySelectorAll('.graph-canvas [data-source]')].map((edge) => [
        edge.dataset.source, edge.dataset.target, Number(edge.dataset.count), edge.classList.contains('is-undeclared'),
    ]),
})"""


@pytest.fixture(scope="module")
def viewer(own_viewer: Viewer) -> Viewer:
    return own_viewer


@pytest.fixture(scope="module")
def graphs(store: Path, viewer: Viewer) -> list[dict[str, Any]]:
    """Declarations and executions of the programs, each with its trace."""
    command = [sys.executable, str(PROGRAM), str(SEED), str(COUNT)]
    environment = {**os.environ, "NODESPAN_STORE": str(store)}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=100).stdout
    traces = viewer.client.get("/runs.json", params={"limit": 200}).json()["traces"]
    by_name = {trace["name"].removeprefix("invoke_workflow "): trace["trace_id"] for trace in traces}
    found = [json.loads(line) for line in output.splitlines()]
    return [{**graph, "trace": by_name[graph["name"]]} for graph in found]


@pytest.mark.extended
def test_graph_view_equals_the_declared_graph_and_the_executions(
    page: Page, viewer: Viewer, graphs: list[dict[str, Any]]
) -> None:
    assert len(graphs) == COUNT
    kinds = Counter[str]()
    for graph in graphs:
        page.goto(f"{viewer.base}/trace/{graph['trace']}?view=graph")
        page.locator("[data-node]").first.wait_for()
        drawn = page.evaluate(DRAWN)
        executed = {node: count for node, count in drawn["nodes"] if node not in ENDS}
        assert executed == {node: graph["executed"].get(node, 0) for node in graph["nodes"]}, graph
        declared = {(source, target) for source, target, _, is_undeclared in drawn["edges"] if not is_undeclared}
        assert declared == {tuple(edge) for edge in graph["edges"]}, graph
        incoming = Counter[str]()
        for source, target, count, is_undeclared in drawn["edges"]:
            incoming[target] += count
            kinds["taken"] += count > 0
            kinds["not taken"] += count == 0
            kinds["not declared"] += is_undeclared
            assert not count or source == "__start__" or executed[source], (source, target, graph)
            assert not is_undeclared or count, "an edge that is neither declared nor taken"
        for node, count in executed.items():
            assert not count or incoming[node], f"{node} was executed, and no edge into it was taken: {graph}"
    assert min(kinds["taken"], kinds["not taken"], kinds["not declared"]) > 0, kinds
