"""Runs local models: who may use which, one at a time, streamed, measured. Knows no LangGraph."""

from nodespan.engine.contract import Cancellation, GenerationResult, Pipeline
from nodespan.engine.llama_cpp.pipeline import LlamaCppPipeline
from nodespan.runner.factory import PipelineFactory
from nodespan.runner.runner import Runner
from nodespan.runner.stream import PipelineStream

__all__ = [
    "Cancellation",
    "GenerationResult",
    "LlamaCppPipeline",
    "Pipeline",
    "PipelineFactory",
    "PipelineStream",
    "Runner",
]
