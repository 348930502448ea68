"""``opentelemetry-instrument python app.py``: a program without nodespan in its code, in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nodespan.otlp import decode_batch
from nodespan.store import SqliteStore, StoreReader, TraceFilter, store_path
from otlp_receiver import OtlpReceiver

PROGRAM = """
import asyncio
import sys
from typing import TypedDict

from langgraph.graph import START, StateGraph
from llama_cpp import Llama

llama = Llama(sys.argv[1], n_ctx=64, verbose=False)


class State(TypedDict):
    text: str


def write(state: State) -> State:
    pieces = llama.create_completion(state["text"], max_tokens=3, temperature=0, stream=True)
    return {"text": "".join(piece["choices"][0]["text"] for piece in pieces)}


async def talk(state: State) -> State:
    messages = [{"role": "user", "content": state["text"]}]
    answer = await asyncio.to_thread(llama.create_chat_completion, messages, max_tokens=3, temperature=0)
    return {"text": answer["choices"][0]["message"]["content"]}


builder = StateGraph(State)
builder.add_node("write", write)
builder.add_node("talk", talk)
builder.add_edge(START, "write")
builder.add_edge("write", "talk")
graph = builder.compile(name="story")
print(asyncio.run(graph.ainvoke({"text": "Once upon a"}))["text"])
"""

PROVIDER = """
import json
from opentelemetry import metrics, trace
print(json.dumps([type(trace.get_tracer_provider()).__name__, type(metrics.get_meter_provider()).__name__]))
"""


@pytest.fixture
def run(tmp_path):
    """Runs a program under ``opentelemetry-instrument``; returns its stdout and stderr."""

    def run(source, *arguments, **variables):
        program = tmp_path / "app.py"
        program.write_text(source)
        launcher = Path(sys.executable).with_name("opentelemetry-instrument")
        environment = {**os.environ, "OTEL_METRIC_EXPORT_INTERVAL": "1000", **variables}
        environment.pop("NODESPAN_RAISE_INTERNAL_ERRORS")
        done = subprocess.run(
            [launcher, sys.executable, program, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), done.stderr.strip()

    return run


def tree(spans):
    """Names of the spans, nested, children by their start."""
    below = {}
    for span in sorted(spans, key=lambda span: span.start_ns):
        below.setdefault(span.parent_span_id, []).append(span)

    def node(span):
        children = [node(child) for child in below.get(span.span_id, [])]
        return {span.name: children} if children else span.name

    return [node(span) for span in below.get("", [])]


MODEL = "SmolLM2-135M-Instruct.Q4_1"
MODEL_WORK = ["llama_cpp.prefill", "llama_cpp.decode"]
EXPECTED = [
    {
        "invoke_workflow story": [
            {"invoke_node write": [{f"text_completion {MODEL}": MODEL_WORK}]},
            {"invoke_node talk": [{f"chat {MODEL}": MODEL_WORK}]},
        ]
    }
]


def test_it_exports_spans_and_metrics_and_logs_no_warning(run, smollm2):
    with OtlpReceiver() as receiver:
        printed, said = run(
            PROGRAM, smollm2, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, OTEL_SERVICE_NAME="a-program"
        )
        assert tree(receiver.spans) == EXPECTED
        assert {span.service_name for span in receiver.spans} == {"a-program"}
        assert "gen_ai.client.operation.duration" in {metric.name for metric in receiver.metrics}
    assert printed
    assert said == ""


@pytest.mark.extended
def test_without_an_endpoint_the_spans_are_in_the_local_store(run, smollm2):
    printed, said = run(PROGRAM, smollm2)
    assert printed
    assert said == ""
    with closing(SqliteStore(store_path())) as store:
        reader = StoreReader(store)
        assert len(reader.find(TraceFilter(), 10)) == 1
        assert tree([span for data, _ in reader.iter_batches() for span in decode_batch(data)]) == EXPECTED


# Spans and metrics that arrive, and spans in the store, require the same providers: the two tests above.
@pytest.mark.extended
@pytest.mark.parametrize("endpoint", [pytest.param(None, id="local"), pytest.param("http://127.0.0.1:4318", id="otlp")])
def test_the_configurator_sets_an_sdk_provider(run, endpoint):
    """Without a configurator ``opentelemetry-instrument`` leaves a proxy, and nothing is ever recorded."""
    variables = {} if endpoint is None else {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    printed, _ = run(PROVIDER, **variables)
    tracer, meter = json.loads(printed)
    assert tracer == "NodespanTracerProvider"
    assert meter == ("_ProxyMeterProvider" if endpoint is None else "NodespanMeterProvider")


@pytest.mark.extended
@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "nodespan_langgraph,nodespan_langchain,nodespan_llama_cpp"},
        {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"},
    ],
    ids=lambda variables: "-".join(f"{name}={value}" for name, value in variables.items()),
)
def test_a_disabled_sdk_or_exporter_records_no_span(run, smollm2, variables):
    with OtlpReceiver() as receiver:
        printed, said = run(PROGRAM, smollm2, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint, **variables)
        assert receiver.spans == []
    assert printed
    assert said == ""


@pytest.mark.extended
def test_a_single_instrumentation_can_be_disabled(run, smollm2):
    with OtlpReceiver() as receiver:
        run(
            PROGRAM,
            smollm2,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
            OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="nodespan_llama_cpp",
        )
        assert tree(receiver.spans) == [{"invoke_workflow story": ["invoke_node write", "invoke_node talk"]}]


SET_UP = """
import logging
import nodespan
from opentelemetry import trace

logging.basicConfig()
telemetry = nodespan.configure(service_name="mine", redact=lambda text: text.replace("secret", "***"))
assert nodespan.configure() is telemetry
nodespan.instrument()
try:
    with trace.get_tracer("mine").start_as_current_span("work"):
        from nodespan.spans.scope import SpanScope, get_tracer
        SpanScope(get_tracer(), "failing").fail(ValueError("a secret"))
finally:
    print(bool(telemetry.force_flush()))
"""


@pytest.mark.extended
def test_redaction_of_a_program_that_calls_configure_is_applied(run):
    with OtlpReceiver() as receiver:
        printed, said = run(SET_UP, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint)
        (failing,) = [span for span in receiver.spans if span.name == "failing"]
    assert printed == "True"
    assert failing.status_message == "a ***"
    assert "Of the arguments of configure() only redact is used" in said
    assert "Traceback" not in said
    assert "already instrumented" not in said
