"""The openai package: one span per chat completion, with the times that a llama-server reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodespan.instrumentation._instrumentor import LibraryInstrumentor
from nodespan.instrumentation.openai._call import STATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodespan.instrumentation._seams import Seams

__all__ = ["OpenAIInstrumentor"]


class OpenAIInstrumentor(LibraryInstrumentor):
    """Traces every chat completion of the openai package, synchronous or not, that has no span yet."""

    _module = "openai"
    _state = STATE

    def _wrappers(self) -> Sequence[Seams]:
        from nodespan.instrumentation.openai._seam import PARSING, SEAMS

        return SEAMS, PARSING
