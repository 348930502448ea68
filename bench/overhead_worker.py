"""A graph of ten trivial nodes, run in a separate environment, with one instrumentation or none.

Requires langgraph, the SDK, and the measured library. Reads requests as lines of JSON and prints a line for each:
``{"mode": "sync", "variant": "spans"}`` returns the time of a node in µs and the number of spans. nodespan is enabled
for each request; the other libraries stay enabled, as one of them cannot be disabled.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.pregel import _runner
from opentelemetry import context, trace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

NODES = 10
RUNS = 20  # of the graph per measurement
PEERS = {
    "OpenLLMetry": ("opentelemetry.instrumentation.langchain", "LangchainInstrumentor"),
    "OpenInference": ("openinference.instrumentation.langchain", "LangChainInstrumentor"),
}


class State(TypedDict):
    """The state of the nodes."""

    n: int


class Counting(SpanProcessor):
    """Counts ended spans and drops them."""

    accepts_lean_spans = True  # as for the processor of configure()

    def __init__(self) -> None:
        self.ended = 0
        self.node: ReadableSpan | None = None

    def on_end(self, span: ReadableSpan) -> None:
        """See ``SpanProcessor``."""
        self.ended += 1
        if span.name.startswith("invoke_node"):
            self.node = span


def step(state: State) -> dict[str, int]:
    return {"n": state["n"] + 1}


async def astep(state: State) -> dict[str, int]:
    return {"n": state["n"] + 1}


def chain(body: Callable[[State], Any]) -> Any:
    builder = StateGraph(State)
    names = [f"node{i}" for i in range(NODES)]
    for before, name in zip([START, *names], names, strict=False):
        builder.add_node(name, body)
        builder.add_edge(before, name)
    return builder.compile(name="ten")


class ByHand:
    """A node's span and its metric records, made with the SDK only."""

    def __init__(self, tracer: trace.Tracer, node: ReadableSpan, records: list[Callable[[], None]]) -> None:
        self._tracer = tracer
        self._name = node.name
        self._attributes = dict(node.attributes or {})
        self._records = records
        self._originals = _runner.run_with_retry, _runner.arun_with_retry

    def loop(self) -> None:
        """Makes the spans of all runs in a loop, below a parent span."""
        parent = self._tracer.start_span("parent")
        outer = context.attach(trace.set_span_in_context(parent))
        for _ in range(RUNS * NODES):
            span, token = self._start()
            self._end(span, token)
        context.detach(outer)
        parent.end()

    def put_in(self) -> None:
        """Wraps each node in the span."""
        original, aoriginal = self._originals

        def run_with_retry(*args: Any, **kwargs: Any) -> Any:
            span, token = self._start()
            try:
                return original(*args, **kwargs)
            finally:
                self._end(span, token)

        async def arun_with_retry(*args: Any, **kwargs: Any) -> Any:
            span, token = self._start()
            try:
                return await aoriginal(*args, **kwargs)
            finally:
                self._end(span, token)

        _runner.run_with_retry, _runner.arun_with_retry = run_with_retry, arun_with_retry

    def take_out(self) -> None:
        """Restores the graph."""
        _runner.run_with_retry, _runner.arun_with_retry = self._originals

    def _start(self) -> tuple[trace.Span, Any]:
        span = self._tracer.start_span(self._name, attributes=self._attributes)
        return span, context.attach(trace.set_span_in_context(span))

    def _end(self, span: trace.Span, token: Any) -> None:
        for record in self._records:
            record()
        context.detach(token)
        span.end()


class Worker:
    """Runs the graph in one of three ways, with a variant of nodespan enabled."""

    def __init__(self, library: str) -> None:
        self._counting = Counting()
        self._tracer_provider = TracerProvider(shutdown_on_exit=False)
        self._tracer_provider.add_span_processor(self._counting)
        self._no_meter_provider = NoOpMeterProvider()
        self._reader = InMemoryMetricReader()
        self._meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._our_tracer_provider, self._our_meter_provider = (
            configured(self._counting) if library == "nodespan" else (None, None)
        )
        if library in PEERS:
            instrument(library, self._tracer_provider)
        self._loop = asyncio.new_event_loop()
        self._sync, self._async = chain(step), chain(astep)
        self._ways: dict[str, Callable[[], None]] = {
            "sync": self._run_sync,
            "async": self._run_async,
            "events": self._run_events,
        }
        self._floors: dict[str, Callable[[], None]] = {}
        self._by_hand: dict[str, ByHand] = {}
        for way in self._ways.values():
            way()
        if library == "nodespan":
            self._take_floors()
        gc.collect()
        gc.freeze()

    def measure(self, mode: str, variant: str) -> dict[str, float]:
        """The time of a node, or of one iteration of a floor's loop, in µs."""
        work = self._floors[variant] if variant in self._floors else self._ways[mode]
        self._counting.ended = 0
        self._switch(variant, on=True)
        gc.collect()
        started = time.process_time()
        work()
        took = time.process_time() - started
        self._switch(variant, on=False)
        return {"us": took / (RUNS * NODES) * 1e6, "spans": self._counting.ended}

    @property
    def floors(self) -> list[str]:
        """Further variants of ``measure``."""
        return [*self._floors, *self._by_hand]

    def _switch(self, variant: str, *, on: bool) -> None:
        if variant in self._by_hand:
            (self._by_hand[variant].put_in if on else self._by_hand[variant].take_out)()
        if variant not in {"spans", "metrics", "metrics of the SDK"}:
            return
        import nodespan

        if not on:
            nodespan.uninstrument()
            return
        meter_provider = {
            "spans": self._no_meter_provider,
            "metrics": self._our_meter_provider,
            "metrics of the SDK": self._meter_provider,
        }[variant]
        nodespan.instrument(tracer_provider=self._our_tracer_provider, meter_provider=meter_provider)

    def _run_sync(self) -> None:
        for _ in range(RUNS):
            self._sync.invoke({"n": 0})

    def _run_async(self) -> None:
        async def runs() -> None:
            for _ in range(RUNS):
                await self._async.ainvoke({"n": 0})

        self._loop.run_until_complete(runs())

    def _run_events(self) -> None:
        async def runs() -> None:
            for _ in range(RUNS):
                async for _event in self._async.astream_events({"n": 0}, version="v2"):
                    pass

        self._loop.run_until_complete(runs())

    def _take_floors(self) -> None:
        """Reads a node's span and its metric records, and prepares the same work with the SDK only.

        A floor is measured in a tight loop. *By hand* the same work is done around each node of the graph, where the
        SDK's code and data are no longer in the processor's caches.
        """
        self.measure("sync", "metrics of the SDK")
        node = self._counting.node
        assert node is not None
        records = self._records()
        for name, wanted in (("spans", []), ("metrics", records)) if records else (("spans", []),):
            by_hand = ByHand(self._tracer_provider.get_tracer("floor"), node, wanted)
            self._floors[f"floor of {name}"] = by_hand.loop
            self._by_hand[f"{name} by hand"] = by_hand

    def _records(self) -> list[Callable[[], None]]:
        """Functions that record the values of a node once, on instruments of the same kind and labels."""
        meter = self._meter_provider.get_meter("floor")
        data: Any = self._reader.get_metrics_data()
        records: list[Callable[[], None]] = []
        for metric in [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []:
            if (labels := self._labels_of_nodes(metric)) is None:
                continue
            if hasattr(metric.data.data_points[0], "bucket_counts"):
                bounds = metric.data.data_points[0].explicit_bounds
                histogram = meter.create_histogram(metric.name, metric.unit, explicit_bucket_boundaries_advisory=bounds)
                records.append(lambda histogram=histogram, labels=labels: histogram.record(0.001, labels))
            else:
                counter = meter.create_up_down_counter(metric.name, metric.unit)
                records.append(lambda counter=counter, labels=labels: counter.add(1, labels))
        return records

    @staticmethod
    def _labels_of_nodes(metric: Any) -> dict[str, Any] | None:
        """Labels of one point, if the metric counts node executions."""
        points = metric.data.data_points
        counted = sum(getattr(point, "count", 0) or getattr(point, "value", 0) for point in points)
        return dict(points[0].attributes) if counted == RUNS * NODES else None


def configured(counting: Counting) -> tuple[Any, Any]:
    """The providers of ``configure()``, with a processor and an exporter without work."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanLimits
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON

    from nodespan.fastspan import NodespanTracerProvider
    from nodespan.telemetry.meter_provider import NodespanMeterProvider
    from nodespan.telemetry.tally import Tallies

    meter_provider = NodespanMeterProvider()
    exporter = NoExporter()
    tallies = Tallies()
    tallies.add_to(exporter)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    meter_provider.use(MeterProvider([reader], shutdown_on_exit=False), tallies)
    tracer_provider = NodespanTracerProvider(meter_provider)
    tracer_provider.apply(Resource({}), ALWAYS_ON, SpanLimits(), [counting])
    return tracer_provider, meter_provider


class NoExporter(MetricExporter):
    """Exports nothing."""

    def export(self, *_: Any, **__: Any) -> MetricExportResult:
        """See ``MetricExporter``."""
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """See ``MetricExporter``."""
        return True

    def shutdown(self, *_: Any, **__: Any) -> None:
        """See ``MetricExporter``."""


def instrument(library: str, tracer_provider: TracerProvider) -> None:
    """Enables one of the other libraries permanently."""
    module, kind = PEERS[library]
    getattr(importlib.import_module(module), kind)().instrument(tracer_provider=tracer_provider)


def main() -> None:
    worker = Worker(sys.argv[1])
    answers, sys.stdout = sys.stdout, sys.stderr  # output of libraries is not a result
    print(json.dumps({"floors": worker.floors}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.measure(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
