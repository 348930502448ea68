"""LangChain: one span per call of a chat model, LLM, embedding model, retriever or tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodespan.instrumentation._instrumentor import LibraryInstrumentor
from nodespan.instrumentation.langchain._embeddings import EmbeddingSeams
from nodespan.instrumentation.langchain._seam import EVENT_STREAMS, LANGGRAPH, SEAMS
from nodespan.instrumentation.langchain._spans import STATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nodespan.instrumentation._instrumentor import Wrappers

__all__ = ["LangChainInstrumentor"]


class LangChainInstrumentor(LibraryInstrumentor):
    """Traces every model, tool and retriever of langchain-core in this process."""

    _module = "langchain_core"
    _state = STATE
    _embeddings = EmbeddingSeams()

    def _wrappers(self) -> Sequence[Wrappers]:
        return SEAMS, EVENT_STREAMS, LANGGRAPH, self._embeddings
