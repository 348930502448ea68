"""LangChain: one span per call of a chat model, LLM, embedding model, retriever or tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from nodespan.instrumentation.langchain._embeddings import EmbeddingSeams
from nodespan.instrumentation.langchain._seam import EVENT_STREAMS, SEAMS
from nodespan.instrumentation.langchain._spans import STATE

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["LangChainInstrumentor"]


class LangChainInstrumentor(BaseInstrumentor):
    """Traces every model, tool and retriever of langchain-core in this process."""

    _embeddings = EmbeddingSeams()

    def instrumentation_dependencies(self) -> Collection[str]:
        """None to be checked by metadata, which a frozen program lacks; missing names are reported by the seams."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        STATE.activate(kwargs)
        SEAMS.install(self)
        if hasattr(BaseChatModel, "_iter_v2_events"):
            EVENT_STREAMS.install(self)
        self._embeddings.install()

    def _uninstrument(self, **kwargs: Any) -> None:
        STATE.deactivate()
        self._embeddings.release()
        EVENT_STREAMS.release(self)
        SEAMS.release(self)
