"""Providers and processors that are not nodespan's, each in a process of its own, since a provider is set once."""

from __future__ import annotations

import pytest

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
