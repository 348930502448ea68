"""The cost of a span from its end to the wire, beside the SDK's batch processor and exporter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import nodespan
from bench.measure import Figure, Size, figure, interleaved, median, ratio_of_rounds
from bench.receiver import Receiver

TITLE = "From a span's end to the wire"
ROUNDS = {"quick": 2, "normal": 20, "full": 60}
SPANS = 4000
ATTRIBUTES: dict[str, Any] = {
    **{f"nodespan.text_{i}": f"a value of ordinary length, {i}" for i in range(6)},
    **{f"nodespan.count_{i}": i for i in range(3)},
    **{f"nodespan.seconds_{i}": i / 7 for i in range(2)},
    "nodespan.list": ["one", "two"],
}


def run(size: Size) -> list[Figure]:
    with Receiver() as receiver:
        sdk = TracerProvider(shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{receiver.endpoint}/v1/traces")
        sdk.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=SPANS + 1))
        with nodespan.configure("bench", endpoint=receiver.endpoint) as telemetry:
            variants = {
                "nodespan": cpu_us_per_span(receiver, trace.get_tracer_provider(), telemetry.force_flush),
                "sdk": cpu_us_per_span(receiver, sdk, sdk.force_flush),
            }
            columns = interleaved(variants, ROUNDS[size])
        sdk.shutdown()
    of = f"{SPANS} spans with {len(ATTRIBUTES)} attributes, all received"
    return [
        figure("nodespan: store and OTLP", "µs CPU/span", columns, median("nodespan"), of=of),
        figure("SDK: batch processor and OTLP", "µs CPU/span", columns, median("sdk"), of=of),
        figure("nodespan / SDK", "x", columns, ratio_of_rounds("nodespan", "sdk"), "<= 0.35", of),
    ]


def cpu_us_per_span(receiver: Receiver, provider: Any, force_flush: Callable[[], object]) -> Callable[[], float]:
    """CPU time of the whole process, all threads, from the first end to the last acceptance."""
    tracer = provider.get_tracer("bench")

    def once() -> float:
        spans = [tracer.start_span("work", attributes=ATTRIBUTES) for _ in range(SPANS)]
        started = time.process_time()
        for span in spans:
            span.end()
        flushed = force_flush()
        took_s = time.process_time() - started
        assert flushed, f"not flushed: {flushed}"
        received = receiver.spans()
        assert received == SPANS, f"{received} of {SPANS} spans were received"
        return took_s / SPANS * 1e6

    return once
