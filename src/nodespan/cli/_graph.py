"""`nodespan graph`: a declared graph, with the edges that a trace took."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from rich.text import Text

from nodespan import semconv
from nodespan.cli._output import Console, print_json, safe
from nodespan.cli._traces import open_reader
from nodespan.errors import ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from nodespan.store import StoreReader
    from nodespan.store.records import GraphRecord, SpanRecord, TraceContent

Format = Literal["text", "mermaid", "json"]
FORMATS: Final[tuple[Format, ...]] = ("text", "mermaid", "json")

_HASH_DIGITS: Final = 12
_START: Final = "__start__"
_END: Final = "__end__"
_ARROWS: Final = {"edge": "-->", "join": "-->"}
_CONDITIONAL: Final = "-.->"

Key = tuple[str, str, str]
"""Source, target and kind of an edge."""


class Edge(TypedDict):
    """An edge as it is shown. ``taken`` is the number of executions that it led to; ``None`` without a trace."""

    source: str
    target: str | None
    kind: str
    is_declared: bool
    taken: int | None


class Shown(TypedDict):
    """A graph as it is shown. ``executions`` by node are ``None`` without a trace."""

    hash: str
    name: str
    topology: dict[str, Any]
    executions: dict[str, int] | None
    edges: list[Edge]


class _Taken:
    """What the runs of one graph have executed in a trace."""

    def __init__(self) -> None:
        self.executions: Counter[str] = Counter()
        self.edges: Counter[Key] = Counter()
        self.undeclared: set[Key] = set()

    def add(self, source: str, span: SpanRecord) -> None:
        for edge in span["edges"]:
            key = source, edge["target"], edge["kind"]
            self.edges[key] += edge["count"]
            if not edge["is_declared"]:
                self.undeclared.add(key)


def show_graph(console: Console, which: str, wanted: str) -> None:
    """Prints the graphs of a trace, or a graph by its hash.

    Args:
        console: Receives the output.
        which: A trace id, a graph's hash, or a unique prefix of one.
        wanted: One of ``FORMATS``.

    Raises:
        ConfigurationError: The format is unknown.
        StoreError: Nothing matches, or the trace has no graph.
    """
    if wanted not in FORMATS:
        raise ConfigurationError(f"--format {wanted} is invalid. Allowed: {', '.join(FORMATS)}.")
    with open_reader() as reader:
        graphs = _graphs(reader, which)
    if wanted == "json":
        print_json(graphs)
    elif wanted == "mermaid":
        for line in mermaid(graphs):
            console.print(line, soft_wrap=True)
    else:
        for graph in graphs:
            console.print(_text(graph), soft_wrap=True)


def _graphs(reader: StoreReader, which: str) -> list[Shown]:
    try:
        content = reader.get(which)
    except StoreError as no_trace:
        try:
            found = reader.get_graph(which)
        except StoreError as no_graph:
            raise StoreError(f"{no_graph} {no_trace}") from None
        return [_shown(found["hash"], found["topology"], None), *_below(found)]
    return graphs_of(content)


def _below(found: GraphRecord) -> Iterator[Shown]:
    for graph_hash, topology in found["topology"].get("subgraphs", {}).items():
        yield _shown(graph_hash, topology, None)


def graphs_of(content: TraceContent) -> list[Shown]:
    """The graphs of a trace, in the order in which their runs began.

    Raises:
        StoreError: No run of it has a graph, or the store does not have it.
    """
    taken: dict[str, _Taken] = {}
    runs: dict[str, _Taken] = {}
    for span in content["spans"]:
        graph_hash = span["attributes"].get(semconv.LANGGRAPH_GRAPH_HASH)
        if isinstance(graph_hash, str):
            of_graph = runs[span["span_id"]] = taken.setdefault(graph_hash, _Taken())
            of_graph.add(_START, span)
    for span in content["spans"]:
        node = span["attributes"].get(semconv.LANGGRAPH_NODE)
        if isinstance(node, str) and (run := runs.get(span["parent_span_id"])) is not None:
            run.executions[node] += 1
            run.add(node, span)
    trace_id = content["trace"]["trace_id"]
    if not taken:
        raise StoreError(f"No run in the trace {trace_id} has a declared graph.")
    known = {graph_hash: graph["topology"] for graph_hash, graph in content["graphs"].items()}
    if missing := [graph_hash for graph_hash in taken if graph_hash not in known]:
        raise StoreError(
            f"The graph {missing[0]} of trace {trace_id} is not in the store: the run with its topology was not stored "
            "here. Each process records it again once a day."
        )
    return [_shown(graph_hash, known[graph_hash], of_graph) for graph_hash, of_graph in taken.items()]


def _shown(graph_hash: str, topology: dict[str, Any], taken: _Taken | None) -> Shown:
    edges = [_edge(key, topology, taken) for key in _declared(topology)]
    for key in sorted(taken.undeclared) if taken is not None else ():
        source, target, kind = key
        count = taken.edges[key] if taken is not None else 0
        edges.append({"source": source, "target": target, "kind": kind, "is_declared": False, "taken": count})
    return {
        "hash": graph_hash,
        "name": str(topology.get("name", "")),
        "topology": topology,
        "executions": None if taken is None else dict(taken.executions),
        "edges": edges,
    }


def _declared(topology: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    for source, target in topology.get("edges", ()):
        yield source, target, "edge"
    for sources, target in topology.get("joins", ()):
        for source in sources:
            yield source, target, "join"
    for branch in topology.get("branches", ()):
        ends: Iterable[str | None] = [None] if branch["ends"] is None else branch["ends"]
        for target in ends:
            yield branch["source"], target, "branch"


def _edge(key: tuple[str, str | None, str], topology: Mapping[str, Any], taken: _Taken | None) -> Edge:
    source, target, kind = key
    count = None if taken is None else 0
    if taken is not None and target is not None:
        # The decisions of a branch are recorded as `branch`, `send` or, for END, as `implied`.
        seen_as = {"edge": ("edge", "implied"), "branch": ("branch", "send", "implied")}.get(kind, (kind,))
        keys = {(source, target, name) for name in seen_as} - taken.undeclared
        count = sum(taken.edges[name] for name in keys)
    return {"source": source, "target": target, "kind": kind, "is_declared": True, "taken": count}


def _text(graph: Shown) -> Text:
    text = Text.assemble(("graph ", "dim"), (safe(graph["name"]), "bold"), (f"  {graph['hash'][:_HASH_DIGITS]}", "dim"))
    if graph["topology"].get("is_truncated"):
        text.append("  (truncated)", "yellow")
    for node in graph["topology"].get("nodes", ()):
        name = node["id"]
        if name == _END:
            continue
        text.append(f"\n  {safe(name)}", "bold")
        if graph["executions"] is not None and name != _START:
            text.append(f"  executed {graph['executions'].get(name, 0)}", "cyan")
        if node.get("graph"):
            text.append(f"  runs graph {node['graph'][:_HASH_DIGITS]}", "dim")
        for edge in graph["edges"]:
            if edge["source"] == name:
                text.append("\n    ")
                text.append_text(_edge_text(edge))
    return text


def _edge_text(edge: Edge) -> Text:
    target = "any node" if edge["target"] is None else safe(edge["target"])
    kind = edge["kind"] if edge["is_declared"] else f"{edge['kind']}, not declared"
    text = Text.assemble(f"-> {target}", (f"  {kind}", "dim" if edge["is_declared"] else "yellow"))
    if edge["taken"]:
        text.append(f"  taken {edge['taken']}", "cyan")
    return text


def mermaid(graphs: Sequence[Shown]) -> Iterator[str]:
    """The first of the graphs as a Mermaid flowchart, with its subgraphs."""
    by_hash = {graph["hash"]: graph for graph in graphs}
    yield "flowchart TD"
    yield from _flow(graphs[0], by_hash, "n", "    ", ())


def _flow(
    graph: Shown, by_hash: Mapping[str, Shown], prefix: str, indent: str, around: tuple[str, ...]
) -> Iterator[str]:
    names = {node["id"]: node.get("graph") for node in graph["topology"].get("nodes", ())}
    for edge in graph["edges"]:
        names.setdefault(edge["source"], None)
        names.setdefault(edge["target"] or "", None)
    if not any(edge["target"] is None for edge in graph["edges"]):
        names.pop("", None)
    ids = {name: f"{prefix}{index}" for index, name in enumerate(names)}
    around = (*around, graph["hash"])
    for name, below in names.items():
        inner = by_hash.get(below or "")
        if inner is not None and inner["hash"] not in around:
            yield f'{indent}subgraph {ids[name]}["{_label(name)}"]'
            yield from _flow(inner, by_hash, f"{ids[name]}_", f"{indent}    ", around)
            yield f"{indent}end"
        elif name in (_START, _END):
            yield f'{indent}{ids[name]}(["{name.strip("_")}"])'
        else:
            yield f'{indent}{ids[name]}["{_label(name) or "any node"}"]'
    for edge in graph["edges"]:
        arrow = _ARROWS.get(edge["kind"], _CONDITIONAL)
        words = [*([] if edge["is_declared"] else ["undeclared"]), *([f"{edge['taken']}x"] if edge["taken"] else [])]
        label = f'|"{" ".join(words)}"|' if words else ""
        yield f"{indent}{ids[edge['source']]} {arrow}{label} {ids[edge['target'] or '']}"


def _label(text: str) -> str:
    """A text between Mermaid's quotation marks, without effect as HTML or Markdown."""
    return "".join(c if c.isalnum() or c in " _-." else f"#{ord(c)};" for c in text)
