"""Runs models: schedules their requests, streams and measures their answers. Does not depend on LangGraph."""

from nodespan.engine.contract import (
    AsyncPipeline,
    Cancellation,
    EnginePhase,
    GenerationResult,
    Pipeline,
    Server,
)
from nodespan.engine.llama_cpp.pipeline import LlamaCppPipeline
from nodespan.engine.openai_compatible.pipeline import OpenAICompatiblePipeline
from nodespan.runner.factory import PipelineFactory
from nodespan.runner.runner import Runner
from nodespan.runner.stream import PipelineStream

__all__ = [
    "AsyncPipeline",
    "Cancellation",
    "EnginePhase",
    "GenerationResult",
    "LlamaCppPipeline",
    "OpenAICompatiblePipeline",
    "Pipeline",
    "PipelineFactory",
    "PipelineStream",
    "Runner",
    "Server",
]
