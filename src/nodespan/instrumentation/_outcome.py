"""How work ended, judged by the exception it left with: the same for graphs, nodes, tools and models."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, Final

from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand

if TYPE_CHECKING:
    from nodespan.spans.scope import Outcome, SpanScope

_CANCELLED: Final = (
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    GeneratorExit,
    KeyboardInterrupt,
    SystemExit,
    GraphBubbleUp,  # what is left of LangGraph's control flow: a run that was asked to stop (GraphDrained)
)


def outcome_of(error: BaseException | None) -> Outcome:
    """How work that left with this exception ended. LangGraph's control flow and cancellation are no errors."""
    if error is None or isinstance(error, ParentCommand):
        return "ok"
    if isinstance(error, GraphInterrupt):
        return "interrupted"
    return "cancelled" if isinstance(error, _CANCELLED) else "error"


def end_span(scope: SpanScope, error: BaseException | None) -> None:
    """Ends the span of a call that left with this exception, or returned."""
    outcome = outcome_of(error)
    if outcome == "error" and error is not None:
        scope.fail(error)
    else:
        scope.finish(outcome)
