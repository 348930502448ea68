"""Input and output of a Runner's generation, if the user has enabled content."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodespan.runner import PipelineFactory, Runner
from nodespan.testing import EchoPipeline
from nodespan.types import ChatMessage, GenerationRequest, ModelProfile, ModelProfileType
from pipelines import raw

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CHAT = GenerationRequest(
    messages=(ChatMessage(role="system", content="Be short."), ChatMessage(role="user", content="say it again"))
)


@pytest.fixture
def runner(tracer_provider: TracerProvider) -> Iterator[Runner]:
    with PipelineFactory({ModelProfileType.Primary: ModelProfile(name="echo")}, create=EchoPipeline) as factory:
        yield Runner(factory, tracer_provider=tracer_provider)


def content(exporter: InMemorySpanExporter) -> dict[str, object]:
    [attributes] = [span.attributes or {} for span in exporter.get_finished_spans() if "echo" in span.name]
    names = ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages")
    return {name: json.loads(str(attributes[name])) for name in names if name in attributes}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "content": value}


def test_by_default_no_content_is_captured(runner: Runner, exporter: InMemorySpanExporter) -> None:
    list(runner.stream_pipeline(CHAT))
    assert content(exporter) == {}


def test_a_chat_has_its_messages_and_the_whole_answer(
    runner: Runner, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    list(runner.stream_pipeline(CHAT))
    assert content(exporter) == {
        "gen_ai.system_instructions": [text("Be short.")],
        "gen_ai.input.messages": [{"role": "user", "parts": [text("say it again")]}],
        "gen_ai.output.messages": [
            {"role": "assistant", "parts": [text("say it again")], "finish_reason": "stop"},
        ],
    }


def test_a_raw_prompt_is_a_user_message_and_an_abandoned_answer_is_captured(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    words = " ".join(str(number) for number in range(1000))
    slow = {ModelProfileType.Primary: ModelProfile(name="echo", options={"delay_s": 0.1})}
    with (
        PipelineFactory(slow, create=EchoPipeline) as factory,
        Runner(factory, tracer_provider=tracer_provider).stream_pipeline(raw(words)) as stream,
    ):
        next(iter(stream))
    found = content(exporter)
    assert found["gen_ai.input.messages"] == [{"role": "user", "parts": [text(words)]}]
    [answer] = json.loads(json.dumps(found["gen_ai.output.messages"]))
    assert answer["finish_reason"] == "cancelled"
    assert words.startswith(answer["parts"][0]["content"])
    assert len(answer["parts"][0]["content"]) < len(words)
