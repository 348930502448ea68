"""The whole chain on the real model: Runner → PipelineNode → WorkflowState → ComposerService → spans."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import MemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph

from nodespan.runner import PipelineFactory
from nodespan.testing import span_tree
from nodespan.types import ModelProfile, ModelProfileType, PipelinePriority, Sampling
from nodespan.workflow import ComposerService, PipelineNode, WorkflowState
from workflow_graphs import assert_state_and_spans_agree, collect, mirror_of, one_node

SAMPLING = Sampling(max_tokens=12, temperature=0.0, seed=1)
PROMPT = "Name three colours."


@pytest.fixture
def factory(smollm2):
    """Fresh for each test: evaluating a prompt after a prefix hit rounds otherwise, so llama.cpp's text may differ."""
    profile = ModelProfile(model_path=smollm2, n_ctx=512, sampling=SAMPLING)
    with PipelineFactory({ModelProfileType.Primary: profile}) as factory:
        yield factory


@pytest.fixture
def node(factory, tracer_provider):
    return PipelineNode(pipeline_factory=factory, tracer_provider=tracer_provider)


@pytest.fixture
def composer(tracer_provider):
    return ComposerService(tracer_provider=tracer_provider)


@pytest.fixture(scope="module")
def plain_answer(smollm2):
    """The answer of a newly loaded model, which no test changes."""
    import llama_cpp

    llama = llama_cpp.Llama(model_path=str(smollm2), n_ctx=512, verbose=False)
    answer = llama.create_chat_completion([{"role": "user", "content": PROMPT}], max_tokens=12, temperature=0.0, seed=1)
    llama.close()
    return answer


async def test_the_metadata_of_a_streamed_run(factory, composer, tracer_provider, exporter):
    node = PipelineNode(
        pipeline_factory=factory,
        profile_type=ModelProfileType.Primary,
        stream=True,
        node_name="TestMetadataNode",
        priority=PipelinePriority.MEDIUM,
        tracer_provider=tracer_provider,
    )
    state = WorkflowState.from_prompt(PROMPT, user_id="test-user-metadata", conversation_id=12345)
    events = await collect(composer, one_node(node), state)
    ended = next(event for event in events if event["event"] == "on_chain_end" and event["name"] == "analyse")
    ((node_id, entry),) = ended["data"]["node_metadata"].items()
    assert re.fullmatch(r"[0-9a-f]{8}", node_id)
    assert entry["node_name"] == "TestMetadataNode"
    assert entry["priority"] == 5
    assert entry["profile_type"] == 0
    assert entry["model_provider"] == "LLAMA_CPP"
    assert entry["streaming"] is True
    assert entry["user_id"] == "test-user-metadata"
    assert entry["conversation_id"] == 12345
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", entry["execution_time"])
    assert events[-1]["data"]["node_metadata"] == {node_id: entry}
    assert_state_and_spans_agree({node_id: entry}, exporter)
    starts = [event for event in events if event["name"] == "analyse"]
    assert {event["metadata"]["node_name"] for event in starts} == {"TestMetadataNode"}


# The composer runs the node's asynchronous form, as `ainvoke` does.
@pytest.mark.parametrize("how", ["invoke", pytest.param("ainvoke", marks=pytest.mark.extended), "composer"])
async def test_text_and_counts_equal_those_of_llama_cpp(node, composer, exporter, plain_answer, how):
    graph = one_node(node)
    state = WorkflowState.from_prompt(PROMPT)
    if how == "invoke":
        result = graph.invoke(state)
    elif how == "ainvoke":
        result = await graph.ainvoke(state)
    else:
        result = (await collect(composer, graph, state))[-1]["data"]["output"]
    ((_, entry),) = result["node_metadata"].items()
    assert_state_and_spans_agree(result["node_metadata"], exporter)
    assert result["messages"][-1].content == plain_answer["choices"][0]["message"]["content"]
    assert entry["input_tokens"] == plain_answer["usage"]["prompt_tokens"]
    assert entry["output_tokens"] == plain_answer["usage"]["completion_tokens"]
    assert entry["finish_reason"] == plain_answer["choices"][0]["finish_reason"]
    assert entry["model_provider"] == "LLAMA_CPP"
    assert entry["pipeline_type"] == "LlamaCppPipeline"
    chat = next(span for span in exporter.get_finished_spans() if span.name.startswith("chat "))
    assert chat.attributes["gen_ai.usage.output_tokens"] == entry["output_tokens"]
    assert chat.attributes["gen_ai.provider.name"] == "llama_cpp"
    owner = next(span for span in exporter.get_finished_spans() if span.name.startswith("invoke_node"))
    assert not [key for key in owner.attributes if key.startswith("gen_ai.usage")]


async def test_the_spans_of_a_first_run(smollm2, tracer_provider, composer, exporter):
    profile = ModelProfile(model_path=smollm2, n_ctx=512, sampling=SAMPLING)
    with PipelineFactory({ModelProfileType.Primary: profile}) as fresh:
        graph = one_node(PipelineNode(pipeline_factory=fresh, tracer_provider=tracer_provider))
        await collect(composer, graph, WorkflowState.from_prompt(PROMPT))
    name = "chat SmolLM2-135M-Instruct.Q4_1"
    assert span_tree(exporter) == [
        {
            "name": "invoke_workflow LangGraph",
            "children": [
                {
                    "name": "invoke_node analyse",
                    "children": [
                        {
                            "name": name,
                            "children": [
                                {"name": "pipeline.queue"},
                                {"name": "pipeline.load"},
                                {"name": "llama_cpp.prefill"},
                                {"name": "llama_cpp.decode"},
                            ],
                        }
                    ],
                }
            ],
        }
    ]
    for span in exporter.get_finished_spans():
        if span.parent is not None:
            parent = next(p for p in exporter.get_finished_spans() if p.context.span_id == span.parent.span_id)
            assert parent.start_time <= span.start_time <= span.end_time


async def test_closing_the_event_stream_stops_the_model_which_stays_usable(
    node, factory, composer, exporter, plain_answer
):
    long = PipelineNode(
        pipeline_factory=factory,
        sampling=Sampling(max_tokens=400, temperature=0.0, seed=1),
        tracer_provider=composer._tracer_provider,
    )
    events = composer.execute_workflow(one_node(long), WorkflowState.from_prompt("Tell a long story."))
    async for event in events:
        if event["name"] == "pipeline_chunk" and event["data"]["index"] == 3:
            break
    await events.aclose()
    span = next(span for span in exporter.get_finished_spans() if span.name.startswith("invoke_node"))
    facts = mirror_of(span)
    assert facts["finish_reason"] == facts["status"] == "cancelled"
    assert 3 < facts["output_tokens"] < 400
    again = await collect(composer, one_node(node), WorkflowState.from_prompt(PROMPT))
    answer = again[-1]["data"]["output"]["messages"][-1].content
    assert answer == plain_answer["choices"][0]["message"]["content"]


async def test_a_prompt_longer_than_the_context_raises_the_error_of_llama_cpp(node, composer, exporter):
    events: list[Any] = []
    with pytest.raises(ValueError, match="exceed context window"):
        async for event in composer.execute_workflow(one_node(node), WorkflowState.from_prompt("word " * 600)):
            events.append(event)
    assert events[-1]["event"] == "workflow_error"
    recorded = [s.name for s in exporter.get_finished_spans() if any(e.name == "exception" for e in s.events)]
    assert recorded == ["chat SmolLM2-135M-Instruct.Q4_1"]


async def test_parallel_nodes_share_the_model_and_have_their_own_counts(factory, tracer_provider, composer, exporter):
    graph = StateGraph(WorkflowState)
    for number in range(3):
        asks = PipelineNode(
            pipeline_factory=factory, prompt=lambda _s, n=number: f"Say {n}.", tracer_provider=tracer_provider
        )
        graph.add_node(f"n{number}", asks)
        graph.add_edge(START, f"n{number}")
    events = await collect(composer, graph.compile(), WorkflowState())
    entries = events[-1]["data"]["node_metadata"]
    assert len(entries) == 3
    assert_state_and_spans_agree(entries, exporter)


def test_the_state_survives_sqlite_in_sync_graphs(node, exporter, tmp_path):
    config = {"configurable": {"thread_id": "t1"}}
    with SqliteSaver.from_conn_string(str(tmp_path / "c.db")) as saver:
        one_node(node, checkpointer=saver).invoke(WorkflowState.from_prompt(PROMPT), config)
    with SqliteSaver.from_conn_string(str(tmp_path / "c.db")) as saver:
        kept = one_node(node, checkpointer=saver).get_state(config).values["node_metadata"]
    assert_state_and_spans_agree(kept, exporter)
    json.dumps(kept)


# SQLite's saver writes the state as bytes, as the one in memory does, and to disk.
@pytest.mark.parametrize("saver", [pytest.param("memory", marks=pytest.mark.extended), "sqlite"])
async def test_the_state_survives_a_checkpointer_in_async_graphs(node, composer, exporter, tmp_path, saver):
    config = {"configurable": {"thread_id": "t1"}}
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.db")) as sqlite:
        graph = one_node(node, checkpointer=sqlite if saver == "sqlite" else MemorySaver())
        await collect(composer, graph, WorkflowState.from_prompt(PROMPT), config=config)
        kept = (await graph.aget_state(config)).values["node_metadata"]
    assert_state_and_spans_agree(kept, exporter)
    json.dumps(kept)


RUN = """
import asyncio, json, sys
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from nodespan.workflow import ComposerService, WorkflowState

async def main(path, resumes):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    graph = StateGraph(WorkflowState)
    graph.add_node("ask", lambda state: {"user_id": interrupt("who?")})
    graph.add_edge(START, "ask")
    async with AsyncSqliteSaver.from_conn_string(path) as saver:
        compiled = graph.compile(checkpointer=saver)
        state = Command(resume="jane") if resumes else WorkflowState()
        config = {"configurable": {"thread_id": "t1"}}
        async for event in ComposerService(tracer_provider=provider).execute_workflow(compiled, state, config=config):
            pass
    root = next(span for span in exporter.get_finished_spans() if span.parent is None)
    print(json.dumps({
        "span_id": root.context.span_id,
        "status": root.attributes["nodespan.status"],
        "thread": root.attributes["langgraph.thread.id"],
        "links": [link.context.span_id for link in root.links],
    }))

asyncio.run(main(sys.argv[1], sys.argv[2] == "resume"))
"""


@pytest.mark.extended  # without a model: test_with_the_opt_in_a_run_is_linked_in_another_process
def test_a_resume_in_another_process_links_to_the_run_it_resumes(tmp_path):
    def process(mode: str) -> dict[str, Any]:
        path = str(tmp_path / "checkpoints.db")
        done = subprocess.run([sys.executable, "-c", RUN, path, mode], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    first, second = process("start"), process("resume")
    assert first["status"] == "interrupted"
    assert first["links"] == []
    assert second["status"] == "ok"
    assert second["links"] == [first["span_id"]]
    assert first["thread"] == second["thread"] == "t1"


def test_a_missing_model_file_is_a_clear_error_at_set_up():
    from nodespan.errors import ModelLoadError

    with pytest.raises(ModelLoadError, match=r"missing\.gguf"):
        PipelineFactory({ModelProfileType.Primary: ModelProfile(model_path=Path("missing.gguf"))})
