"""Every metric of a run on the real model: equal to the spans' facts, with the table's labels and no others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, interrupt
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from measured import Measured
from nodespan import instrument, semconv, uninstrument
from nodespan.runner import LlamaCppPipeline, PipelineFactory, Runner
from nodespan.types import ModelProfile, Sampling
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from pipelines import raw

N_CTX = 512
NOT_HERE = {
    semconv.OUTBOX_SPANS, semconv.OUTBOX_AGE, semconv.SPANS_PROCESSED, semconv.SPANS_EXPORTED,
    semconv.TELEMETRY_ERRORS, semconv.NODE_RUNNING, semconv.NODE_RUNNING_AGE,
}  # fmt: skip
"""Emitted by the store of ``configure()`` and for internal errors, neither of which these tests have."""
IDS = {"user_id": "user-4711", "conversation_id": "conversation-4712"}
THREAD = "thread-4713"


class Model(IntEnum):
    FIRST = 0
    SECOND = 1
    BROKEN = 2


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    if b < 0:
        raise ValueError("negative")
    return a + b


def load(profile: ModelProfile) -> LlamaCppPipeline:
    if profile.name == "broken":
        raise RuntimeError("no memory")
    return LlamaCppPipeline(profile)


@contextmanager
def factory_of(smollm2: Path, measured: Measured) -> Iterator[PipelineFactory]:
    sampling = Sampling(max_tokens=6, temperature=0.0, seed=1)
    profiles = {
        model: ModelProfile(model_path=smollm2, name=model.name.lower(), n_ctx=N_CTX, sampling=sampling)
        for model in Model
    }
    with PipelineFactory(profiles, create=load, meter_provider=measured.provider) as factory:
        yield factory


@dataclass
class Providers:
    tracer_provider: TracerProvider
    meter_provider: MeterProvider


def graph_of(name: str, node: Any, **options: Any) -> Any:
    graph = StateGraph(WorkflowState)
    graph.add_node("work", node, **options)
    graph.add_edge(START, "work")
    return graph.compile(name=name, checkpointer=InMemorySaver())


async def run(graph: Any, providers: Providers, *, leave_at: str | None = None) -> None:
    """One run to its end, whatever that is, or to the first event of that kind."""
    config = {"configurable": {"thread_id": THREAD}}
    state = WorkflowState.from_prompt("Name three colours.", **IDS)
    events = ComposerService(**vars(providers)).execute_workflow(graph, state, config=config)
    try:
        async for event in events:
            if event["event"] == leave_at:
                break
        await events.aclose()
    except (RuntimeError, ValueError):
        assert graph.get_name() == "fails"


async def run_everything(factory: PipelineFactory, providers: Providers) -> None:
    failures = [ConnectionError("down")]

    def flaky(_state: Any) -> dict[str, Any]:
        if failures:
            raise failures.pop()
        add.invoke({"a": 1, "b": 2})
        return {}

    def fails(_state: Any) -> dict[str, Any]:
        add.invoke({"a": 1, "b": -2})
        return {}

    def asks(_state: Any) -> dict[str, Any]:
        interrupt("a question")
        return {}

    def node(model: Model, **options: Any) -> PipelineNode:
        return PipelineNode(pipeline_factory=factory, profile_type=model, **vars(providers), **options)

    retry = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=ConnectionError)
    for graph in (
        graph_of("answers", node(Model.FIRST)),
        graph_of("answers", node(Model.FIRST, priority=20)),
        graph_of("answers", node(Model.SECOND)),
        graph_of("fails", node(Model.BROKEN)),
        graph_of("retries", flaky, retry_policy=retry),
        graph_of("fails", fails),
        graph_of("asks", asks),
    ):
        await run(graph, providers)
    left = graph_of("left", node(Model.FIRST, sampling=Sampling(max_tokens=200)))
    await run(left, providers, leave_at="on_custom_event")


@dataclass
class Seen:
    points: dict[str, list[Any]]
    spans: list[ReadableSpan]

    def total(self, name: str) -> Any:
        """Sum over all labels; sums and counts of a histogram."""
        points = self.points[name]
        if hasattr(points[0], "sum"):
            return sum(point.sum for point in points), sum(point.count for point in points)
        return sum(point.value for point in points)


@pytest.fixture(scope="module")
def seen(smollm2: Path) -> Seen:
    """The metrics after runs and generations with every outcome."""
    measured, exporter = Measured(), InMemorySpanExporter()
    tracer_provider = TracerProvider(shutdown_on_exit=False)
    tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
    providers = Providers(tracer_provider, measured.provider)
    instrument(**vars(providers))
    try:
        with factory_of(smollm2, measured) as factory:
            asyncio.run(run_everything(factory, providers))
            return Seen(measured.points(), list(exporter.get_finished_spans()))
    finally:
        uninstrument()


def test_labels_are_those_of_the_table_and_never_an_id(seen: Seen) -> None:
    ids = {*IDS.values(), THREAD}
    for span in seen.spans:
        ids |= {f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"}
        ids |= {str(value) for name, value in (span.attributes or {}).items() if name.endswith((".id", "_id"))}
    labels: dict[str, set[str]] = defaultdict(set)
    for name, points in seen.points.items():
        for point in points:
            labels[name] |= point.attributes.keys()
            assert not ids & {str(value) for value in point.attributes.values()}, name
    table = {name.name: set(name.labels) for name in semconv.NAMES.values() if name.kind == "metric"}
    assert labels == {name: names for name, names in table.items() if name not in NOT_HERE}


def attribute(spans: list[ReadableSpan], name: str) -> list[Any]:
    return [value for span in spans if (value := (span.attributes or {}).get(name)) is not None]


def test_metrics_are_the_sums_of_the_facts_on_the_spans(seen: Seen) -> None:
    chats = [span for span in seen.spans if span.name.startswith("chat ")]
    prefills = [span for span in seen.spans if span.name == semconv.LLAMA_CPP_PREFILL]
    decodes = [span for span in seen.spans if span.name == semconv.LLAMA_CPP_DECODE]
    assert len(chats) == 5
    total = seen.total

    def summed(values: list[float]) -> tuple[Any, int]:
        return pytest.approx(sum(values)), len(values)

    usage = {
        (point.attributes[semconv.REQUEST_MODEL], point.attributes[semconv.TOKEN_TYPE]): (point.sum, point.count)
        for point in seen.points[semconv.TOKEN_USAGE]
    }
    for kind, name in (("input", semconv.USAGE_INPUT_TOKENS), ("output", semconv.USAGE_OUTPUT_TOKENS)):
        for model in ("first", "second"):
            of_model = [span for span in chats if span.name == f"chat {model}"]
            assert usage[model, kind] == summed(attribute(of_model, name))
    for metric, fact in (
        (semconv.TIME_TO_FIRST_CHUNK, semconv.RESPONSE_TIME_TO_FIRST_CHUNK),
        (semconv.TIME_TO_FIRST_TOKEN, "nodespan.time_to_first_token_s"),
        (semconv.QUEUE_DURATION, "nodespan.queue_s"),
        (semconv.LOAD_DURATION, "nodespan.load_s"),
        (semconv.PREFILL_DURATION, "nodespan.prompt_eval_s"),
    ):
        assert total(metric) == summed(attribute(chats, fact)), metric
    seconds = [s for s in attribute(chats, "nodespan.decode_s") if s]  # 0 where nothing was decoded
    assert total(semconv.DECODE_DURATION) == summed(seconds)
    assert total(semconv.TIME_PER_OUTPUT_TOKEN) == summed([1 / s for s in attribute(chats, "nodespan.tokens_per_s")])
    assert total(semconv.PREFILL_TOKENS) == sum(attribute(prefills, semconv.EVALUATED_TOKENS))
    assert total(semconv.DECODE_TOKENS) == sum(attribute(decodes, semconv.EVALUATED_TOKENS))
    assert total(semconv.CACHED_TOKENS) == sum(attribute(chats, semconv.USAGE_CACHE_READ)) > 0
    filled = zip(
        attribute(chats, semconv.USAGE_INPUT_TOKENS), attribute(chats, semconv.USAGE_OUTPUT_TOKENS), strict=True
    )
    assert total(semconv.CONTEXT_UTILIZATION) == summed([sum(tokens) / N_CTX for tokens in filled])
    assert total(semconv.OPERATION_DURATION)[1] == len(chats)
    tools = [span for span in seen.spans if span.name == "execute_tool add"]
    assert total(semconv.TOOL_DURATION)[1] == len(tools) == 2


def test_exemplars_of_every_histogram_refer_to_a_span_with_the_value(seen: Seen) -> None:
    spans = {(span.context.trace_id, span.context.span_id): span for span in seen.spans}
    begins = {
        semconv.NODE_DURATION: "invoke_node ",
        semconv.WORKFLOW_DURATION: "invoke_workflow ",
        semconv.TOOL_DURATION: "execute_tool ",
    }
    histograms = {name: points for name, points in seen.points.items() if semconv.NAMES[name].buckets}
    for name, points in histograms.items():
        for point in points:
            assert point.exemplars, name
            for exemplar in point.exemplars:
                assert spans[exemplar.trace_id, exemplar.span_id].name.startswith(begins.get(name, "chat ")), name


def test_sizes_are_those_that_llama_cpp_reports_while_a_model_is_loaded(measured: Measured, smollm2: Path) -> None:
    import llama_cpp

    plain = llama_cpp.Llama(model_path=str(smollm2), n_ctx=N_CTX, verbose=False)
    plain.create_completion("Once upon a time", max_tokens=6, temperature=0.0, seed=1)
    sizes = llama_cpp.llama_model_size(plain.model), llama_cpp.llama_state_get_size(plain.ctx)
    plain.close()
    with factory_of(smollm2, measured) as factory:
        runner = Runner(factory)
        list(runner.stream_pipeline(raw("Once upon a time"), profile_type=Model.FIRST))
        assert measured.of(semconv.MODEL_SIZE, semconv.REQUEST_MODEL) == {"first": sizes[0]}
        assert measured.of(semconv.STATE_SIZE, semconv.REQUEST_MODEL) == {"first": sizes[1]}
        list(runner.stream_pipeline(raw("Once upon a time"), profile_type=Model.SECOND))
        assert measured.of(semconv.MODEL_SIZE, semconv.REQUEST_MODEL) == {"first": 0, "second": sizes[0]}
    assert measured.of(semconv.MODEL_SIZE, semconv.REQUEST_MODEL) == {"first": 0, "second": 0}
    assert measured.of(semconv.STATE_SIZE, semconv.REQUEST_MODEL) == {"first": 0, "second": 0}
