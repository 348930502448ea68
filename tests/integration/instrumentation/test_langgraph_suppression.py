"""``suppress_instrumentation()``: nothing inside it is recorded, and results do not change."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from nodespan.instrumentation import instrument, uninstrument
from nodespan.runner import Runner
from nodespan.types import ChatMessage, GenerationRequest
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from small_graphs import chain
from talker import Talker
from workflow_graphs import collect, echo_factory, one_node


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(query)]


class Zeros(Embeddings):
    def embed_documents(self, texts):
        return [[0.0] for _ in texts]

    def embed_query(self, text):
        return [0.0]


@tool
def look(text: str) -> str:
    """Looks something up."""
    return text


def works(state):
    Talker().invoke("hi")
    list(Talker().stream("hi"))
    look.invoke({"text": "a"})
    Shelf().invoke("b")
    Zeros().embed_query("c")
    return {"seen": ["worked"]}


@pytest.fixture
def logs():
    return InMemoryLogRecordExporter()


@pytest.fixture(autouse=True)
def all_traced(tracer_provider, measured, logs, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
    logger_provider = LoggerProvider(shutdown_on_exit=False)
    logger_provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    instrument(tracer_provider=tracer_provider, meter_provider=measured.provider, logger_provider=logger_provider)
    yield
    uninstrument()
    logger_provider.shutdown()


@pytest.fixture
def nothing_recorded(exporter, measured, logs):
    yield
    assert exporter.get_finished_spans() == ()
    assert {name for name, points in measured.points().items() if points} == set()
    assert logs.get_finished_logs() == ()


def test_the_same_calls_outside_are_recorded(exporter, measured, logs):
    chain(works).invoke({"seen": []})
    assert {span.name.split()[0] for span in exporter.get_finished_spans()} == {
        "invoke_workflow", "invoke_node", "chat", "execute_tool", "retrieval", "embeddings",
    }  # fmt: skip
    assert measured.points()
    assert logs.get_finished_logs()


def test_a_run_and_all_calls_in_it_are_not_recorded(run, nothing_recorded):
    graph = chain(works, ("inner", chain(works, name="Inner"), {}))
    with suppress_instrumentation():
        run(graph, {"seen": []})


def test_the_result_is_the_same(exporter):
    with suppress_instrumentation():
        assert chain(works).invoke({"seen": []}) == {"seen": ["worked"]}
    assert exporter.get_finished_spans() == ()


def test_a_suppressed_part_of_a_node_is_not_recorded(run, exporter):
    inner = chain(works, name="Inner")

    def node(state):
        Talker(model_name="outside").invoke("hi")
        with suppress_instrumentation():
            inner.invoke({"seen": []})
            works(state)
        Talker(model_name="outside").invoke("hi")
        return {"seen": []}

    run(chain(node), {"seen": []})
    assert sorted(span.name for span in exporter.get_finished_spans()) == [
        "chat outside", "chat outside", "invoke_node node", "invoke_workflow Main",
    ]  # fmt: skip


@pytest.mark.parametrize("is_async", [False, True])
def test_a_suppressed_stream_that_is_read_later_is_not_recorded(is_async, tracer, exporter, measured, logs):
    graph = chain(works)

    async def reads(steps, pieces):
        return [item async for item in steps], [piece async for piece in pieces]

    with tracer.start_as_current_span("outer"):
        with suppress_instrumentation():
            steps = graph.astream({"seen": []}) if is_async else graph.stream({"seen": []})
            pieces = Talker().astream("hi") if is_async else Talker().stream("hi")
        if is_async:
            asyncio.run(reads(steps, pieces))
        else:
            list(steps)
            list(pieces)
    assert [span.name for span in exporter.get_finished_spans()] == ["outer"]
    assert not any(measured.points().values())
    assert logs.get_finished_logs() == ()


def test_a_stream_that_is_left_early_is_closed(exporter):
    with suppress_instrumentation():
        steps = chain(works).stream({"seen": []})
    next(steps)
    steps.close()
    assert exporter.get_finished_spans() == ()


def test_suppression_does_not_change_the_current_span(tracer, exporter):
    seen = []

    def looks(state):
        seen.append(trace.get_current_span())
        with tracer.start_as_current_span("inner"):
            pass
        return {}

    with tracer.start_as_current_span("outer") as outer, suppress_instrumentation():
        chain(looks).invoke({"seen": []})
    assert seen[0].get_span_context().span_id == outer.get_span_context().span_id
    inner = next(span for span in exporter.get_finished_spans() if span.name == "inner")
    assert inner.parent.span_id == outer.get_span_context().span_id


async def test_a_composed_run_and_its_pipeline_nodes_are_not_recorded(tracer_provider, measured, nothing_recorded):
    composer = ComposerService(tracer_provider=tracer_provider, meter_provider=measured.provider)
    providers = {"tracer_provider": tracer_provider, "meter_provider": measured.provider}
    graph = one_node(PipelineNode(pipeline_factory=echo_factory(), **providers))
    with suppress_instrumentation():
        events = composer.execute_workflow(graph, WorkflowState.from_prompt("one two"))
    kinds = [event["event"] async for event in events]
    assert kinds.count("on_custom_event") == 3
    with suppress_instrumentation():
        events = await collect(composer, graph, WorkflowState.from_prompt("one two"))
    assert {event["metadata"]["trace_id"] for event in events} == {None}
    assert {event["metadata"]["span_id"] for event in events} == {None}
    [entry] = events[-1]["data"]["node_metadata"].values()
    assert entry["output_tokens"] == 2
    assert "span_id" not in entry


async def test_calls_of_a_runner_are_not_recorded(tracer_provider, measured, nothing_recorded):
    runner = Runner(echo_factory(), tracer_provider=tracer_provider, meter_provider=measured.provider)
    with suppress_instrumentation():
        stream = runner.stream_pipeline(GenerationRequest(messages=(ChatMessage(role="user", content="one two"),)))
    assert "".join([chunk.content async for chunk in stream]) == "one two"
    assert stream.metadata.output_tokens == 2


def test_a_suppressed_pipeline_node_called_in_a_node_does_not_change_the_span_of_the_node(tracer_provider, exporter):
    pipeline = PipelineNode(pipeline_factory=echo_factory(), tracer_provider=tracer_provider)

    def node(state):
        with suppress_instrumentation():
            pipeline.invoke(WorkflowState.from_prompt("one"))
        return {}

    chain(node).invoke({"seen": []})
    [span] = [span for span in exporter.get_finished_spans() if span.name == "invoke_node node"]
    assert "nodespan.model_name" not in span.attributes
    assert len(exporter.get_finished_spans()) == 2


def test_a_router_that_calls_a_suppressed_graph_does_not_change_the_enclosing_run(exporter):
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, StateGraph

    from small_graphs import State, thread

    inner = chain(("inner", lambda state: {"seen": []}, {}), name="Inner", checkpointer=InMemorySaver())
    inner.invoke({"seen": []}, thread("inner"))

    def routes(state):
        with suppress_instrumentation():
            inner.invoke(None, thread("inner"))
        return "node"

    builder = StateGraph(State).add_node("node", lambda state: {"seen": [1]})
    builder.add_conditional_edges(START, routes, ["node"])
    builder.compile(name="Outer").invoke({"seen": []})
    [outer] = [span for span in exporter.get_finished_spans() if span.name == "invoke_workflow Outer"]
    assert "langgraph.checkpoint.id" not in outer.attributes
