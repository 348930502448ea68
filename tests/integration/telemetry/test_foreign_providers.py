"""Providers and processors that are not nodespan's, each in a process of its own, since a provider is set once."""

from __future__ import annotations

import json

import pytest

from nodespan import semconv
from otlp_receiver import OtlpReceiver

PROVIDERS = """
from dataclasses import dataclass
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import nodespan

class Delegating:
    __slots__ = ()
    def get_tracer(self, *arguments, **options): return self.inner.get_tracer(*arguments, **options)
    def add_span_processor(self, processor):
        print("added")
        self.inner.add_span_processor(processor)

@dataclass
class Unhashable(Delegating):
    inner: TracerProvider

class WithoutWeakReferences(Delegating):
    __slots__ = ("inner",)
    def __init__(self, inner): self.inner = inner

class NeverEqual(Delegating):
    __slots__ = ("inner", "__weakref__")
    def __init__(self, inner): self.inner = inner
    def __eq__(self, other): raise TypeError("not comparable")
    __hash__ = object.__hash__
"""


@pytest.mark.parametrize("kind", ["Unhashable", "WithoutWeakReferences", "NeverEqual"])
def test_every_provider_with_processors_can_be_attached_to_again_and_again(kind, run_python):
    """A proxy of logfire is a data class, for example, and so not hashable."""
    done = run_python(
        f"""{PROVIDERS}
trace.set_tracer_provider({kind}(TracerProvider(shutdown_on_exit=False)))
for _ in range(3):
    with nodespan.configure(attach=True) as telemetry:
        trace.get_tracer("x").start_span("work").end()
        report = telemetry.force_flush(5)
        print(report.ended, report.stored)
"""
    )
    assert (done.stdout.split(), done.returncode) == (["added", *["1", "1"] * 3], 0), done.stderr


@pytest.mark.parametrize("attach", [False, True])
@pytest.mark.parametrize("provider", ["trace.NoOpTracerProvider()", "Other()"])
def test_a_provider_without_processors_is_kept_and_reported(provider, attach, run_python):
    done = run_python(
        f"""
        from opentelemetry import trace
        import nodespan
        class Other(trace.TracerProvider):
            def get_tracer(self, *arguments, **options): return trace.NoOpTracer()
        own = {provider}
        trace.set_tracer_provider(own)
        with nodespan.configure(attach={attach}) as telemetry:
            print(trace.get_tracer_provider() is own, telemetry.store)
        """
    )
    assert (done.stdout.split(), done.returncode) == (["True", "None"], 0)
    assert "The program has set a tracer provider" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_each_processor_of_the_program_is_shut_down_at_exit_also_after_one_that_fails(run_python):
    done = run_python(
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanProcessor
        import nodespan
        class Ends(SpanProcessor):
            def __init__(self, error): self.error = error
            def shutdown(self):
                print("shut down", flush=True)
                if self.error is not None: raise self.error
        nodespan.configure()
        for error in (RuntimeError("first"), SystemExit(3), KeyboardInterrupt(), None):
            trace.get_tracer_provider().add_span_processor(Ends(error))
        """
    )
    assert (done.stdout.splitlines(), done.returncode) == (["shut down"] * 4, 0), done.stderr


def test_a_meter_provider_of_the_program_is_kept_and_reported(run_python):
    done = run_python(
        """
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        import nodespan
        reader = InMemoryMetricReader()
        own = MeterProvider([reader], shutdown_on_exit=False)
        metrics.set_meter_provider(own)
        with nodespan.configure(endpoint="http://127.0.0.1:9"):
            recorded = reader.get_metrics_data().to_json()
        print(metrics.get_meter_provider() is own, "otel.sdk.processor.span.processed" in recorded)
        """,
        OTEL_LOGS_EXPORTER="none",
    )
    assert (done.stdout.split(), done.returncode) == (["True", "True"], 0), done.stderr
    assert done.stderr.count("The program has set a meter provider") == 1
    assert "Overriding" not in done.stderr


EXISTING = """
import json, logging, sys
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from nodespan import configure
existing = TracerProvider()
trace.set_tracer_provider(existing)
tracer = existing.get_tracer("x")
"""


def test_an_existing_provider_is_kept_and_logged_and_can_be_attached_to_any_number_of_times(run_python):
    done = run_python(
        EXISTING
        + """
reports = []
def record(name, **arguments):
    with configure(service_name=name, **arguments) as telemetry:
        assert trace.get_tracer_provider() is existing
        tracer.start_span(name).end()
        report = telemetry.force_flush()
        reports.append([report.ended, report.stored, report.dropped])
record("kept")
for name in ("one", "two"):
    record(name, attach=True)
    tracer.start_span("between").end()
print(json.dumps(reports))
"""
    )
    assert json.loads(done.stdout) == [[0, 0, {}], [1, 1, {}], [1, 1, {}]]
    assert "TracerProvider" in done.stderr
    assert done.stderr.count("\n") == 1


def test_with_attach_and_an_endpoint_all_signals_are_sent_and_an_open_span_never_with_the_next_key(run_python):
    with OtlpReceiver() as receiver:
        done = run_python(
            EXISTING
            + """
def attached(key):
    return configure(endpoint=sys.argv[1], headers={"authorization": key}, attach=True)
before = tracer.start_span("before")
first = attached("key one")
metrics.get_meter("x").create_counter("attached.count").add(3)
logging.getLogger("nodespan").warning("attached")
left_open = tracer.start_span("open")
first.shutdown()
second = attached("key two")
for span in (left_open, before, tracer.start_span("new")):
    span.end()
print(json.dumps([second.shutdown().ended, first.force_flush(0).dropped]))
""",
            receiver.endpoint,
        )
        assert json.loads(done.stdout) == [2, {"already_shutdown": 1}]
        sent = sorted((span.name, headers["authorization"]) for span, headers in receiver.received)
        assert sent == [("before", "key two"), ("new", "key two")]
        assert "attached.count" in {metric.name for metric in receiver.metrics}
        assert "attached" in {record.body.string_value for record in receiver.log_records}


def test_the_meter_provider_of_the_program_is_used_and_a_provider_that_it_shut_down_records_again(run_python):
    done = run_python(
        EXISTING
        + """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from nodespan import semconv
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
telemetry = configure(attach=True)
for _ in range(7):
    tracer.start_span("work").end()
telemetry.force_flush()
data = json.loads(reader.get_metrics_data().to_json())
found = [m for r in data["resource_metrics"] for s in r["scope_metrics"] for m in s["metrics"]]
(processed,) = [m for m in found if m["name"] == semconv.SPANS_PROCESSED]
counts = [point["value"] for point in processed["data"]["data_points"]]
telemetry.shutdown()
tracer.start_span("not nodespan's").end()
reports = [counts, telemetry.force_flush(0).ended]
for _ in range(2):
    telemetry = configure(attach=True)
    tracer.start_span("work").end()
    existing.shutdown()
    report = telemetry.force_flush()
    reports.append([report.ended, report.stored, report.dropped])
print(json.dumps(reports))
"""
    )
    assert json.loads(done.stdout) == [[7], 7, [1, 1, {}], [1, 1, {}]]


def test_providers_set_after_everything_has_started_receive_what_follows(run_python):
    done = run_python(
        """
        import json
        from langchain_core.language_models import FakeListChatModel
        from langgraph.graph import START, StateGraph
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from nodespan import semconv
        from nodespan.instrumentation import instrument
        from nodespan.runner import PipelineFactory, Runner
        from nodespan.spans.instruments import get_instruments
        from nodespan.testing import EchoPipeline
        from nodespan.types import GenerationRequest, ModelProfile, ModelProfileType

        instrument()
        graph = StateGraph(dict).add_node("node", lambda state: state).add_edge(START, "node").compile()
        model = FakeListChatModel(responses=["good day"])
        factory = PipelineFactory({ModelProfileType.Primary: ModelProfile(name="echo")}, create=EchoPipeline)
        runner = Runner(factory)

        def work():
            graph.invoke({})
            model.invoke("hi")
            list(runner.stream_pipeline(GenerationRequest(prompt="a b")))
            get_instruments().record(semconv.EVICTIONS, 1, {semconv.REQUEST_MODEL: "m"})

        work()
        reader, exporter = InMemoryMetricReader(), InMemorySpanExporter()
        metrics.set_meter_provider(MeterProvider([reader]))
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        work()
        data = json.loads(reader.get_metrics_data().to_json())
        found = [m for r in data["resource_metrics"] for s in r["scope_metrics"] for m in s["metrics"]]
        counts = {m["name"]: [p.get("count", p.get("value")) for p in m["data"]["data_points"]] for m in found}
        print(json.dumps([sorted(span.name for span in exporter.get_finished_spans()), counts]))
        """
    )
    assert done.stderr == ""
    spans, counts = json.loads(done.stdout)
    workflow, call = ["invoke_node node", "invoke_workflow LangGraph"], ["pipeline.queue", "text_completion echo"]
    assert spans == ["chat", *workflow, *call]
    runs = {semconv.WORKFLOW_DURATION: [1], semconv.NODE_DURATION: [1]}
    calls = {semconv.OPERATION_DURATION: [1, 1], semconv.TOKEN_USAGE: [1, 1]}
    assert counts.items() >= {**runs, **calls, semconv.LOADED: [1], semconv.EVICTIONS: [1]}.items()
