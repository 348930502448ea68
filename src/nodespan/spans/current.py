"""The current OpenTelemetry context, read and exchanged at the cost of a context variable."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, cast

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.instrumentation.utils import suppress_instrumentation

if TYPE_CHECKING:
    from collections.abc import Callable

(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""The API's own key; with it a context is copied once, not once for each entry."""


def _functions() -> tuple[Callable[[], Context], Callable[[Context], Any], Callable[[Any], None]]:
    """The methods of the API's context variable, which the public functions call indirectly.

    The public ``detach`` also logs "Failed to detach context" where a generator is closed in another context.
    """
    runtime: Any = getattr(context_api, "_RUNTIME_CONTEXT", context_api)
    found: object = getattr(runtime, "_current_context", None)
    if type(runtime) is ContextVarsRuntimeContext and isinstance(found, ContextVar):
        variable = cast("ContextVar[Context]", found)
        probe = Context({SPAN_KEY: trace.INVALID_SPAN})
        token = variable.set(probe)
        try:
            is_current = context_api.get_current() is probe
        finally:
            variable.reset(token)
        if is_current:
            return variable.get, variable.set, variable.reset
    return runtime.get_current, runtime.attach, runtime.detach


get_current, attach, detach = _functions()


def _suppression() -> Context:
    """The entries that ``suppress_instrumentation()`` adds to a context."""
    token = attach(Context())
    try:
        with suppress_instrumentation():
            return get_current()
    finally:
        detach(token)


SUPPRESSION: Final = _suppression()
_KEYS: Final = frozenset(SUPPRESSION)


def is_suppressed(context: Context | None = None) -> bool:
    """Whether the program has suppressed instrumentation in the context (the current one if not given)."""
    found = get_current() if context is None else context
    return not _KEYS.isdisjoint(found) and any(found.get(key) for key in _KEYS)
