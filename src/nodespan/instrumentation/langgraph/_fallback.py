"""Node spans from LangChain's callbacks, for a LangGraph without the seam that encloses a node's execution.

Callbacks are public, and report the start and the end of a node. No frame encloses both, so that no span can be made
current safely: spans created inside a node are its siblings under the run, and each attempt has a separate span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers.context import register_configure_hook
from langgraph.constants import TAG_HIDDEN
from typing_extensions import override

from nodespan import semconv
from nodespan.instrumentation.langgraph import _convert
from nodespan.instrumentation.langgraph._run import STATE
from nodespan.instrumentation.langgraph._spans import NodeSpan, WorkflowSpan
from nodespan.spans.guard import Guard
from nodespan.spans.scope import current_scope

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextvars import ContextVar
    from uuid import UUID

_OPENING: Final = Guard("open a LangGraph span")
_NODE_TAG: Final = "graph:step:"
"""LangGraph tags the run of a node with this and the step, and nothing else."""


class NodeCallbacks(BaseCallbackHandler):
    """Opens and ends the spans of nodes without a seam, in claimed runs.

    A run's scope references the open ones; they end at the latest with it. In async graphs this runs in an executor,
    with a copy of the node's context: run inline, it would keep the start of an LLM from all other async handlers
    (langchain-core 1.8, ``AsyncCallbackManager.on_llm_start``).
    """

    @override
    def on_chain_start(
        self,
        serialized: Mapping[str, Any],
        inputs: object,
        *,
        run_id: UUID,
        tags: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        run = current_scope()
        tags = tags or ()
        if not isinstance(run, WorkflowSpan) or TAG_HIDDEN in tags or not metadata:
            return
        if any(tag.startswith(_NODE_TAG) for tag in tags):
            with _OPENING:
                run.callback_spans[run_id] = NodeSpan(
                    run.tracer,
                    f"{semconv.INVOKE_NODE} {metadata['langgraph_node']}",
                    metadata["langgraph_node"],
                    _convert.callback_attributes(metadata, run.workflow_name),
                    run.instruments,
                )

    @override
    def on_chain_end(self, outputs: object, *, run_id: UUID, **kwargs: Any) -> None:
        self._leave(run_id, None)

    @override
    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._leave(run_id, error)

    @staticmethod
    def _leave(run_id: UUID, error: BaseException | None) -> None:
        run = current_scope()
        if isinstance(run, WorkflowSpan) and (node := run.callback_spans.pop(run_id, None)) is not None:
            node.leave(error)


class _Listening:
    """Returns the handler of a run to LangChain; there is none while LangGraph has its seams."""

    handler: Final = NodeCallbacks()

    def get(self) -> NodeCallbacks | None:
        """Like a ``ContextVar``; the existing seams are the same in every context."""
        return self.handler if STATE.lacks_nodes else None


_listening: Final = _Listening()
_registered: Final[list[bool]] = []


def listen() -> None:
    """Registers the callbacks for every run from now on."""
    if not _registered:
        _registered.append(True)
        register_configure_hook(cast("ContextVar[NodeCallbacks | None]", _listening), inheritable=True)


def callback_span(config: Mapping[str, Any], shown_name: str | None) -> NodeSpan | None:
    """The span that a callback has opened for the node which runs with this config, under the given display name."""
    run, manager = current_scope(), config.get("callbacks")
    run_id: UUID | None = getattr(manager, "parent_run_id", None)
    node = run.callback_spans.get(run_id) if isinstance(run, WorkflowSpan) and run_id is not None else None
    if node is not None and shown_name is not None:
        node.node_name = shown_name
    return node
