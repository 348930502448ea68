"""The time of searching the store: `python -m bench search` creates a store of 10^6 spans."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bench.measure import Figure, Size, percentile
from nodespan import semconv
from nodespan.otlp import Encoded
from nodespan.store import SqliteStore, StoreLimits, StoreReader, TraceFilter

TITLE = "Searching the store"
SPANS = {"quick": 2_000, "normal": 1_000_000, "full": 1_000_000}
SEARCHES = {"quick": 3, "normal": 100, "full": 500}
SECONDS_PER_KIND = 15.0
LIMIT = 20
SPANS_PER_TRACE, TRACES_PER_BATCH = 10, 6
SERVICES, WORKFLOWS, NODES, MODELS = 5, 20, 200, 10
STEP_NS = 100_000_000


def run(size: Size) -> list[Figure]:
    with TemporaryDirectory(prefix="nodespan-search-") as folder:
        store = SqliteStore(Path(folder) / "store.db", StoreLimits(max_bytes=2**33))
        trace_ids = fill(store, SPANS[size])
        spans = len(trace_ids) * SPANS_PER_TRACE
        reader = StoreReader(store)
        started = time.perf_counter()
        assert reader.find(TraceFilter(), LIMIT)
        fill_s = time.perf_counter() - started
        size_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        chance = random.Random(0)
        kinds: dict[str, Callable[[], object]] = {
            "newest": lambda: reader.find(TraceFilter(), LIMIT),
            "by service": lambda: reader.find(TraceFilter(service=service(chance.randrange(SERVICES))), LIMIT),
            "by node": lambda: reader.find(TraceFilter(node=node(chance.randrange(NODES))), LIMIT),
            "by model": lambda: reader.find(TraceFilter(model=model(chance.randrange(MODELS))), LIMIT),
            "get trace": lambda: reader.get(chance.choice(trace_ids)),
        }
        of = f"{spans:,} spans in {len(trace_ids):,} traces"
        found = [
            Figure("first fill of the index", fill_s, "s", of=of),
            Figure("size of the store, index included", size_bytes / 2**20, "MiB", of=of),
            *(p95(kind, search, SEARCHES[size], of) for kind, search in kinds.items()),
        ]
        store.close()
        return found


def p95(kind: str, search: Callable[[], object], searches: int, of: str) -> Figure:
    """The figure of a number of searches, fewer if time runs out."""
    search()
    took_ms: list[float] = []
    deadline = time.monotonic() + SECONDS_PER_KIND
    while len(took_ms) < searches and time.monotonic() < deadline:
        started = time.perf_counter()
        assert search()
        took_ms.append((time.perf_counter() - started) * 1e3)
    goal = "" if kind == "newest" else "<= 20"
    return Figure(f"{kind}, p95 of {len(took_ms)}", percentile(took_ms, 95), "ms", goal, of=of)


def fill(store: SqliteStore, spans: int) -> list[str]:
    """Stores this number of spans in batches; returns the ids of their traces."""
    chance = random.Random(1)
    trace_ids: list[str] = []
    end_ns = time.time_ns()
    batches = spans // (SPANS_PER_TRACE * TRACES_PER_BATCH)
    for i in range(batches):
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        named = of_resource.resource.attributes.add(key="service.name")
        named.value.string_value = service(chance.randrange(SERVICES))
        scope = of_resource.scope_spans.add()
        for _ in range(TRACES_PER_BATCH):
            trace_id = chance.randbytes(16)
            trace_ids.append(trace_id.hex())
            add_trace(scope.spans, trace_id, end_ns - (batches - i) * STEP_NS, chance)
        store.append(Encoded(request.SerializeToString(), SPANS_PER_TRACE * TRACES_PER_BATCH), None)
    return trace_ids


def add_trace(spans: Any, trace_id: bytes, start_ns: int, chance: random.Random) -> None:
    """A workflow with nodes, each of which calls a model."""
    workflow = f"workflow-{chance.randrange(WORKFLOWS)}"
    root = chance.randbytes(8)
    parent = b""
    for i in range(SPANS_PER_TRACE):
        span_id = chance.randbytes(8) if i else root
        if i == 0:
            name, attributes = f"invoke_workflow {workflow}", {semconv.WORKFLOW_NAME: workflow}
        elif i % 2:
            shown = node(chance.randrange(NODES))
            name, attributes = f"invoke_node {shown}", {semconv.NODE: shown, semconv.WORKFLOW_NAME: workflow}
        else:
            asked = model(chance.randrange(MODELS))
            name, attributes = f"chat {asked}", {semconv.REQUEST_MODEL: asked}
        span = spans.add(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=parent,
            name=name,
            start_time_unix_nano=start_ns + i,
            end_time_unix_nano=start_ns + STEP_NS - i,
        )
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
        parent = span_id if i % 2 else root


def service(i: int) -> str:
    return f"service-{i}"


def node(i: int) -> str:
    return f"node-{i}"


def model(i: int) -> str:
    return f"model-{i}"
