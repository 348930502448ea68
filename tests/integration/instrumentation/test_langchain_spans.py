"""LangChain's models, tools and retrievers: one span per call, for every method, with the attributes of the call."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from inline_snapshot import snapshot
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import ToolCall
from langchain_core.outputs import LLMResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import ToolException, tool
from langchain_core.vectorstores import InMemoryVectorStore
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind
from pydantic import BaseModel, Field

from measured import Measured
from nodespan.spans.instruments import get_instruments
from nodespan.spans.scope import SpanScope, get_tracer
from nodespan.testing import span_tree
from talker import Remote, Talker, ways

pytestmark = [
    pytest.mark.usefixtures("traced_langchain"),
    pytest.mark.filterwarnings("ignore:.*is in beta"),  # version v3, LangChain's own warning
]


def _events_v3(model: Any) -> str:
    return model.stream_events("hi", version="v3").output.content[0]["text"]


async def _aevents_v3(model: Any) -> str:
    return (await (await model.astream_events("hi", version="v3")).output).content[0]["text"]


async def _astream(model: Any) -> str:
    return "".join([chunk.content async for chunk in model.astream("hi")])


async def _aevents_v2(model: Any) -> str:
    events = [event async for event in model.astream_events("hi", version="v2")]
    return events[-1]["data"]["output"].content


WAYS = {
    "invoke": lambda model: model.invoke("hi").content,
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")).content,
    "stream": lambda model: "".join(chunk.content for chunk in model.stream("hi")),
    "astream": lambda model: asyncio.run(_astream(model)),
    "batch": lambda model: model.batch(["hi"])[0].content,
    "abatch": lambda model: asyncio.run(model.abatch(["hi"]))[0].content,
    "events-v2": lambda model: asyncio.run(_aevents_v2(model)),
    "events-v3": _events_v3,
    "aevents-v3": lambda model: asyncio.run(_aevents_v3(model)),
}
STREAMED = {"stream", "astream", "events-v2", "events-v3", "aevents-v3"}


def test_the_time_to_the_first_chunk_ends_at_the_first_one(exporter):
    pieces = Talker().stream("hi")
    next(pieces)
    time.sleep(0.05)  # a slow reader
    list(pieces)
    [span] = exporter.get_finished_spans()
    took_s = (span.end_time - span.start_time) / 1e9
    assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] <= took_s - 0.05


@pytest.mark.parametrize("way", ways(WAYS))
def test_a_chat_is_one_span_with_its_usage_for_every_method(exporter, way):
    model = Talker()
    assert WAYS[way](model) == "good day"
    [span] = exporter.get_finished_spans()
    assert (span.name, span.kind) == ("chat talker-1", SpanKind.INTERNAL)
    assert set(model.seen) == {"chat talker-1"}  # current inside the provider
    attributes = dict(span.attributes)
    streamed = attributes.pop("gen_ai.request.stream", False)
    assert streamed == (way in STREAMED)
    if streamed:
        assert 0 < attributes.pop("gen_ai.response.time_to_first_chunk") < 60
    if "v3" in way:  # LangChain's own event stream keeps no provider's model and id
        attributes |= {"gen_ai.response.model": "talker-1-0613", "gen_ai.response.id": "chatcmpl-1"}
    assert attributes == snapshot(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "talker",
            "gen_ai.request.model": "talker-1",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 2,
            "gen_ai.usage.cache_read.input_tokens": 1,
            "gen_ai.response.finish_reasons": ("stop",),
            "gen_ai.response.model": "talker-1-0613",
            "gen_ai.response.id": "chatcmpl-1",
            "nodespan.status": "ok",
        }
    )


@pytest.mark.parametrize("way", ways(WAYS))
def test_the_request_of_a_traced_http_client_is_below_the_model_s_span(exporter, tracer, way):
    class Requesting(Talker):
        def _see(self):
            with tracer.start_as_current_span("POST"):
                pass

    WAYS[way](Requesting())
    [chat] = [span for span in exporter.get_finished_spans() if span.name == "chat talker-1"]
    requests = [span for span in exporter.get_finished_spans() if span.name == "POST"]
    assert requests
    assert {span.parent.span_id for span in requests} == {chat.context.span_id}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_each_conversation_of_a_batch_is_one_call(exporter, asynchronous):
    model, conversations = Talker(), [[("human", "a")], [("human", "b")]]
    from langchain_core.messages import convert_to_messages

    messages = [convert_to_messages(one) for one in conversations]
    result = asyncio.run(model.agenerate(messages)) if asynchronous else model.generate(messages)
    assert len(result.generations) == 2
    assert [span.name for span in exporter.get_finished_spans()] == ["chat talker-1"] * 2


def test_parameters_of_the_call_take_precedence_over_the_model_s(exporter):
    Talker(top_p=0.5).invoke("hi", stop=["."], temperature=0.1, max_tokens=7, seed=3, model="talker-2")
    assert span_tree(exporter, "gen_ai.request.*") == [
        {
            "name": "chat talker-2",
            "attributes": {
                "gen_ai.request.model": "talker-2",
                "gen_ai.request.max_tokens": 7,
                "gen_ai.request.temperature": 0.1,
                "gen_ai.request.top_p": 0.5,
                "gen_ai.request.seed": 3,
                "gen_ai.request.stop_sequences": (".",),
            },
        }
    ]


def test_a_model_with_an_address_has_a_client_span(exporter):
    Remote().invoke("hi")
    [span] = exporter.get_finished_spans()
    assert span.kind is SpanKind.CLIENT
    assert (span.attributes["server.address"], span.attributes["server.port"]) == ("models.example", 8080)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_from_langchain_s_cache_is_marked_and_counts_no_tokens(exporter, asynchronous):
    model = Talker(cache=InMemoryCache())
    for _ in range(2):
        asyncio.run(model.ainvoke("hi")) if asynchronous else model.invoke("hi")
    ran, cached = (span.attributes for span in exporter.get_finished_spans())
    assert "nodespan.response_cached" not in ran
    assert ran["gen_ai.usage.output_tokens"] == 2
    assert cached["nodespan.response_cached"] is True
    assert not [name for name in cached if ".usage." in name]


class Counting(FakeListLLM):
    """An LLM that reports usage."""

    def _generate(self, prompts, *args, **kwargs):
        result = super()._generate(prompts, *args, **kwargs)
        usage = {"prompt_tokens": 2 * len(prompts), "completion_tokens": len(prompts)}
        return LLMResult(generations=result.generations, llm_output={"token_usage": usage, "model_name": "counting-1"})

    async def _agenerate(self, prompts, *args, **kwargs):
        return self._generate(prompts)


@pytest.mark.parametrize("prompts", [["a"], ["a", "b"]])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_llm_has_one_span_for_all_its_prompts(exporter, prompts, asynchronous):
    model = Counting(responses=["x", "y"])
    texts = asyncio.run(model.abatch(prompts)) if asynchronous else model.batch(prompts)
    assert len(texts) == len(prompts)
    assert span_tree(exporter, "gen_ai.usage.*", "gen_ai.response.*", "gen_ai.operation.name") == [
        {
            "name": "text_completion",
            "attributes": {
                "gen_ai.operation.name": "text_completion",
                "gen_ai.usage.input_tokens": 2 * len(prompts),
                "gen_ai.usage.output_tokens": len(prompts),
                "gen_ai.response.model": "counting-1",
            },
        }
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_streamed_llm_is_one_span(exporter, asynchronous):
    class Streaming(FakeListLLM):
        def _stream(self, prompt, stop=None, run_manager=None, **kwargs):
            from langchain_core.outputs import GenerationChunk

            yield from (GenerationChunk(text=text) for text in ("a", "b"))

    async def read(model):
        return [text async for text in model.astream("hi")]

    model = Streaming(responses=[])
    assert (asyncio.run(read(model)) if asynchronous else list(model.stream("hi"))) == ["a", "b"]
    assert span_tree(exporter, "gen_ai.request.stream") == [
        {"name": "text_completion", "attributes": {"gen_ai.request.stream": True}}
    ]


def test_an_llm_that_cannot_stream_has_one_span_for_stream(exporter):
    assert list(FakeListLLM(responses=["a"]).stream("hi")) == ["a"]
    assert [span.name for span in exporter.get_finished_spans()] == ["text_completion"]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_retriever_and_the_embedding_below_it(exporter, asynchronous):
    pytest.importorskip("numpy", reason="LangChain and LangGraph do not require it")
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=5))
    store.add_texts(["a"])
    retriever = store.as_retriever()
    found = asyncio.run(retriever.ainvoke("q")) if asynchronous else retriever.invoke("q")
    assert [document.page_content for document in found] == ["a"]
    embedded = {
        "name": "embeddings",
        "attributes": {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": "deterministicfakeembedding",
            "gen_ai.embeddings.dimension.count": 5,
        },
    }
    assert span_tree(exporter, "gen_ai.*") == [
        embedded,
        {
            "name": "retrieval InMemoryVectorStore",
            "attributes": {
                "gen_ai.operation.name": "retrieval",
                "gen_ai.data_source.id": "InMemoryVectorStore",
            },
            "children": [embedded],
        },
    ]


def test_embedding_classes_defined_later_are_traced_once_per_call(exporter):
    class Plain(Embeddings):
        def embed_documents(self, texts):
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text):
            return [0.0, 1.0]

    class Fields(BaseModel, Embeddings):
        model: str = "embedder"
        base_url: str = "http://models.example"

        def embed_documents(self, texts):
            return [[0.0] for _ in texts]

        def embed_query(self, text):
            return super().embed_query(text) or [0.0]

    assert Plain().embed_documents(["a", "b"]) == [[0.0, 1.0], [0.0, 1.0]]
    assert asyncio.run(Plain().aembed_query("a")) == [0.0, 1.0]
    Fields().embed_documents(["a"])
    plain, through_a_thread, fields = exporter.get_finished_spans()
    assert plain.attributes["gen_ai.embeddings.dimension.count"] == 2
    assert (plain.name, through_a_thread.name) == ("embeddings", "embeddings")
    assert (fields.name, fields.kind) == ("embeddings embedder", SpanKind.CLIENT)


class Searching(BaseRetriever):
    """Records the current span; fails on request."""

    seen: list[str] = Field(default_factory=list)
    error: Any = None

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        self.seen.append(trace.get_current_span().name)
        if self.error is not None:
            raise self.error
        return [Document("found")]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_retriever_s_error_is_on_its_span(exporter, asynchronous):
    error = ValueError("no index")
    retriever = Searching(error=error)
    with pytest.raises(ValueError, match="no index") as raised:
        asyncio.run(retriever.ainvoke("q")) if asynchronous else retriever.invoke("q")
    assert raised.value is error
    assert retriever.seen == ["retrieval searching"]
    assert span_tree(exporter, "error.type") == [
        {
            "name": "retrieval searching",
            "status": "ERROR",
            "attributes": {"error.type": "ValueError"},
            "events": ["exception"],
        }
    ]


@tool
def look_up(word: str) -> str:
    """Looks a word up."""
    if word == "unknown":
        raise ToolException("no such word")
    return f"{word} in {trace.get_current_span().name}"


@tool
async def alook_up(word: str) -> str:
    """Looks a word up."""
    await asyncio.sleep(0)
    return look_up.func(word)


@pytest.mark.parametrize("target", [look_up, alook_up], ids=["sync", "async"])
def test_a_tool_call_has_its_name_and_the_requested_id(exporter, target):
    call = ToolCall(name=target.name, args={"word": "day"}, id="call_1", type="tool_call")
    answer = asyncio.run(target.ainvoke(call))
    assert answer.content == f"day in execute_tool {target.name}"
    assert span_tree(exporter, "gen_ai.*") == [
        {
            "name": f"execute_tool {target.name}",
            "attributes": {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": target.name,
                "gen_ai.tool.type": "function",
                "gen_ai.tool.call.id": "call_1",
            },
        }
    ]


def test_a_tool_called_directly_has_no_call_id(exporter):
    assert look_up.invoke({"word": "day"}) == "day in execute_tool look_up"
    [span] = exporter.get_finished_spans()
    assert "gen_ai.tool.call.id" not in span.attributes


def test_an_error_that_langchain_converts_to_an_answer_is_recorded_on_the_tool(exporter):
    lenient = look_up.model_copy(update={"handle_tool_error": True})
    call = ToolCall(name="look_up", args={"word": "unknown"}, id="call_1", type="tool_call")
    assert lenient.invoke(call).status == "error"
    assert span_tree(exporter, "error.type") == [
        {"name": "execute_tool look_up", "status": "ERROR", "attributes": {"error.type": "_OTHER"}}
    ]


def test_spans_and_metrics_use_the_providers_of_the_enclosing_run(exporter):
    measured = Measured()
    outer = SpanScope(
        get_tracer(TracerProvider(shutdown_on_exit=False)),
        "a run of somebody else's provider",
        instruments=get_instruments(measured.provider),
    )
    with outer.attached():
        Talker().invoke("hi")
        look_up.invoke({"word": "day"})
    outer.finish()
    assert exporter.get_finished_spans() == ()
    assert [count for _, count in measured.of("gen_ai.client.operation.duration").values()] == [1]
    assert [count for _, count in measured.of("gen_ai.execute_tool.duration").values()] == [1]
