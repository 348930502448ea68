"""LangGraph: one ``invoke_workflow`` span per run of a graph, one ``invoke_node`` span per node execution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from nodespan.instrumentation.langgraph._convert import field_of, id_of, section
from nodespan.instrumentation.langgraph._fallback import callback_span
from nodespan.instrumentation.langgraph._identity import run_facts
from nodespan.instrumentation.langgraph._resume import OptIn
from nodespan.instrumentation.langgraph._run import STATE
from nodespan.instrumentation.langgraph._seam import install, release
from nodespan.instrumentation.langgraph._spans import NodeSpan, WorkflowSpan, new_node_id

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = [
    "LangGraphInstrumentor",
    "NodeSpan",
    "OptIn",
    "WorkflowSpan",
    "callback_span",
    "field_of",
    "id_of",
    "install_seams",
    "new_node_id",
    "run_facts",
    "section",
]


def install_seams(claimant: object) -> None:
    """Enables node spans for runs of a claimant that opens the run's span itself, as long as the claimant exists."""
    install(claimant)


class LangGraphInstrumentor(BaseInstrumentor):
    """Traces every run of every LangGraph graph in this process."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None to be checked by metadata, which a frozen program lacks; missing names are reported by the seams."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        STATE.activate(kwargs)
        install(self)

    def _uninstrument(self, **kwargs: Any) -> None:
        STATE.deactivate()
        release(self)
