"""OpenTelemetry's own instrumentation of LangChain: if it makes a model's span, nodespan does not make another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from opentelemetry import context as context_api

if TYPE_CHECKING:
    from opentelemetry.context import Context

_OFFICIAL: Final = "opentelemetry.instrumentation.genai.langchain"
_UNDER_WAY: Final = "opentelemetry.genai.client.inference.context"
"""Context key of the official instrumentations (opentelemetry-util-genai) inside a model call that has their span."""


def makes_model_spans(model: str | None, context: Context | None) -> bool:
    """Whether the official instrumentation has a span of this model call, or is about to open one.

    It opens its span in a callback, later than nodespan, which therefore has to predict it. It makes none for models
    without a name.
    """
    if context_api.get_value(_UNDER_WAY, context) is not None:
        return True
    module = sys.modules.get(_OFFICIAL)
    return model is not None and module is not None and module.LangChainInstrumentor().is_instrumented_by_opentelemetry
