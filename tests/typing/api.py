"""A user's program as type checkers read it: checked by basedpyright (strict) and mypy, never run."""

# pyright: standard
# LangGraph leaves parts of its signatures without types, which strict mode reports.

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any, assert_type

from langgraph.graph import START, StateGraph

import nodespan
from nodespan import (
    ChatMessage,
    Chunk,
    ComposerService,
    DeliveryReport,
    GenerationRequest,
    ModelProfile,
    ModelProfileType,
    NodeMetadata,
    PipelineExecutionMetadata,
    PipelineFactory,
    PipelineNode,
    PipelinePriority,
    Runner,
    Sampling,
    Telemetry,
    WorkflowState,
)
from nodespan.runner import PipelineStream
from nodespan.testing import EchoPipeline


class Mine(IntEnum):
    DRAFT = 7


class State(WorkflowState):
    topic: str = ""


def set_up() -> DeliveryReport:
    with nodespan.configure("assistant", endpoint="http://localhost:4318", headers={"x": "y"}) as telemetry:
        assert_type(telemetry, Telemetry)
        nodespan.instrument(langgraph=True, langchain=False, llama_cpp=False)
        nodespan.uninstrument()
        report = telemetry.force_flush(1.0)
        assert_type(report.dropped, dict[str, int])
        return report


def factories() -> PipelineFactory:
    profile = ModelProfile(model_path=Path("model.gguf"), n_ctx=4096, sampling=Sampling(max_tokens=5))
    ModelProfile(base_url="http://127.0.0.1:8080/v1", name="m", dialect="vllm", headers={"X-Tenant": "t"}, verify=False)
    ModelProfile(base_url=("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"), name="m", max_concurrency=4)
    PipelineFactory({Mine.DRAFT: ModelProfile(name="echo")}, create=EchoPipeline)
    return PipelineFactory({ModelProfileType.Primary: profile})


def read(factory: PipelineFactory) -> Iterator[str]:
    request = GenerationRequest(messages=(ChatMessage(role="user", content="Hello"),))
    stream = Runner(factory).stream_pipeline(
        request, profile_type=ModelProfileType.Primary, priority=PipelinePriority.HIGH
    )
    assert_type(stream, PipelineStream)
    for chunk in stream:
        assert_type(chunk, Chunk)
        yield chunk.content
    assert_type(stream.metadata, PipelineExecutionMetadata | None)


async def run(factory: PipelineFactory) -> AsyncIterator[str]:
    graph = StateGraph(State)
    graph.add_node("analyse", PipelineNode(pipeline_factory=factory, profile_type=Mine.DRAFT, stream=True))
    graph.add_edge(START, "analyse")
    events = ComposerService().execute_workflow(
        graph.compile(), State.from_prompt("Hello", user_id="u1"), durability="exit"
    )
    async for event in events:
        assert_type(event, dict[str, Any])
        yield event["event"]


def metadata(state: State) -> list[NodeMetadata]:
    return [NodeMetadata(**entry) for entry in state.node_metadata.values()]
