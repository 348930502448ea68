"""The outcome of work by the exception that ended it: the same for graphs, nodes, tools and models."""

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
    GraphBubbleUp,  # other control flow of LangGraph: a run that was requested to stop (GraphDrained)
)


def outcome_of(error: BaseException | None) -> Outcome:
    """The outcome of work that this exception ended. LangGraph's control flow and cancellation are not errors."""
    if error is None or isinstance(error, ParentCommand):
        return "ok"
    if isinstance(error, GraphInterrupt):
        return "interrupted"
    return "cancelled" if isinstance(error, _CANCELLED) else "error"


def end_span(scope: SpanScope, error: BaseException | None) -> None:
    """Ends the span of a call that raised this exception, or returned."""
    outcome = outcome_of(error)
    if outcome == "error" and error is not None:
        scope.fail(error)
    else:
        scope.finish(outcome)
