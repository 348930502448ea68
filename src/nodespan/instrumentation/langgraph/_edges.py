"""Taken edges and writes, read from the writes of LangGraph's tasks and not derived from spans.

Tried on LangGraph 0.6 and 1.2: when a task has run, its ``writes`` hold ``branch:to:X`` for a plain or conditional edge
and for ``Command(goto=X)``, ``join:A+B:X`` for an edge that waits for several nodes, and a ``Send`` under
``__pregel_tasks``. An edge to END writes nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from nodespan import semconv
from nodespan.instrumentation._outcome import outcome_of
from nodespan.instrumentation.langgraph._spans import NodeSpan, WorkflowSpan
from nodespan.instrumentation.langgraph._topology import BRANCH_TO, END, JOIN, SENDS, START, DeclaredGraph
from nodespan.instrumentation.langgraph._writes import to_record, values, written
from nodespan.spans.attributes import PlainAttributes, to_attribute
from nodespan.spans.content import set_content
from nodespan.spans.guard import Guard
from nodespan.spans.scope import current_scope

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.context import Context

    from nodespan.instrumentation.langgraph._convert import Task
    from nodespan.instrumentation.langgraph._writes import Write

_PLANS_MAX: Final = 1024
"""Plans kept per graph; a node has one for each combination of channels that it writes."""
_PLAN_CHANNELS_MAX: Final = 64

_RECORDING: Final = Guard("record edges and writes")


class Plan(NamedTuple):
    """The meaning of the channels that a node wrote.

    Attributes:
        edges: Taken edges, as ``langgraph.edges`` has them; without those of ``Send``.
        has_sends: There are writes of ``Send``.
        writes: Which of the writes are recorded; see ``_writes``.
    """

    edges: tuple[str, ...]
    has_sends: bool
    writes: Sequence[Write]


def of_execution(node: NodeSpan, task: Task) -> PlainAttributes | None:
    """Attributes of a node's span: the edges that its task took, and what it wrote. Never raises."""
    run = node.parent
    if not isinstance(run, WorkflowSpan) or (graph := run.graph) is None or not node.span.is_recording():
        return None
    try:
        writes = task.writes
        key = task.name, tuple([channel for channel, _ in writes])
        plan = graph.plans.get(key) or _planned(graph, key)
        attributes = PlainAttributes()
        if edges := _taken(graph, task.name, plan, writes) if plan.has_sends else plan.edges:
            attributes[semconv.LANGGRAPH_EDGES] = edges
        if plan.writes:
            attributes[semconv.LANGGRAPH_WRITES] = written(plan.writes, writes)
            if run.captures_values:
                set_content(node.span, {semconv.LANGGRAPH_WRITTEN_VALUES: values(plan.writes, writes)})
    except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
        _RECORDING.failed(error)
        return None
    return attributes


def execution_failed(node: NodeSpan, task: Task, error: BaseException) -> None:
    """Records the edge to the error handler that LangGraph routes to when a node fails."""
    run = node.parent
    if isinstance(run, WorkflowSpan) and (graph := run.graph) is not None and outcome_of(error) == "error":
        with _RECORDING:
            if (handler := graph.handlers.get(task.name)) is not None:
                node.set({semconv.LANGGRAPH_EDGES: (f"branch {handler}",)})


def run_entered(task: Task, context: Context) -> None:
    """Records the edges from the start of a run, on the run's span: LangGraph's start task has no span."""
    run = current_scope(context) if task.name == START else None
    if isinstance(run, WorkflowSpan) and (graph := run.graph) is not None and run.span.is_recording():
        with _RECORDING:
            key = START, tuple([channel for channel, _ in task.writes])
            plan = graph.plans.get(key) or _planned(graph, key)
            if edges := _taken(graph, START, plan, task.writes):
                run.span.set_attribute(semconv.LANGGRAPH_EDGES, edges)


def _planned(graph: DeclaredGraph, key: tuple[str, tuple[str, ...]]) -> Plan:
    plan = _made(graph, *key)
    if len(graph.plans) < _PLANS_MAX and len(key[1]) <= _PLAN_CHANNELS_MAX:
        graph.plans[key] = plan
    return plan


def _taken(graph: DeclaredGraph, source: str, plan: Plan, writes: Iterable[tuple[str, object]]) -> tuple[str, ...]:
    return (*plan.edges, *_sends(graph, source, writes)) if plan.has_sends else plan.edges


def _made(graph: DeclaredGraph, source: str, channels: tuple[str, ...]) -> Plan:
    found: dict[str, None] = {}  # in order, each once: two branches to one node run it once
    for channel in channels:
        if channel.startswith(BRANCH_TO):
            target = channel.removeprefix(BRANCH_TO)
            is_edge = (source, target) in graph.edges and f"edge {target}" not in found
            found[_text("edge" if is_edge else "branch", target, is_edge or _ends_at(graph, source, target))] = None
        elif channel.startswith(JOIN):
            target = channel.rpartition(":")[2]
            found[_text("join", target, (source, target) in graph.joins)] = None
    has_sends = SENDS in channels
    if not found and not has_sends and (declared := _declares_end(graph, source)) is not None:
        found[_text("implied", END, declared)] = None
    return Plan(tuple(found), has_sends, to_record(channels))


def _declares_end(graph: DeclaredGraph, source: str) -> bool | None:
    """Whether the edge to END is declared; ``None``: the node cannot have taken it."""
    if (source, END) in graph.edges or (source, END) in graph.joins or _ends_at(graph, source, END):
        return True
    return False if source in graph.open_branches else None


def _ends_at(graph: DeclaredGraph, source: str, target: str) -> bool:
    return target in graph.ends.get(source, ())


def _sends(graph: DeclaredGraph, source: str, writes: Iterable[tuple[str, object]]) -> Iterable[str]:
    targets = Counter(getattr(value, "node", None) for channel, value in writes if channel == SENDS)
    for target, count in targets.items():
        if target is not None:
            kind = "send" if count == 1 else f"send*{count}"
            yield _text(kind, target, _ends_at(graph, source, target))


def _text(kind: str, target: str, is_declared: bool) -> str:
    return str(to_attribute(f"{kind} {target}" if is_declared else f"undeclared {kind} {target}"))
