"""OpenTelemetry for LangGraph pipelines on local models: spans, node metadata and enriched events that agree.

Every public name is here, and each is imported when it is first used: ``import nodespan`` alone loads no other library.
"""

import os
from importlib import import_module

from nodespan._version import __version__

TYPE_CHECKING = False  # type checkers take the name for true; importing it from typing would cost 13 ms
if TYPE_CHECKING:
    from nodespan.errors import NodespanError
    from nodespan.instrumentation import instrument, uninstrument
    from nodespan.runner import LlamaCppPipeline, PipelineFactory, Runner
    from nodespan.telemetry import DeliveryReport, Telemetry, configure
    from nodespan.types import (
        ChatMessage,
        Chunk,
        GenerationRequest,
        ModelProfile,
        ModelProfileType,
        NodeMetadata,
        PipelineExecutionMetadata,
        PipelinePriority,
        Sampling,
    )
    from nodespan.workflow import ComposerService, PipelineNode, WorkflowState

__all__ = [
    "ChatMessage",
    "Chunk",
    "ComposerService",
    "DeliveryReport",
    "GenerationRequest",
    "LlamaCppPipeline",
    "ModelProfile",
    "ModelProfileType",
    "NodeMetadata",
    "NodespanError",
    "PipelineExecutionMetadata",
    "PipelineFactory",
    "PipelineNode",
    "PipelinePriority",
    "Runner",
    "Sampling",
    "Telemetry",
    "WorkflowState",
    "__version__",
    "configure",
    "instrument",
    "uninstrument",
]

_HOMES = {
    "ChatMessage": "nodespan.types",
    "Chunk": "nodespan.types",
    "ComposerService": "nodespan.workflow",
    "DeliveryReport": "nodespan.telemetry",
    "GenerationRequest": "nodespan.types",
    "LlamaCppPipeline": "nodespan.runner",
    "ModelProfile": "nodespan.types",
    "ModelProfileType": "nodespan.types",
    "NodeMetadata": "nodespan.types",
    "NodespanError": "nodespan.errors",
    "PipelineExecutionMetadata": "nodespan.types",
    "PipelineFactory": "nodespan.runner",
    "PipelineNode": "nodespan.workflow",
    "PipelinePriority": "nodespan.types",
    "Runner": "nodespan.runner",
    "Sampling": "nodespan.types",
    "Telemetry": "nodespan.telemetry",
    "WorkflowState": "nodespan.workflow",
    "configure": "nodespan.telemetry",
    "instrument": "nodespan.instrumentation",
    "uninstrument": "nodespan.instrumentation",
}


# Otherwise an invalid value would prevent the first import of OpenTelemetry.
if "OTEL_PROPAGATORS" in os.environ or "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in os.environ:
    import_module("nodespan._import_variables").import_readers()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'nodespan' has no attribute {name!r}")
    value: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
