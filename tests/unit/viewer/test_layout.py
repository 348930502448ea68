"""The drawing of a declared graph: each node and edge once, no node on another, the same each time, fast."""

from __future__ import annotations

import time
from itertools import combinations, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nodespan.viewer.layout import END, START, lay_out

Topology = dict[str, Any]


def topology(
    names: list[str],
    edges: list[tuple[str, str]],
    joins: list[tuple[list[str], str]] = (),  # type: ignore[assignment]
    branches: list[tuple[str, list[str] | None]] = (),  # type: ignore[assignment]
) -> Topology:
    return {
        "name": "graph",
        "nodes": [{"id": name, "graph": None, "is_deferred": False} for name in names],
        "edges": [list(edge) for edge in edges],
        "joins": [[list(sources), target] for sources, target in joins],
        "branches": [{"source": source, "name": f"b{i}", "ends": ends} for i, (source, ends) in enumerate(branches)],
        "subgraphs": {},
        "is_truncated": False,
    }


@st.composite
def topologies(draw: st.DrawFn, nodes_max: int = 14) -> Topology:
    """Graphs with loops, joins, branches with and without ends, unreachable nodes, edges to themselves."""
    count = draw(st.integers(0, nodes_max))
    inner = [f"node {i}" * draw(st.integers(1, 6)) for i in range(count)]
    names = [START, *inner, END]
    pairs = st.tuples(st.sampled_from([START, *inner]), st.sampled_from([*inner, END]))
    sources = st.lists(st.sampled_from(names[:-1]), min_size=1, max_size=4, unique=True)
    ends = st.none() | st.lists(st.sampled_from(names[1:]), max_size=4, unique=True)
    return topology(
        draw(st.permutations(names)),
        draw(st.lists(pairs, max_size=2 * count + 2)),
        draw(st.lists(st.tuples(sources, st.sampled_from(names[1:])), max_size=3)),
        draw(st.lists(st.tuples(st.sampled_from(names[:-1]), ends), max_size=4)),
    )


def declared_edges(graph: Topology) -> set[tuple[str, str, str]]:
    found = {(source, target, "edge") for source, target in graph["edges"]}
    found |= {(source, target, "join") for sources, target in graph["joins"] for source in sources}
    for branch in graph["branches"]:
        if branch["ends"] is None:
            found.add((branch["source"], "", "any"))
        found |= {(branch["source"], end, "branch") for end in branch["ends"] or ()}
    return found


@settings(deadline=None)
@given(topologies())
def test_every_node_and_edge_is_drawn_once_and_no_node_is_on_another(graph: Topology) -> None:
    drawn = lay_out(graph)
    assert sorted(node["id"] for node in drawn["nodes"]) == sorted(node["id"] for node in graph["nodes"])
    edges = [(edge["source"], edge["target"], edge["kind"]) for edge in drawn["edges"]]
    assert sorted(edges) == sorted(declared_edges(graph))
    for one, other in combinations(drawn["nodes"], 2):
        apart_x = max(one["x"], other["x"]) - min(one["x"] + one["w"], other["x"] + other["w"])
        apart_y = max(one["y"], other["y"]) - min(one["y"] + one["h"], other["y"] + other["h"])
        assert apart_x > 0 or apart_y > 0, (one, other)


@settings(deadline=None)
@given(topologies())
def test_lines_start_and_end_at_their_nodes_and_all_points_are_inside_the_frame(graph: Topology) -> None:
    drawn = lay_out(graph)
    nodes = {node["id"]: node for node in drawn["nodes"]}
    for edge in drawn["edges"]:
        points = edge["points"]
        assert len(points) >= 2
        assert is_on(nodes[edge["source"]], points[0]), edge
        if edge["target"]:
            assert is_on(nodes[edge["target"]], points[-1]), edge
        assert all(0 <= x <= drawn["width"] and 0 <= y <= drawn["height"] for x, y in points), edge
    for node in drawn["nodes"]:
        assert 0 <= node["x"] <= drawn["width"] - node["w"]
        assert 0 <= node["y"] <= drawn["height"] - node["h"]


def is_on(node: dict[str, float], point: list[float]) -> bool:
    x, y = point
    return node["x"] - 0.2 <= x <= node["x"] + node["w"] + 0.2 and node["y"] - 0.2 <= y <= node["y"] + node["h"] + 0.2


@settings(deadline=None)
@given(topologies())
def test_the_same_graph_has_the_same_drawing(graph: Topology) -> None:
    assert lay_out(graph) == lay_out(graph)


@settings(deadline=None)
@given(topologies())
def test_no_line_passes_through_a_node(graph: Topology) -> None:
    drawn = lay_out(graph)
    for edge in drawn["edges"]:
        for node in drawn["nodes"]:
            if node["id"] in (edge["source"], edge["target"]):
                continue
            for x, y in edge["points"]:
                inside = node["x"] < x < node["x"] + node["w"] and node["y"] < y < node["y"] + node["h"]
                assert not inside, (edge, node)


def test_the_start_is_above_and_the_end_below_all_others() -> None:
    drawn = lay_out(topology(["b", "a", END, START, "alone"], [(START, "a"), ("a", "b"), ("b", END), ("b", "a")]))
    tops = {node["id"]: node["y"] for node in drawn["nodes"]}
    assert sorted(tops, key=lambda one: tops[one])[0] == START
    assert sorted(tops, key=lambda one: tops[one])[-1] == END
    assert tops["a"] < tops["b"]


def test_the_line_of_a_loop_is_beside_the_edge_down() -> None:
    drawn = lay_out(
        topology([START, "plan", "act", END], [(START, "plan"), ("plan", "act"), ("act", "plan"), ("act", END)])
    )
    lines = {(edge["source"], edge["target"]): edge["points"] for edge in drawn["edges"]}
    assert lines["act", "plan"][0][1] > lines["act", "plan"][-1][1]
    assert lines["act", "plan"][0][0] != lines["plan", "act"][0][0]


def test_parallel_branches_are_side_by_side() -> None:
    names = [START, "plan", "a", "b", "c", "join", END]
    edges = [(START, "plan"), ("plan", "a"), ("plan", "b"), ("plan", "c"), ("join", END)]
    drawn = lay_out(topology(names, edges, [(["a", "b", "c"], "join")]))
    nodes = {node["id"]: node for node in drawn["nodes"]}
    assert len({nodes[one]["y"] for one in "abc"}) == 1
    centres = {one: nodes[one]["x"] + nodes[one]["w"] / 2 for one in names}
    assert abs(centres["plan"] - centres["b"]) < 1
    assert abs(centres["plan"] - centres["join"]) < 1


def test_nodes_behind_a_branch_without_ends_are_below_it() -> None:
    drawn = lay_out(
        topology(
            [START, "route", "x", "y", END], [(START, "route"), ("x", END), ("y", END)], branches=[("route", None)]
        )
    )
    tops = {node["id"]: node["y"] for node in drawn["nodes"]}
    assert tops["x"] == tops["y"] > tops["route"]
    assert [edge["target"] for edge in drawn["edges"] if edge["kind"] == "any"] == [""]


def test_crossings_that_can_be_avoided_are() -> None:
    drawn = lay_out(topology(["a", "b", "c", "x", "y", "z"], [("a", "z"), ("b", "y"), ("c", "x")]))
    xs = {node["id"]: node["x"] for node in drawn["nodes"]}
    order = sorted("abc", key=lambda one: xs[one])
    below = {"a": "z", "b": "y", "c": "x"}
    assert sorted("xyz", key=lambda one: xs[one]) == [below[one] for one in order]


def test_a_graph_that_was_cut_is_drawn_with_the_nodes_of_its_edges() -> None:
    drawn = lay_out({"nodes": [], "edges": [[START, "a"]], "joins": [], "branches": []})
    assert [node["id"] for node in drawn["nodes"]] == [START, "a"]
    assert lay_out({}) == {"width": 48.0, "height": 48.0, "nodes": [], "edges": []}


def test_fifty_nodes_are_laid_out_within_50_ms() -> None:
    names = [f"node {i}" for i in range(50)]
    edges = [(names[i], names[(7 * i + 3) % 50]) for i in range(50)] + list(pairwise(names))
    graph = topology([START, *names, END], [(START, names[0]), *edges, (names[-1], END)])
    best = min(_timed(graph) for _ in range(5))
    assert best <= 0.05, f"{best * 1e3:.1f} ms"


def test_a_large_graph_is_laid_out_within_half_a_second() -> None:
    names = [f"n{i}" for i in range(300)]
    edges = [(one, names[(i * 37 + j * 101) % 300]) for i, one in enumerate(names) for j in range(4)]
    assert _timed(topology(names, edges)) < 0.5  # 0.02; without a limit of bends 3


def _timed(graph: Topology) -> float:
    started = time.thread_time()
    lay_out(graph)
    return time.thread_time() - started
