"""The openai package: one span per chat completion, with the times that a llama-server reports."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from nodespan.instrumentation.openai._call import STATE

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["OpenAIInstrumentor"]

_logger = logging.getLogger("nodespan")


class OpenAIInstrumentor(BaseInstrumentor):
    """Traces every ``chat.completions.create`` of the openai package, synchronous or not, that has no span yet."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None to be checked by others: an absent library is no error."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        try:
            importlib.import_module("openai")
        except ModuleNotFoundError:
            _logger.debug("The openai package is not installed: there is nothing of it to trace.")
            return
        from nodespan.instrumentation.openai._seam import SEAMS

        STATE.activate(kwargs)
        SEAMS.install(self)

    def _uninstrument(self, **kwargs: Any) -> None:
        from nodespan.instrumentation.openai._seam import SEAMS

        STATE.deactivate()
        SEAMS.release(self)
