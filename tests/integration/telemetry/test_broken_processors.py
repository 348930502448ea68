"""Span processors of the program that raise. In programs of their own, since a processor stays on its provider."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("method", ["on_start", "_on_ending", "on_end"])
def test_an_error_of_a_processor_does_not_affect_other_processors(method, run_python):
    done = run_python(
        """
        import sys, nodespan
        from opentelemetry import trace
        from opentelemetry.sdk.trace import SpanProcessor
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from nodespan.spans.scope import SpanScope, get_tracer

        def fail(*_arguments, **_options):
            raise ValueError

        telemetry, exporter = nodespan.configure(), InMemorySpanExporter()
        provider = trace.get_tracer_provider()
        provider.add_span_processor(type("Broken", (SpanProcessor,), {sys.argv[1]: fail})())
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        for _ in range(3):
            SpanScope(get_tracer(), "work").finish()
        print(telemetry.force_flush().stored, len(exporter.get_finished_spans()))
        """,
        method,
    )
    assert done.stdout.strip() == "3 3"
    assert done.stderr.count("nodespan failed to call a span processor of the program") == 1
