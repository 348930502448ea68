"""Captured content of LangChain's models, tools and retrievers, in the conventions' form of role and parts."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Annotated

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage
from langchain_core.tools import tool
from langgraph.prebuilt import InjectedState

from talker import Talker, ways

pytestmark = [
    pytest.mark.usefixtures("traced_langchain", "_on_spans"),
    pytest.mark.filterwarnings("ignore:.*is in beta"),
]

CALL = ToolCall(name="look_up", args={"word": "day"}, id="call_1", type="tool_call")


@pytest.fixture
def _on_spans(monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")


def content(exporter):
    [span] = exporter.get_finished_spans()
    names = ("system_instructions", "input.messages", "output.messages")
    return [json.loads(span.attributes.get(f"gen_ai.{name}", "null")) for name in names]


def said(text, role="user"):
    return {"role": role, "parts": [{"type": "text", "content": text}]}


async def _read(pieces):
    return [piece async for piece in pieces]


async def _aevents_v3(model):
    return await (await model.astream_events("hi", version="v3")).output


WAYS = {
    "invoke": lambda model: model.invoke("hi"),
    "ainvoke": lambda model: asyncio.run(model.ainvoke("hi")),
    "generate of two": lambda model: model.generate([[HumanMessage("hi")], [HumanMessage("hi")]]),
    "stream": lambda model: list(model.stream("hi")),
    "astream": lambda model: asyncio.run(_read(model.astream("hi"))),
    "events-v3": lambda model: model.stream_events("hi", version="v3").output,
    "aevents-v3": lambda model: asyncio.run(_aevents_v3(model)),
}


@pytest.mark.parametrize("way", ways(WAYS))
def test_a_chat_has_its_input_and_output_for_every_way_to_call_it(exporter, way):
    WAYS[way](Talker())
    spans = exporter.get_finished_spans()
    assert len(spans) == (2 if way == "generate of two" else 1)
    for span in spans:
        assert json.loads(span.attributes["gen_ai.input.messages"]) == [said("hi")]
        assert json.loads(span.attributes["gen_ai.output.messages"]) == [
            {**said("good day", "assistant"), "finish_reason": "stop"}
        ]


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_tool_call_is_a_part_of_the_output_message(exporter, way):
    WAYS[way](Talker(tool_calls=[[CALL]]))
    part = {"type": "tool_call", "id": "call_1", "name": "look_up", "arguments": {"word": "day"}}
    assert content(exporter)[2] == [{"role": "assistant", "parts": [part], "finish_reason": "tool_calls"}]


def test_an_abandoned_stream_has_the_output_so_far(exporter):
    pieces = Talker(words=("good", " day")).stream("hi")
    next(pieces)
    pieces.close()
    assert content(exporter)[2] == [said("good", "assistant")]


def test_every_kind_of_message_has_its_role_and_parts(exporter):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    Talker().invoke(
        [
            SystemMessage("Be short."),
            HumanMessage([{"type": "text", "text": "What is it?"}, image]),
            AIMessage([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "I look."}], tool_calls=[CALL]),
            ToolMessage("a day", tool_call_id="call_1"),
        ]
    )
    instructions, asked, _ = content(exporter)
    assert instructions == [{"type": "text", "content": "Be short."}]
    assert asked == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "What is it?"},
                {
                    "type": "blob",
                    "modality": "image",
                    "mime_type": "image/png",
                    "content": "",
                    "size_bytes": 3,
                    "sha256": hashlib.sha256(bytes(3)).hexdigest(),
                },
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "text", "content": "I look."},
                {"type": "tool_call", "id": "call_1", "name": "look_up", "arguments": {"word": "day"}},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call_1", "response": "a day"}]},
    ]


@pytest.mark.parametrize("way", ["invoke", "batch", "stream"])
def test_an_llm_has_its_prompts_and_its_texts(exporter, way):
    class Streaming(FakeListLLM):
        def _stream(self, prompt, stop=None, run_manager=None, **kwargs):
            from langchain_core.outputs import GenerationChunk

            yield from (GenerationChunk(text=text) for text in ("good", " day"))

    model = Streaming(responses=["good day", "good day"])
    if way == "batch":
        model.batch(["a", "b"])
    else:
        list(model.stream("a")) if way == "stream" else model.invoke("a")
    _, asked, answered = content(exporter)
    assert asked == [said("a"), said("b")][: 2 if way == "batch" else 1]
    assert answered == [said("good day", "assistant")] * len(asked)


def test_a_tool_has_its_arguments_without_those_that_the_graph_injects(exporter):
    @tool
    def look_up(word: str, state: Annotated[dict, InjectedState]) -> str:
        """Looks a word up."""
        return f"{word} in {state['book']}"

    look_up.invoke({"word": "day", "state": {"book": "a secret"}})
    [span] = exporter.get_finished_spans()
    assert json.loads(span.attributes["gen_ai.tool.call.arguments"]) == {"word": "day"}
    assert span.attributes["gen_ai.tool.call.result"] == "day in a secret"


def test_a_search_has_its_query_and_documents(exporter):
    pytest.importorskip("numpy", reason="LangChain and LangGraph do not require it")
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=5))
    store.add_texts(["a text"], [{"page": 3}], ids=["1"])
    exporter.clear()
    store.as_retriever().invoke("a query")
    search = next(span for span in exporter.get_finished_spans() if span.name.startswith("retrieval"))
    assert search.attributes["gen_ai.retrieval.query.text"] == "a query"
    [found] = json.loads(search.attributes["gen_ai.retrieval.documents"])
    assert (found["page_content"], found["metadata"]) == ("a text", {"page": 3})
