"""Content on no telemetry, on spans, in events, or both."""

from __future__ import annotations

import json

import pytest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from nodespan.spans import content
from nodespan.spans.content import capture, set_content
from nodespan.spans.message_parts import message, text_part, tool_call_part, tool_response_part
from nodespan.spans.model_call import ModelCallSpan
from nodespan.spans.scope import SpanScope, get_tracer

VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
INPUT = [message("system", [text_part("Be short.")]), message("user", [text_part("Hello?")])]
OUTPUT = [message("assistant", [tool_call_part("call_1", "look_up", {"word": "hello"})], "tool_calls")]


def as_it_is(one):
    return one


@pytest.fixture
def logs():
    return InMemoryLogRecordExporter()


@pytest.fixture
def logger_provider(logs):
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    return provider


@pytest.fixture
def call(tracer_provider, logger_provider):
    """Makes one call of a model, from the question to the answer."""

    def make():
        tracer = get_tracer(tracer_provider)
        scope = ModelCallSpan(tracer, "chat", "llama_cpp", "small", logger_provider=logger_provider)
        if scope.content is not None:
            scope.content.set_input(INPUT, as_it_is)
            scope.content.set_output(OUTPUT)
        scope.set({"gen_ai.usage.input_tokens": 3})
        scope.fail(TimeoutError())
        return scope

    return make


def messages_of(exporter):
    [span] = exporter.get_finished_spans()
    names = ("gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages")
    return {name: json.loads(span.attributes[name]) for name in names if name in span.attributes}


@pytest.mark.parametrize(
    ("given", "on_spans", "on_events"),
    [
        (None, False, False),
        ("", False, False),
        ("NO_CONTENT", False, False),
        ("span_only", True, False),
        (" Event_Only ", False, True),
        ("SPAN_AND_EVENT", True, True),
    ],
)
def test_the_variable_selects_spans_and_events(monkeypatch, call, exporter, logs, given, on_spans, on_events):
    if given is not None:
        monkeypatch.setenv(VARIABLE, given)
    assert capture() == (on_spans, on_events)
    call()
    assert bool(messages_of(exporter)) == on_spans
    assert len(logs.get_finished_logs()) == on_events


def test_any_other_value_is_logged_once_and_disables_capture(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "true")
    assert [capture(), capture()] == [(False, False)] * 2
    [record] = caplog.records
    assert record.__dict__["nodespan.code"] == "configure.invalid_variable"
    assert f"{VARIABLE} is 'true'" in record.getMessage()


def test_messages_on_a_span_are_json_of_roles_and_parts(monkeypatch, call, exporter):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    call()
    assert messages_of(exporter) == {
        "gen_ai.system_instructions": [{"type": "text", "content": "Be short."}],
        "gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Hello?"}]}],
        "gen_ai.output.messages": [
            {
                "role": "assistant",
                "parts": [{"type": "tool_call", "id": "call_1", "name": "look_up", "arguments": {"word": "hello"}}],
                "finish_reason": "tool_calls",
            }
        ],
    }


def test_an_event_has_the_facts_of_the_span_and_the_messages_as_values(monkeypatch, call, exporter, logs):
    monkeypatch.setenv(VARIABLE, "EVENT_ONLY")
    scope = call()
    [log] = [data.log_record for data in logs.get_finished_logs()]
    assert (log.event_name, log.severity_number.name) == ("gen_ai.client.inference.operation.details", "DEBUG")
    assert log.span_id == scope.span.get_span_context().span_id
    attributes = dict(log.attributes)
    [given] = attributes.pop("gen_ai.input.messages")
    assert (given["role"], given["parts"][0]["content"]) == ("user", "Hello?")
    [answer] = attributes.pop("gen_ai.output.messages")
    assert answer["parts"][0]["arguments"]["word"] == "hello"
    del attributes["gen_ai.system_instructions"]
    [span] = exporter.get_finished_spans()
    assert attributes == {key: value for key, value in span.attributes.items() if key != "nodespan.status"}


def test_a_system_message_inside_a_conversation_is_not_moved(monkeypatch, tracer_provider, exporter):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    scope = ModelCallSpan(get_tracer(tracer_provider), "chat", "llama_cpp", "small")
    scope.content.set_input([INPUT[1], INPUT[0]], as_it_is)
    scope.finish()
    assert [one["role"] for one in messages_of(exporter)["gen_ai.input.messages"]] == ["user", "system"]


@pytest.mark.parametrize("variable", ["NODESPAN_CONTENT_MAX_BYTES", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"])
def test_content_is_cut_below_the_user_s_cap_and_the_sdk_s(monkeypatch, exporter, tracer_provider, variable):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    monkeypatch.setenv(variable, "600")
    scope = ModelCallSpan(get_tracer(tracer_provider), "chat", "llama_cpp", "small")
    scope.content.set_input([message("user", [tool_response_part("call_1", "x" * 5000)])], as_it_is)
    scope.finish()
    [span] = exporter.get_finished_spans()
    text = span.attributes["gen_ai.input.messages"]
    assert 500 < len(text) <= 600
    [part] = json.loads(text)[0]["parts"]
    assert "5000 bytes in all, sha256" in part["response"]


def test_a_limit_that_is_not_a_number_is_logged_and_the_default_is_used(monkeypatch, caplog):
    monkeypatch.setenv("NODESPAN_CONTENT_MAX_BYTES", "much")
    assert content.max_bytes() == content.DEFAULT_MAX_BYTES
    [record] = caplog.records
    assert record.__dict__["nodespan.code"] == "configure.invalid_variable"
    assert "'much'" in record.getMessage()


def test_only_the_messages_that_can_be_captured_are_converted(monkeypatch, tracer_provider, exporter):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    converted = []

    def convert(number):
        converted.append(number)
        return message("system" if number == 0 else "user", [text_part(f"message {number}")])

    scope = ModelCallSpan(get_tracer(tracer_provider), "chat", "llama_cpp", "small")
    scope.content.set_input(range(100_000), convert)
    scope.finish()
    assert len(converted) < 1000
    found = messages_of(exporter)
    assert found["gen_ai.system_instructions"][0]["content"] == "message 0"
    first, *others = found["gen_ai.input.messages"]
    assert others[-1]["parts"][0]["content"] == "message 99999"
    assert first["parts"][0]["content"] == f"[cut: {99_999 - len(others)} messages]"


TOOLS = {
    "openai": {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}},
    "responses": {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}},
    "anthropic": {"name": "f", "description": "d", "input_schema": {"type": "object"}},
}


@pytest.mark.parametrize("form", TOOLS)
def test_tool_definitions_have_one_form(monkeypatch, tracer_provider, exporter, form):
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    scope = ModelCallSpan(get_tracer(tracer_provider), "chat", "llama_cpp", "small")
    scope.content.set_tools([TOOLS[form], "not a tool", {"type": "web_search"}])
    scope.finish()
    [span] = exporter.get_finished_spans()
    function = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}
    search = {"type": "web_search", "name": "web_search", "definition": {"type": "web_search"}}
    assert json.loads(span.attributes["gen_ai.tool.definitions"]) == [function, search]


def test_a_text_is_kept_and_other_values_are_json(monkeypatch, exporter, tracer_provider):
    scope = SpanScope(get_tracer(tracer_provider), "execute_tool t")
    set_content(scope.span, {"off": "by default"})
    monkeypatch.setenv(VARIABLE, "SPAN_ONLY")
    set_content(scope.span, {"text": 'a "text"', "value": {"b": [1]}})
    scope.finish()
    [span] = exporter.get_finished_spans()
    assert dict(span.attributes) == {"text": 'a "text"', "value": '{"b": [1]}', "nodespan.status": "ok"}
