"""Tool definitions and images in captured content, in every library; arguments that can be read only once."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from nodespan import GenerationRequest, ModelProfile, ModelProfileType, PipelineFactory, Runner
from nodespan.instrumentation import instrument, uninstrument
from nodespan.testing import EchoPipeline, FakeServer
from talker import Talker

IMAGE = base64.b64encode(bytes(450_000)).decode()
QUESTION: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}},
        ],
    }
]
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks a word up.", "parameters": {"type": "object"}},
}
DEFINITION = {"type": "function", "name": "look_up", "description": "Looks a word up."}


@tool
def look_up(word: str) -> str:
    """Looks a word up."""
    return word


@pytest.fixture(autouse=True)
def traced(tracer_provider, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_ONLY")
    instrument(tracer_provider=tracer_provider, langgraph=False)
    yield
    uninstrument()


@pytest.fixture
def client():
    with FakeServer("openai") as server, openai.OpenAI(base_url=server.url, api_key="k") as client:
        yield client


def captured(exporter, name):
    [call] = [span for span in exporter.get_finished_spans() if "gen_ai.operation.name" in span.attributes]
    return json.loads(call.attributes.get(f"gen_ai.{name}", "null"))


def bound():
    return Talker().bind(tools=[TOOL])


LANGCHAIN = {
    "invoke": lambda: bound().invoke("hi"),
    "ainvoke": lambda: asyncio.run(bound().ainvoke("hi")),
    "stream": lambda: list(bound().stream("hi")),
    "objects": lambda: Talker().bind(tools=[look_up]).invoke("hi"),
    "functions": lambda: Talker().bind(functions=[TOOL["function"]]).invoke("hi"),
}


@pytest.mark.parametrize("way", LANGCHAIN)
def test_the_tools_of_a_langchain_model_are_captured(exporter, way):
    LANGCHAIN[way]()
    [definition] = captured(exporter, "tool.definitions")
    assert definition.pop("parameters")["type"] == "object"
    assert definition == DEFINITION


def test_the_tools_of_llama_cpp_are_captured(exporter, llama):
    llama.create_chat_completion([{"role": "user", "content": "hi"}], tools=[TOOL], max_tokens=1)
    assert captured(exporter, "tool.definitions") == [{**DEFINITION, "parameters": {"type": "object"}}]


def test_the_tools_of_the_openai_package_are_captured(exporter, client):
    list(client.chat.completions.create(model="m", messages=QUESTION, tools=[TOOL], stream=True))
    assert captured(exporter, "tool.definitions") == [{**DEFINITION, "parameters": {"type": "object"}}]


def test_the_tools_of_a_runner_are_captured(exporter, tracer_provider, smollm2):
    profile = ModelProfile(model_path=smollm2)
    with PipelineFactory({ModelProfileType.Primary: profile}, create=EchoPipeline) as factory:
        request = GenerationRequest(messages=[{"role": "user", "content": "hi"}], tools=[TOOL])
        list(Runner(factory, tracer_provider=tracer_provider).stream_pipeline(request))
    assert captured(exporter, "tool.definitions") == [{**DEFINITION, "parameters": {"type": "object"}}]


def test_without_content_there_are_no_tool_definitions(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "NO_CONTENT")
    bound().invoke("hi")
    assert captured(exporter, "tool.definitions") is None


def check_stub(exporter):
    [message] = captured(exporter, "input.messages")
    text, image = message["parts"]
    assert text == {"type": "text", "content": "What is it?"}
    assert (image["type"], image["modality"], image["mime_type"]) == ("blob", "image", "image/png")
    assert image["size_bytes"] == 450_000
    assert len(image["sha256"]) == 64
    assert "AAAA" not in str([span.to_json() for span in exporter.get_finished_spans()])


def test_an_image_for_a_langchain_model_is_a_stub(exporter):
    Talker().invoke([HumanMessage(QUESTION[0]["content"])])
    check_stub(exporter)


def test_an_image_for_the_openai_package_is_a_stub(exporter, client):
    list(client.chat.completions.create(model="m", messages=QUESTION, stream=True))
    check_stub(exporter)


def test_an_image_for_llama_cpp_is_a_stub(exporter, llama):
    with pytest.raises(Exception):  # noqa: B017, PT011 this model has no eyes; its template decides how it fails
        llama.create_chat_completion(QUESTION, max_tokens=1, response_format={"type": "no such type"}, tools=3)
    check_stub(exporter)


def test_an_image_in_the_result_of_a_tool_is_a_stub(exporter):
    @tool
    def look(word: str) -> list[Any]:
        """Looks."""
        return QUESTION[0]["content"]

    look.invoke({"word": "day"})
    [span] = exporter.get_finished_spans()
    _, image = json.loads(span.attributes["gen_ai.tool.call.result"])
    assert (image["type"], image["size_bytes"]) == ("blob", 450_000)


def once():
    yield {"role": "user", "content": "hi"}


def test_an_iterator_of_messages_gives_the_same_result_with_llama_cpp(llama):
    def ask():
        llama.reset()
        try:
            return llama.create_chat_completion(once(), max_tokens=4, seed=1)["choices"]
        except Exception as error:
            return repr(error)

    traced = ask()
    uninstrument()
    assert ask() == traced


def test_an_iterator_of_messages_reaches_the_openai_package(client, exporter):
    list(client.chat.completions.create(model="m", messages=once(), stream=True))
    assert captured(exporter, "input.messages") is None
