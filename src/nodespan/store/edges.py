"""Taken edges of a trace, joined to the executions of their targets."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypedDict

from nodespan import semconv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nodespan.store.records import EdgeRecord, SpanRecord


class JoinedEdge(TypedDict):
    """A taken edge and the executions of its target.

    Attributes:
        source: Span id of the node execution that took it; of an edge from the start, of the run.
        edge: The edge.
        executions: Span ids of its target's executions, by start. Empty to END, and where the run ended before, or the
            target has not begun. Executions of one step that several sources requested are those of each.
    """

    source: str
    edge: EdgeRecord
    executions: list[str]


def join_edges(spans: Sequence[SpanRecord]) -> list[JoinedEdge]:
    """Joins the taken edges of a trace to executions.

    The executions of a target are those in the next step of the same run that has any.

    Args:
        spans: Of one trace, such as ``StoreReader.get(...)["spans"]``.
    """
    by_id = {span["span_id"]: span for span in spans}
    steps: defaultdict[tuple[str, object], defaultdict[int, list[SpanRecord]]] = defaultdict(lambda: defaultdict(list))
    for span in spans:
        if (node := span["attributes"].get(semconv.LANGGRAPH_NODE)) is not None:
            steps[_run_of(span, by_id), node][_step_of(span)].append(span)
    joined: list[JoinedEdge] = []
    for span in spans:
        for edge in span["edges"]:
            of_target = steps[_run_of(span, by_id), edge["target"]]
            following = min((step for step in of_target if step > _step_of(span)), default=None)
            executions = [] if following is None else sorted(of_target[following], key=lambda one: one["start_ns"])
            ids = [one["span_id"] for one in executions]
            joined.append({"source": span["span_id"], "edge": edge, "executions": ids})
    return joined


def _run_of(span: SpanRecord, by_id: Mapping[str, SpanRecord]) -> str:
    """Span id of the run that the span is, or is a node of."""
    passed: set[str] = set()
    while span["attributes"].get(semconv.OPERATION_NAME) != semconv.INVOKE_WORKFLOW:
        passed.add(span["span_id"])
        parent = by_id.get(span["parent_span_id"])
        if parent is None or parent["span_id"] in passed:  # spans of other programs may have any value
            return ""
        span = parent
    return span["span_id"]


def _step_of(span: SpanRecord) -> int:
    """The step of a node execution; -1 for a run, whose edges lead to its first step."""
    step = span["attributes"].get(semconv.LANGGRAPH_STEP)
    return step if isinstance(step, int) else -1
