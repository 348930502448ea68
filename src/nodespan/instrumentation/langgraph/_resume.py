"""Links a run to the run that it continues.

In one process a bounded table has the checkpoints that unfinished (interrupted, failed, cancelled or stopped) runs
left. The ids of checkpoints are unique across savers, graphs and threads, so that a link is never wrong. From another
process the link is read from the checkpoint's metadata, if the user has opted in: ``config={"metadata":
{"nodespan.traceparent": ""}}`` in the run that may be resumed. ComposerService does this for its runs. Checkpoints that
``update_state`` has written are followed to their parents.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from langgraph.types import Command
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from nodespan import semconv
from nodespan.instrumentation._steps import aclose
from nodespan.instrumentation.langgraph._convert import section
from nodespan.spans.directory import traceparent_of
from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.trace import Span

    from nodespan.instrumentation.langgraph._convert import Graph

MAX_UNFINISHED: Final = 1024
"""Maximum number of unfinished runs in the table, about 0.5 KB each; the oldest is removed first."""

_UPDATES_MAX: Final = 8
"""Maximum number of successive updates of a state that are followed to an earlier run."""

_FOLLOWING: Final = Guard("follow an updated checkpoint to its run")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_unfinished: OrderedDict[str, SpanContext] = OrderedDict()


class Loop(Protocol):
    """What nodespan reads of LangGraph's ``PregelLoop``."""

    is_nested: bool
    input: object
    status: str
    checkpoint: Mapping[str, Any]
    checkpoint_config: Mapping[str, Any]
    checkpoint_metadata: Mapping[str, Any]
    prev_checkpoint_config: Mapping[str, Any] | None
    checkpointer: Any
    channels: Mapping[str, Any]
    submit: Callable[..., Any]


def is_unfinished(loop: Loop, error: BaseException | None) -> bool:
    """Whether an outermost run leaves a checkpoint from which a later run can continue."""
    ended_early = error is not None or loop.status in ("out_of_steps", "draining")
    return ended_early and not loop.is_nested and bool(loop.checkpointer)


def remember_unfinished(checkpoint_id: str, span: Span) -> None:
    """Stores the run that left this checkpoint. A later run that ends at the same checkpoint did not write it."""
    context = span.get_span_context()
    if context.is_valid:
        _unfinished.setdefault(checkpoint_id, context)
        while len(_unfinished) > MAX_UNFINISHED:
            _unfinished.popitem(last=False)


def resumes(loop: Loop) -> bool:
    """Whether the outermost run continues from a checkpoint; a subgraph's run follows its parent's."""
    goes_on = loop.input is None or isinstance(loop.input, Command)
    return goes_on and not loop.is_nested and bool(loop.checkpoint["channel_versions"])


def link_resumed(loop: Loop, add: Callable[[Link], None]) -> None:
    """Links the run that the checkpoint of a resumed run leads to, at once or while the run is in progress.

    To be called where the loop has loaded its checkpoint. Reading further checkpoints does not delay the run: the
    loop waits for what it has submitted before it ends.
    """
    context = _written_by(loop.checkpoint["id"], loop.checkpoint_metadata)
    if context is not None:
        add(_link(context))
    elif _is_update(loop.checkpoint_metadata) and loop.prev_checkpoint_config is not None:
        line = _Line(loop, add)
        loop.submit(line.afollow if hasattr(loop, "__aenter__") else line.follow)


class _Line:
    """The checkpoints of a thread before an updated one, newest first, as long as each is the parent of the one before.

    Where the newest one is not the parent, the update has forked an older checkpoint.
    """

    def __init__(self, loop: Loop, add: Callable[[Link], None]) -> None:
        assert loop.prev_checkpoint_config is not None
        self._saver = loop.checkpointer
        self._add = add
        self._expected: str | None = section(loop.prev_checkpoint_config, "configurable").get("checkpoint_id")
        thread = section(loop.checkpoint_config, "configurable")
        address = {"thread_id": thread.get("thread_id"), "checkpoint_ns": thread.get("checkpoint_ns") or ""}
        self._arguments: dict[str, Any] = {
            "config": {"configurable": address},
            "before": {"configurable": {**address, "checkpoint_id": loop.checkpoint["id"]}},
            "limit": _UPDATES_MAX,
        }

    def follow(self) -> None:
        with _FOLLOWING:
            for saved in self._saver.list(**self._arguments):
                if self._ends_at(saved):
                    return

    async def afollow(self) -> None:
        with _FOLLOWING:
            line = self._saver.alist(**self._arguments)
            try:
                async for saved in line:
                    if self._ends_at(saved):
                        return
            finally:
                await aclose(line)

    def _ends_at(self, saved: Any) -> bool:
        checkpoint_id = saved.checkpoint["id"]
        if checkpoint_id != self._expected:
            return True
        if (context := _written_by(checkpoint_id, saved.metadata)) is not None:
            self._add(_link(context))
            return True
        self._expected = section(saved.parent_config or {}, "configurable").get("checkpoint_id")
        return not _is_update(saved.metadata)


def _written_by(checkpoint_id: str, metadata: Mapping[str, Any]) -> SpanContext | None:
    """The run that wrote a checkpoint: from its metadata, else from the table of this process."""
    return _parsed(metadata.get(semconv.TRACEPARENT_KEY)) or _unfinished.get(checkpoint_id)


def _is_update(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("source") in ("update", "fork")


def _link(context: SpanContext) -> Link:
    return Link(context, {semconv.LINK_KIND: semconv.RESUMED_FROM})


def _parsed(traceparent: object) -> SpanContext | None:
    if not isinstance(traceparent, str):
        return None
    context = trace.get_current_span(_PROPAGATOR.extract({"traceparent": traceparent})).get_span_context()
    return context if context.is_valid else None


class OptIn:
    """A run whose checkpoints contain its traceparent in their metadata.

    Attributes:
        config: A copy of the user's config with separate metadata, passed to LangGraph instead. LangGraph reads it at
            the first step, when the span exists.
    """

    __slots__ = ("_metadata", "config")

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._metadata = dict(section(config, "metadata"))
        self.config = {**config, "metadata": self._metadata}

    def fill(self, span: Span) -> None:
        """Writes the traceparent of the run's span, if it has one."""
        if (traceparent := traceparent_of(span)) is not None:
            self._metadata[semconv.TRACEPARENT_KEY] = traceparent


def opts_in(graph: Graph, config: Mapping[str, Any], *, is_outermost: bool) -> bool:
    """Whether the key is in the metadata of the run's config, or of the graph's own (``with_config``).

    Inside another run only an empty value opts in: any other value is inherited from the enclosing run.
    """
    own: Mapping[str, Any] = section(graph.config or {}, "metadata")
    metadata = section(config, "metadata")
    if semconv.TRACEPARENT_KEY not in metadata and semconv.TRACEPARENT_KEY not in own:
        return False
    return is_outermost or not metadata.get(semconv.TRACEPARENT_KEY)
