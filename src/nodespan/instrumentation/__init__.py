"""Instrumentors of the supported libraries. They are independent of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["instrument", "uninstrument"]


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    logger_provider: LoggerProvider | None = None,
    langgraph: bool = True,
    langchain: bool = True,
    llama_cpp: bool = True,
    openai: bool = True,
) -> None:
    """Traces every LangGraph run, LangChain model and tool, llama-cpp-python model and openai call in this process.

    Can be called before or after libraries are imported and graphs are compiled. A second call changes nothing.
    Libraries that are not installed are skipped.

    Args:
        tracer_provider: Creates the spans; the global provider if not given.
        meter_provider: Records the metrics; the global provider if not given.
        logger_provider: Emits events with message content, if content capture is enabled; the global provider if not
            given.
        langgraph: Trace graphs and their nodes.
        langchain: Trace chat models, LLMs, embeddings, retrievers and tools.
        llama_cpp: Trace llama-cpp-python where it is called directly.
        openai: Trace chat completions of the openai package.
    """
    for instrumentor in _instrumentors(langgraph=langgraph, langchain=langchain, llama_cpp=llama_cpp, openai=openai):
        if not instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.instrument(
                tracer_provider=tracer_provider, meter_provider=meter_provider, logger_provider=logger_provider
            )


def uninstrument() -> None:
    """Restores everything that ``instrument()`` has changed. A second call changes nothing."""
    for instrumentor in _instrumentors(langgraph=True, langchain=True, llama_cpp=True, openai=True):
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def _instrumentors(*, langgraph: bool, langchain: bool, llama_cpp: bool, openai: bool) -> Iterator[BaseInstrumentor]:
    """Imported here, so that ``import nodespan`` alone imports none of the libraries."""
    if langgraph:
        from nodespan.instrumentation.langgraph import LangGraphInstrumentor

        yield LangGraphInstrumentor()
    if llama_cpp:
        from nodespan.instrumentation.llama_cpp import LlamaCppInstrumentor

        yield LlamaCppInstrumentor()
    if langchain:
        from nodespan.instrumentation.langchain import LangChainInstrumentor

        yield LangChainInstrumentor()
    if openai:
        from nodespan.instrumentation.openai import OpenAIInstrumentor

        yield OpenAIInstrumentor()
