"""llama-cpp-python: one span per call of a model, with the same exact counts as ``LlamaCppPipeline``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodespan.instrumentation._instrumentor import LibraryInstrumentor
from nodespan.instrumentation.llama_cpp._call import STATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodespan.instrumentation._seams import Seams

__all__ = ["LlamaCppInstrumentor"]


class LlamaCppInstrumentor(LibraryInstrumentor):
    """Traces every call of a ``llama_cpp.Llama`` in this process that no model call of nodespan's encloses."""

    _module = "llama_cpp"
    _state = STATE

    def _wrappers(self) -> Sequence[Seams]:
        from nodespan.instrumentation.llama_cpp._seam import SEAMS

        return (SEAMS,)
