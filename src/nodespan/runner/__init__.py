"""Runs local models: who may use which, one at a time, streamed, measured. Knows no LangGraph."""

from nodespan.runner.factory import PipelineFactory
from nodespan.runner.llama_cpp_pipeline import LlamaCppPipeline
from nodespan.runner.pipeline import Cancellation, GenerationResult, Pipeline
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
