"""The declared graph of a compiled graph: from its own nodes and its builder's edges and branches.

Not from ``get_graph()``, which leaves out the nodes behind a conditional edge without declared ends (LangGraph 1.2) and
takes 96 ms for 200 nodes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

from nodespan import semconv
from nodespan.spans import announced
from nodespan.spans.content import capture
from nodespan.spans.guard import Guard
from nodespan.spans.log import warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodespan.instrumentation.langgraph._convert import Graph, NodeTemplate
    from nodespan.instrumentation.langgraph._edges import Plan
    from nodespan.instrumentation.langgraph._spans import WorkflowSpan

START: Final = "__start__"
END: Final = "__end__"
BRANCH_TO: Final = "branch:to:"
"""Begins the name of the channel that triggers a node; the taken edges are read from the writes to these."""
JOIN: Final = "join:"
"""Likewise for an edge that waits for several nodes."""
SENDS: Final = "__pregel_tasks"
"""The channel of ``Send``."""
MAX_BYTES: Final = 32 * 1024
"""Largest topology; a graph of 200 nodes has about 20 KiB."""

_DECLARING: Final = Guard("read a declared graph")
_UNREAD: Final = object()
_declared: Final[WeakKeyDictionary[object, DeclaredGraph | None]] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class DeclaredGraph:
    """A declared graph. It contains only texts, so that it does not keep the compiled graph alive.

    Attributes:
        hash: sha256 of its canonical form, 64 hex digits.
        topology: Its form as JSON values; not truncated.
        edges: Plain edges, as source and target.
        joins: Edges that wait for several sources, likewise.
        ends: Declared ends of the branches of a node.
        open_branches: Nodes with a branch whose ends are not declared.
        handlers: Error handlers by node.
        plans: Meaning of a node's writes, by node and written channels; see ``_edges``.
        templates: Data that executions of a node share, by workflow, node, triggers and path.
        texts: The topology as an attribute, created when it is first needed.
    """

    hash: str
    topology: dict[str, Any]
    edges: frozenset[tuple[str, str]]
    joins: frozenset[tuple[str, str]]
    ends: Mapping[str, frozenset[str]]
    open_branches: frozenset[str]
    handlers: Mapping[str, str]
    plans: dict[tuple[str, tuple[str, ...]], Plan] = field(default_factory=dict[tuple[str, tuple[str, ...]], "Plan"])
    templates: dict[tuple[object, ...], NodeTemplate] = field(default_factory=dict[tuple[object, ...], "NodeTemplate"])
    texts: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        """The topology as JSON of at most ``MAX_BYTES``, all ASCII."""
        if not self.texts:
            self.texts.append(fitted(self.topology))
        return self.texts[0]


def declare(run: WorkflowSpan, graph: Graph) -> None:
    """Sets the graph's hash on its run's span, and its topology on the first recorded one."""
    with _DECLARING:
        run.graph = found = declared(graph)
        run.captures_values = capture().on_spans
        span = run.span
        if found is None or not span.is_recording():
            return
        span.set_attribute(semconv.LANGGRAPH_GRAPH_HASH, found.hash)
        if span.get_span_context().trace_flags.sampled and announced.is_due(found.hash):
            span.set_attribute(semconv.LANGGRAPH_GRAPH_TOPOLOGY, found.text)


def declared(graph: Any) -> DeclaredGraph | None:
    """The declared graph; ``None`` where it cannot be read, which is logged.

    It is read once per compilation: ``with_config`` copies a graph, and the copies share their nodes.
    """
    key = next(iter(graph.nodes.values()), None)
    if key is None:
        return None
    found = _declared.get(key, _UNREAD)
    if found is _UNREAD:
        _declared[key] = None  # ends the recursion where a graph contains itself
        found = _declared[key] = _read(graph)
    return cast("DeclaredGraph | None", found)


def _read(graph: Any) -> DeclaredGraph | None:
    try:
        return _declared_graph(graph)
    except (AttributeError, TypeError, ValueError) as error:
        warn(
            "graph.unreadable",
            "The declared graph of %s cannot be read (%s): its runs have no topology and no taken edges. "
            "Please report this version of LangGraph.",
            type(graph).__name__,
            error,
        )
        return None


def _declared_graph(graph: Any) -> DeclaredGraph:
    builder: Any = getattr(graph, "builder", None)  # graphs of the functional API have none
    for kind in _channels(builder):
        if not any(name.startswith(kind) for name in graph.channels):
            raise ValueError(f"it has no channel {kind}")
    nodes: dict[str, Any] = {name: node for name, node in graph.nodes.items() if name != START}
    edges: set[tuple[str, str]] = set(builder.edges) if builder is not None else set()
    waiting: set[tuple[tuple[str, ...], str]] = set(builder.waiting_edges) if builder is not None else set()
    branches = list(_branches(builder, nodes)) if builder is not None else []
    subgraphs: dict[str, dict[str, Any]] = {}
    graphs = {name: _subgraph(node, subgraphs) for name, node in nodes.items()}
    used: set[str] = {target for _, target in edges} | {end for _, _, ends in branches for end in ends or ()}
    names: list[str] = sorted({*nodes, *([START] if builder is not None else []), *({END} & used)})
    topology: dict[str, Any] = {
        "name": graph.get_name(),
        "nodes": [
            {"id": name, "graph": graphs.get(name), "is_deferred": _is_deferred(builder, name)} for name in names
        ],
        "edges": sorted([source, target] for source, target in edges),
        "joins": sorted([sorted(sources), target] for sources, target in waiting),
        "branches": [
            {"source": source, "name": name, "ends": ends} for source, name, ends in sorted(branches, key=_branch_key)
        ],
        "subgraphs": subgraphs,
        "is_truncated": False,
    }
    ends_of: dict[str, set[str]] = {}
    for source, _, ends in branches:
        ends_of.setdefault(source, set()).update(ends or ())
    canonical = [topology[part] for part in ("nodes", "edges", "joins", "branches")]
    return DeclaredGraph(
        hashlib.sha256(_json(canonical).encode()).hexdigest(),
        topology,
        frozenset(edges),
        frozenset((source, target) for sources, target in waiting for source in sources),
        {source: frozenset(ends) for source, ends in ends_of.items()},
        frozenset(source for source, _, ends in branches if ends is None),
        {name: handler for name, node in nodes.items() if (handler := _handler(node)) is not None},
    )


def _channels(builder: Any) -> Iterable[str]:
    """The channels that the taken edges are read from."""
    if builder is not None:
        yield from (BRANCH_TO, SENDS)
        if any(target != END for _, target in builder.waiting_edges):
            yield JOIN


def _branches(builder: Any, nodes: Mapping[str, Any]) -> Iterable[tuple[str, str, list[str] | None]]:
    """Source, name and ends: of conditional edges, of ``Command(goto)`` with annotated targets, of error handlers."""
    for source, by_name in builder.branches.items():
        for name, branch in by_name.items():
            yield source, name, sorted(set(branch.ends.values())) if branch.ends else None
    for name, spec in builder.nodes.items():
        if name in nodes and spec.ends:
            yield name, "goto", sorted(spec.ends)
    for name, node in nodes.items():
        if (handler := _handler(node)) is not None:
            yield name, "error", [handler]


def _branch_key(branch: tuple[str, str, list[str] | None]) -> tuple[str, str]:
    return branch[:2]


def _handler(node: Any) -> str | None:
    """The node's error handler (LangGraph 1.2 and newer)."""
    return getattr(node, "error_handler_node", None)


def _is_deferred(builder: Any, name: str) -> bool:
    spec = builder.nodes.get(name) if builder is not None else None
    return bool(spec is not None and spec.defer)


def _subgraph(node: Any, into: dict[str, dict[str, Any]]) -> str | None:
    """Hash of the graph that the node runs; its topology, and those below it, go into the table."""
    for subgraph in node.subgraphs:
        if getattr(subgraph, "nodes", None) and (found := declared(subgraph)) is not None:
            into.update(found.topology["subgraphs"])
            into[found.hash] = {**found.topology, "subgraphs": {}}
            return found.hash
    return None


def fitted(topology: dict[str, Any], max_bytes: int = MAX_BYTES) -> str:
    """The topology as JSON within a limit of bytes: if it is longer, without subgraphs, then with fewer nodes."""
    text = _json(topology)
    if len(text) <= max_bytes:
        return text
    cut: dict[str, Any] = {**topology, "subgraphs": {}, "is_truncated": True}
    while len(text := _json(cut)) > max_bytes:
        count = len(cut["nodes"])
        kept = cut["nodes"][: min(count * max_bytes // len(text), count - 1)]
        ids = {node["id"] for node in kept}
        cut = {
            **cut,
            "name": topology["name"] if kept else "",
            "nodes": kept,
            "edges": [edge for edge in cut["edges"] if ids.issuperset(edge)],
            "joins": [join for join in cut["joins"] if ids.issuperset([*join[0], join[1]])],
            "branches": [
                {**branch, "ends": branch["ends"] and [end for end in branch["ends"] if end in ids]}
                for branch in cut["branches"]
                if branch["source"] in ids
            ],
        }
    return text


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
