"""LangGraph's two spans: ``invoke_workflow`` of a run and ``invoke_node`` of a node execution."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any, Final

from langgraph.constants import TAG_HIDDEN
from opentelemetry.trace import SpanKind
from typing_extensions import override

from nodespan import semconv
from nodespan.instrumentation._outcome import outcome_of
from nodespan.instrumentation.langgraph import _convert
from nodespan.instrumentation.langgraph._identity import identity_in
from nodespan.spans.content import set_content
from nodespan.spans.directory import NodeIds, RunDirectory, span_id_of
from nodespan.spans.exceptions import error_type, exception_attributes
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import exemplar_context
from nodespan.spans.phases import Phase, publish
from nodespan.spans.scope import SpanScope

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from langgraph.errors import GraphInterrupt
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

    from nodespan.instrumentation.langgraph._identity import RunFacts
    from nodespan.instrumentation.langgraph._topology import DeclaredGraph
    from nodespan.spans.attributes import PlainAttributes
    from nodespan.spans.instruments import Instruments
    from nodespan.spans.scope import Outcome

_COUNTING: Final = Guard("count a LangGraph run")
_TEMPLATES_MAX: Final = 1024
"""Templates kept per graph: those of ``Send`` have a path with an index."""


class WorkflowSpan(SpanScope):
    """The span ``invoke_workflow {name}``: one run of a compiled graph.

    Args:
        handed_over: The span is opened by other code than the graph; the first graph run inside adopts it.

    Attributes:
        channels: Of the graph.
        graph: The declared graph; ``None`` if it cannot be read.
        labels: Tags, metadata and thread; its nodes have them as well.
        captures_values: Its nodes record the values that they write.
        callback_spans: Open spans of nodes that callbacks report, by LangChain's run id, if LangGraph lacks the seam.
    """

    __slots__ = (
        "_adoptable",
        "_interrupted",
        "_iterations",
        "callback_spans",
        "captures_values",
        "channels",
        "graph",
        "labels",
        "workflow_name",
    )

    def __init__(
        self,
        tracer: Tracer,
        facts: RunFacts,
        instruments: Instruments,
        *,
        parent: Context | None = None,
        directory: RunDirectory | None = None,
        handed_over: bool = False,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        self._adoptable = handed_over
        self.workflow_name = facts.name
        self.channels: frozenset[str] = frozenset()
        self.graph: DeclaredGraph | None = None
        self.captures_values = False
        self.labels: Mapping[str, Any] = {}
        self._iterations: dict[str, tuple[object, int]] = {}
        self.callback_spans: dict[UUID, NodeSpan] = {}
        self._interrupted = False
        super().__init__(
            tracer,
            f"{semconv.INVOKE_WORKFLOW} {facts.name}",
            _convert.workflow_attributes(facts),
            kind=kind,
            parent=parent,
            directory=directory,
            instruments=instruments,
            identity=facts.identity,
        )
        # Counted when the scope exists, because the scope counts its end: a failure above does not change the gauge.
        self.instruments.record(semconv.WORKFLOW_ACTIVE, 1, {semconv.WORKFLOW_NAME: facts.name})
        if self.directory is None:
            self.directory = RunDirectory()

    def adopt(self) -> bool:
        """Hands the span over to the first graph that calls this; ``False`` at every later call."""
        adoptable, self._adoptable = self._adoptable, False
        return adoptable

    @property
    def is_observed(self) -> bool:
        """Whether the run is observed even without a real span: by metrics, or by a reader of the run directory."""
        return self.instruments.are_live or (self.directory is not None and self.directory.nodes is not None)

    def loaded(self, channels: Mapping[str, Any]) -> None:
        """Completes the identity from the state that the run has loaded, before its first node starts."""
        identity = identity_in(channels, self.identity)
        if identity is not self.identity:
            self.identity = identity
            self.set(identity.attributes)

    def resumes(self, checkpoint_id: str) -> None:
        """Records the checkpoint from which the run continues."""
        self.set({semconv.LANGGRAPH_CHECKPOINT_ID: checkpoint_id})

    def answers(self, value: object) -> None:
        """Records the answer with which the run is resumed (captured content)."""
        if value is not None:
            set_content(self.span, {semconv.LANGGRAPH_RESUME: value})

    def leaves(self, checkpoint_id: str) -> None:
        """Records the checkpoint from which a later run can continue."""
        self.set({semconv.LANGGRAPH_LEFT_CHECKPOINT_ID: checkpoint_id})

    def interrupted(self, error: GraphInterrupt | None = None) -> None:
        """Records that the run stops at an interrupt, and the interrupt's values (captured content)."""
        self._interrupted = True
        if error is not None and error.args and (values := [one.value for one in error.args[0]]):
            set_content(self.span, {semconv.LANGGRAPH_INTERRUPTS: values})

    def iteration(self, node: str, step: object) -> int:
        """Number of steps of the run so far that have executed the node, this one included."""
        last_step, count = self._iterations.get(node, (None, 0))
        if step != last_step:
            # Executions of one step, under ``Send``, may call this concurrently from several threads: all have the same
            # number.
            count += 1
            self._iterations[node] = step, count
        return count

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the span with the outcome of the run."""
        outcome = outcome_of(error)
        if outcome == "error" and error is not None:
            self.fail(error)
            return
        if self._interrupted and outcome == "ok":
            outcome = "interrupted"
        if outcome == "interrupted":
            self.set({semconv.LANGGRAPH_INTERRUPTED: True})
        self.finish(outcome)

    @override
    def finish(
        self, outcome: Outcome = "ok", *, end_time_ns: int | None = None, attributes: PlainAttributes | None = None
    ) -> bool:
        while self.callback_spans:  # no callback has reported their ends
            self.callback_spans.popitem()[1].finish("cancelled")
        if not super().finish(outcome, end_time_ns=end_time_ns, attributes=attributes):
            return False
        if self.instruments.are_live:
            with _COUNTING:
                self._count(outcome)
        return True

    def _count(self, outcome: Outcome) -> None:
        workflow = {semconv.WORKFLOW_NAME: self.workflow_name}
        ended = {**workflow, semconv.STATUS: outcome, semconv.ERROR_TYPE: self.error_type}
        context = exemplar_context(self.span)
        self.instruments.record(semconv.WORKFLOW_ACTIVE, -1, workflow, context)
        self.instruments.record(semconv.WORKFLOW_DURATION, self.took_s, ended, context)
        if outcome == "interrupted":
            self.instruments.record(semconv.WORKFLOW_INTERRUPTS, 1, workflow, context)


_random: Final = random.Random()  # noqa: S311 a separate generator: the application's random numbers do not change
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_node_id() -> str:
    """8 hex digits."""
    return f"{_random.getrandbits(32):08x}"


class NodeSpan(SpanScope):
    """The span ``invoke_node {node}``: one node execution, all its attempts included.

    Attributes:
        node_id: 8 hex digits, unique per node execution.
        node_name: The display name.
        attempt: Number of the running attempt, from 1.
        facts: Attributes to set when the span ends; a PipelineNode replaces them in each attempt, so that none of a
            failed attempt remain.
    """

    __slots__ = (
        "_adopted_attempt",
        "_attempt_started_ns",
        "_failed_at_ns",
        "_last_failed",
        "_workflow_name",
        "attempt",
        "facts",
        "node_id",
        "node_name",
    )

    def __init__(
        self,
        tracer: Tracer,
        span_name: str,
        shown_name: str,
        attributes: dict[str, Any],
        instruments: Instruments,
        *,
        parent: Context | None = None,
        around: SpanScope | None = None,
    ) -> None:
        self.node_id = attributes[semconv.NODE_ID] = new_node_id()
        self.node_name = shown_name
        self.facts: Mapping[str, Any] = {}
        # Read now: the span may hold this dict, to which the program may add attributes.
        self._workflow_name, node = attributes.get(semconv.WORKFLOW_NAME), attributes.get(semconv.NODE)
        namespace = attributes.get(semconv.LANGGRAPH_CHECKPOINT_NS) or ""
        super().__init__(tracer, span_name, attributes, parent=parent, instruments=instruments, around=around)
        self.node = node
        self.attempt = 1
        self._attempt_started_ns = self.started_ns
        self._adopted_attempt = 0
        self._last_failed: BaseException | None = None
        self._failed_at_ns: int | None = None
        if self.directory is not None and self.directory.nodes is not None:
            # The namespace is the same over all attempts: ``node:task_id``, with its parents' before it.
            self.directory.nodes[namespace] = self.ids

    @property
    def ids(self) -> NodeIds:
        """Ids of the span for events; created at each access, because most runs never use them."""
        return NodeIds(span_id_of(self.span), self.node_id, self.node_name)

    def adopt(self) -> bool:
        """Hands the span over to a PipelineNode, once per attempt; ``False`` at every later call."""
        free = self._adopted_attempt != self.attempt
        self._adopted_attempt = self.attempt
        return free

    def attempt_failed(self, error: BaseException) -> None:
        """Records a failed attempt, with its number and duration if its start was seen; see ``next_attempt``."""
        attempt: dict[str, Any] = {semconv.ERROR_TYPE: error_type(error), **exception_attributes(error)}
        if self._failed_at_ns is None:
            attempt[semconv.ATTEMPT] = self.attempt
            attempt[semconv.ATTEMPT_DURATION] = (time.perf_counter_ns() - self._attempt_started_ns) / 1e9
        self._last_failed = error
        self._failed_at_ns = time.time_ns()
        publish(self.span, self)
        self.event(semconv.ATTEMPT_FAILED, attempt)

    def phase(self) -> Phase | None:
        """Waiting for the next attempt; see ``HasPhase``."""
        since_ns, failed = self._failed_at_ns, self._last_failed
        return None if since_ns is None or failed is None else Phase("retrying", since_ns, text=error_type(failed))

    def next_attempt(self) -> None:
        """Starts the time of the next attempt, after LangGraph's back-off."""
        self._failed_at_ns = None
        failed = None if self._last_failed is None else error_type(self._last_failed)
        self.instruments.record(semconv.NODE_RETRIES, 1, {**self._labels(), semconv.ERROR_TYPE: failed})
        self.attempt += 1
        self._attempt_started_ns = time.perf_counter_ns()

    @override
    def finish(
        self, outcome: Outcome = "ok", *, end_time_ns: int | None = None, attributes: PlainAttributes | None = None
    ) -> bool:
        if self.facts and self.is_open:
            self.set(self.facts)
        self._last_failed = None
        if not super().finish(outcome, end_time_ns=end_time_ns, attributes=attributes):
            return False
        if self.instruments.are_live:
            try:
                ended = self._labels()
                ended[semconv.STATUS] = outcome
                if self.error_type is not None:
                    ended[semconv.ERROR_TYPE] = self.error_type
                self.instruments.record(semconv.NODE_DURATION, self.took_s, ended, exemplar_context(self.span))
            except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
                _COUNTING.failed(error)
        return True

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the span with the outcome of the execution."""
        outcome = outcome_of(error)
        if error is None or outcome != "error":
            self.finish(outcome)
            return
        if self.attempt > 1 and self._last_failed is not error:
            self.attempt_failed(error)
        if self.directory is not None:
            self.directory.note_failure(error, self.ids)
        self.fail(error)

    def _labels(self) -> dict[str, Any]:
        return {semconv.WORKFLOW_NAME: self._workflow_name, semconv.NODE: self.node}


def open_node(
    task: _convert.Task, tracer: Tracer, instruments: Instruments, around: SpanScope | None, context: Context
) -> NodeSpan | None:
    """Opens the span of a LangGraph task in the scope around; LangGraph's own bookkeeping has none."""
    tags = task.config.get("tags")
    if tags and TAG_HIDDEN in tags:
        return None
    run = around if isinstance(around, WorkflowSpan) else run_around(around)
    template = _template(task, run)
    attributes = _convert.node_attributes(task, template)
    if run is not None:
        if run.labels:
            attributes.update(run.labels)
        if run is around and run.graph is not None:
            iteration = run.iteration(task.name, attributes.get(semconv.LANGGRAPH_STEP))
            if iteration > 1:
                attributes[semconv.LANGGRAPH_ITERATION] = iteration
    name, shown_name = template.span_name, template.shown_name
    return NodeSpan(tracer, name, shown_name, attributes, instruments, parent=context, around=around)


def _template(task: _convert.Task, run: WorkflowSpan | None) -> _convert.NodeTemplate:
    if run is None or run.graph is None:
        return _convert.node_template(task, None if run is None else run.workflow_name)
    known, key = run.graph.templates, (run.workflow_name, task.name, tuple(task.triggers), task.path)
    if (template := known.get(key)) is None:
        template = _convert.node_template(task, run.workflow_name)
        if len(known) < _TEMPLATES_MAX:
            known[key] = template
    return template


def run_around(scope: SpanScope | None) -> WorkflowSpan | None:
    """The enclosing run: a task of the functional API runs under the node of its entrypoint."""
    while scope is not None and not isinstance(scope, WorkflowSpan):
        scope = scope.parent
    return scope
