"""llama-cpp-python: one span per call of a model, with the exact numbers that ``LlamaCppPipeline`` has."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from nodespan.instrumentation.llama_cpp._call import STATE

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["LlamaCppInstrumentor"]

_logger = logging.getLogger("nodespan")


class LlamaCppInstrumentor(BaseInstrumentor):
    """Traces every call of a ``llama_cpp.Llama`` in this process that no model call of nodespan's encloses."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None that somebody else should check: that the library is absent is no error, and is said here."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        try:
            importlib.import_module("llama_cpp")
        except ModuleNotFoundError:
            _logger.debug("llama-cpp-python is not installed: there is nothing of it to trace.")
            return
        except Exception as error:  # noqa: BLE001 it loads a native library, which may fail in any way
            _logger.warning("llama-cpp-python cannot be imported and is not traced: %s", error)
            return
        from nodespan.instrumentation.llama_cpp._seam import SEAMS

        STATE.activate(kwargs)
        SEAMS.install(self)

    def _uninstrument(self, **kwargs: Any) -> None:
        from nodespan.instrumentation.llama_cpp._seam import SEAMS

        STATE.deactivate()
        SEAMS.release(self)
