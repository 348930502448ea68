"""Other instrumentations of the openai package: if one makes the model's span, nodespan does not make another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api
from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_PEERS: Final = (
    "opentelemetry.instrumentation.openai_v2",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.instrumentation.openai",
    "openinference.instrumentation.openai",
)
_RUNNING: Final = "opentelemetry.genai.client.inference.context"
"""Context key of the official instrumentations (opentelemetry-util-genai) inside a model call that has their span."""


def span_of_a_peer() -> Span | None:
    """The current span, if another instrumentation has made it for this call."""
    span = trace.get_current_span()
    name = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    is_theirs = name in _PEERS or context_api.get_value(_RUNNING) is not None
    return span if is_theirs and span.get_span_context().is_valid else None


def makes_spans() -> bool:
    """Whether another instrumentation of the package is active; it may make its span below nodespan's."""
    modules = (sys.modules.get(name) for name in _PEERS)
    instrumentors = (getattr(module, "OpenAIInstrumentor", None) for module in modules)
    return any(one is not None and one().is_instrumented_by_opentelemetry for one in instrumentors)
