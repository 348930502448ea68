"""Invariant 10 for calls of llama-cpp-python: content where the user has switched it on, redacted, and nowhere else."""

from __future__ import annotations

import json

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from llama_calls import read, streamed, the_call, whole, whole_chat
from llama_cpp_cases import STORY, words
from nodespan.spans.redaction import set_redaction

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
SYSTEM = "You answer in one word."
QUESTION = "What is the sea?"
CONVERSATION = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def records(monkeypatch, switch_llama_cpp):
    """Enables content and instrumentation; returns the emitted events."""
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))

    def switch(mode):
        monkeypatch.setenv(VARIABLE, mode)
        switch_llama_cpp(logger_provider=provider)
        return exporter

    yield switch
    set_redaction(None)


def content(span):
    return {
        name.removeprefix("gen_ai."): json.loads(value)
        for name, value in span.attributes.items()
        if name in {"gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages"}
    }


def text(role, content, **more):
    return {"role": role, "parts": [{"type": "text", "content": content}], **more}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_conversation_and_its_answer_are_messages(llama, records, exporter, stream):
    records("SPAN_ONLY")
    answer = read(llama.create_chat_completion(CONVERSATION, max_tokens=4, seed=5, stream=stream))
    choices = [piece["choices"][0] for piece in answer]
    said = "".join(choice.get("message", choice.get("delta", {})).get("content") or "" for choice in choices)
    assert said
    assert content(the_call(exporter)) == {
        "system_instructions": [{"type": "text", "content": SYSTEM}],
        "input.messages": [text("user", QUESTION)],
        "output.messages": [text("assistant", said, finish_reason="length")],
    }


@pytest.mark.parametrize("as_tokens", [False, True], ids=["text", "tokens"])
def test_a_prompt_and_its_completion_are_messages(llama, records, exporter, as_tokens):
    records("SPAN_ONLY")
    prompt = llama.tokenize(STORY.encode(), add_bos=False) if as_tokens else STORY
    answer = llama(prompt, max_tokens=3, seed=5)
    assert content(the_call(exporter)) == {
        "input.messages": [text("user", STORY)],
        "output.messages": [text("assistant", answer["choices"][0]["text"], finish_reason="length")],
    }


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_tool_call_is_part_of_the_answer(llama, records, exporter, stream):
    records("SPAN_ONLY")
    choice = {"type": "function", "function": {"name": "look_up"}}
    asked = [*CONVERSATION, {"role": "tool", "tool_call_id": "call_0", "content": "rain"}]
    read(
        llama.create_chat_completion(
            asked, tools=[TOOL], tool_choice=choice, max_tokens=8, temperature=0, stream=stream
        )
    )
    found = content(the_call(exporter))
    assert found["input.messages"][-1] == {
        "role": "tool",
        "parts": [{"type": "tool_call_response", "id": "call_0", "response": "rain"}],
    }
    (answer,) = found["output.messages"]
    (part,) = [part for part in answer["parts"] if part["type"] == "tool_call"]
    assert part["name"] == "look_up"
    assert part["id"]
    assert part["arguments"].startswith("{")


def test_the_received_part_of_an_abandoned_stream_is_captured(llama, records, exporter):
    records("SPAN_ONLY")
    pieces = streamed(llama)
    first = next(pieces)["choices"][0]["text"]
    pieces.close()
    assert content(the_call(exporter))["output.messages"] == [text("assistant", first, finish_reason="cancelled")]


def test_events_have_content_if_configured(llama, records, exporter):
    events = records("EVENT_ONLY")
    whole_chat(llama)
    assert content(the_call(exporter)) == {}
    (event,) = events.get_finished_logs()
    assert event.log_record.event_name == "gen_ai.client.inference.operation.details"
    assert event.log_record.span_id == the_call(exporter).context.span_id
    assert event.log_record.attributes["gen_ai.input.messages"][0]["parts"][0]["content"] == QUESTION


def test_redaction_runs_before_capture(llama, records, exporter):
    records("SPAN_AND_EVENT")
    set_redaction(lambda text: text.replace("sea", "***"))
    whole_chat(llama)
    assert content(the_call(exporter))["input.messages"] == [text("user", "What is the ***?")]


@pytest.mark.parametrize("mode", ["", "NO_CONTENT"])
def test_by_default_no_content_is_captured(llama, records, exporter, mode):
    events = records(mode)
    whole_chat(llama)
    whole(llama)
    with pytest.raises(ValueError, match="exceed context"):
        llama.create_completion("canary" + words(300))
    said = [str((span.attributes, span.events, span.status.description)) for span in exporter.get_finished_spans()]
    assert not [line for line in said if QUESTION in line or "Once upon" in line or "canary" in line]
    assert events.get_finished_logs() == ()


def test_messages_given_as_an_iterator_reach_the_model_and_are_not_captured(llama, records, exporter):
    """Only the library may read an iterator; its template here requires a list."""

    def outcome():
        try:
            return read(llama.create_chat_completion(iter(CONVERSATION), max_tokens=4, seed=5))
        except Exception as error:
            return type(error), str(error)

    expected = outcome()
    records("SPAN_ONLY")
    assert outcome() == expected
    assert "gen_ai.input.messages" not in the_call(exporter).attributes
