"""A user's program as type checkers read it: checked by basedpyright (strict) and mypy, never run."""

# pyright: standard
# LangGraph leaves parts of its signatures without types, which strict mode reports.

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
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
from nodespan.errors import NodespanError, ServerError
from nodespan.runner import (
    AsyncPipeline,
    Cancellation,
    EnginePhase,
    GenerationResult,
    Pipeline,
    PipelineStream,
    Server,
)
from nodespan.store import StoreReader, TraceFilter, open_store
from nodespan.testing import EchoPipeline


class Mine(IntEnum):
    DRAFT = 7


class State(WorkflowState):
    topic: str = ""


class Shouting:
    def __init__(self, profile: ModelProfile) -> None:
        self.profile = profile

    @staticmethod
    def server_of(profile: ModelProfile) -> Server | None:
        return Server("example", 80) if profile.base_urls else None

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        result.phases = [EnginePhase("shouting.think", 0.0, 0.1)]
        if not cancellation.requested:
            yield (request.prompt or "").upper()

    def close(self) -> None:
        pass


class AsyncShouting:
    slots = 4

    def __init__(self, profile: ModelProfile) -> None:
        self.profile = profile

    async def agenerate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> AsyncGenerator[str]:
        result.finish_reason = "tool_calls"
        yield (request.prompt or "").upper()

    async def aclose(self) -> None:
        pass


def pipelines(profile: ModelProfile) -> tuple[Pipeline, AsyncPipeline]:
    PipelineFactory({Mine.DRAFT: profile}, create=Shouting)
    PipelineFactory({Mine.DRAFT: profile}, create=AsyncShouting)
    return Shouting(profile), AsyncShouting(profile)


def errors(stream: PipelineStream) -> int | None:
    try:
        stream.close()
    except ServerError as error:
        return assert_type(error.status, int | None)
    except NodespanError:
        return None
    return 0


def stored() -> list[str]:
    with StoreReader(open_store()) as reader:
        return [trace["trace_id"] for trace in reader.find(TraceFilter(is_error=True), limit=10)]


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
