"""The throughput of the chain on this machine, and the cost of a span at each hop."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from scale_chain import GATEWAYS, Chain
from stack_programs import HOST

from scale_load import Count, Programs, cpu_s
from stack_backends import eventually

HOPS = ("agent", "kafka", *GATEWAYS, "jaeger", "prometheus")
SPANS = 100_000
PER_REQUEST = 500
PER_TRACE = 50
MEASURED_S = 6.0
ARRIVED_S = 300.0
TEXTS = 8
NUMBERS = 4


@dataclass
class Cost:
    """Processor time of each hop between two moments."""

    seconds: dict[str, float] = field(default_factory=dict)
    wall_s: float = 0.0

    def per_span(self, spans: int) -> dict[str, float]:
        """Microseconds per span; the gateways together."""
        micros = {hop: 1e6 * used / spans for hop, used in self.seconds.items()}
        return {
            "agent": micros["agent"],
            "broker": micros["kafka"],
            "gateways": sum(micros[name] for name in GATEWAYS),
            "Jaeger": micros["jaeger"],
            "Prometheus": micros["prometheus"],
        }


@contextmanager
def measured(chain: Chain) -> Iterator[Cost]:
    cost = Cost()
    before, started = {hop: cpu_s(chain.pid(hop)) for hop in HOPS}, time.monotonic()
    yield cost
    cost.wall_s = time.monotonic() - started
    cost.seconds = {hop: cpu_s(chain.pid(hop)) - before[hop] for hop in HOPS}


def bytes_in(folder: Path) -> int:
    """The size of a folder's files on disk."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def requests(spans: int) -> list[bytes]:
    """OTLP requests with spans of 12 attributes, 50 of each trace."""
    bodies: list[bytes] = []
    now = time.time_ns()
    for first in range(0, spans, PER_REQUEST):
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        of_resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value="replay")))
        scope = of_resource.scope_spans.add()
        scope.scope.name = "replay"
        trace_id = b""
        for number in range(first, min(first + PER_REQUEST, spans)):
            if number % PER_TRACE == 0:
                trace_id = os.urandom(16)
            span = scope.spans.add(
                trace_id=trace_id, span_id=os.urandom(8), name=f"chat model-{number % 3}", kind=1,
                start_time_unix_nano=now, end_time_unix_nano=now + 1_000_000,
            )  # fmt: skip
            for index in range(TEXTS):
                text = AnyValue(string_value=f"a value of a text {index} {number % 100}")
                span.attributes.append(KeyValue(key=f"gen_ai.text_{index}", value=text))
            for index in range(NUMBERS):
                span.attributes.append(KeyValue(key=f"gen_ai.number_{index}", value=AnyValue(double_value=number / 7)))
        bodies.append(request.SerializeToString())
    return bodies


def send(port: int, bodies: list[bytes]) -> None:
    """Post all, each until the agent accepts it."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    for body in bodies:
        while True:
            connection.request("POST", "/v1/traces", body, {"Content-Type": "application/x-protobuf"})
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                break
            assert response.status in {429, 503}, response.status
            time.sleep(0.1)  # the pause before it tries again
    connection.close()


def test_a_burst_arrives_completely_and_the_cost_of_each_hop_is_measured(
    chain: Chain, count: Count, table: list[str]
) -> None:
    count.wait_until_still()
    bodies = requests(SPANS)
    folders = {"broker": chain.folder / "kafka", "Jaeger": chain.folder / "jaeger"}
    disk_before = {name: bytes_in(folder) for name, folder in folders.items()}
    before = count.counters.into_jaeger()
    with measured(chain) as cost:
        started = time.monotonic()
        send(chain.ports["agent"].otlp_http, bodies)
        accepted_s = time.monotonic() - started
        eventually(count.counters.into_jaeger, lambda now: now - before >= SPANS, "the burst in Jaeger", ARRIVED_S)
    count.wait_until_still()
    assert count.counters.into_jaeger() - before == SPANS
    per_span = cost.per_span(SPANS)
    size = sum(map(len, bodies)) / SPANS
    table.append(
        f"burst of {SPANS} spans of {size:.0f} bytes: accepted by the agent at {SPANS / accepted_s:.0f}/s, "
        f"in Jaeger at {SPANS / cost.wall_s:.0f}/s"
    )
    for hop, micros in per_span.items():
        table.append(f"  {hop:<12} {micros:>6.1f} us of CPU per span, {1e6 / max(micros, 0.1):>8.0f} spans/s and core")
    on_disk = {name: (bytes_in(folder) - disk_before[name]) / SPANS for name, folder in folders.items()}
    table.append("  bytes on disk per span: " + ", ".join(f"{name} {size:.0f}" for name, size in on_disk.items()))
    table.append(f"  bottleneck: {max(per_span, key=lambda hop: per_span[hop])}")
    assert SPANS / cost.wall_s > 1000


@pytest.mark.parametrize("programs_count", [1, 2, 4, 8])
def test_programs_at_full_speed(
    programs_count: int, chain: Chain, count: Count, tmp_path: Path, table: list[str]
) -> None:
    programs = Programs(chain.endpoint, tmp_path, programs_count, f"speed-{programs_count}")
    try:
        programs.start()
        count.wait_until_still()
        before = count.counters.into_jaeger()
        with measured(chain) as cost:
            with programs.running("speed", 0.0) as sent:
                time.sleep(MEASURED_S)
            eventually(
                count.counters.into_jaeger, lambda now: now - before >= sent.count, "all spans in Jaeger", ARRIVED_S
            )
    finally:
        programs.stop()
    made_s = max(report["produced_s"] for report in sent.reports)
    program_us = 1e6 * sum(report["cpu_s"] for report in sent.reports) / sent.count
    costs = ", ".join(f"{hop} {micros:.0f}" for hop, micros in cost.per_span(sent.count).items())
    table.append(
        f"{programs_count} programs: {sent.count / made_s:>6.0f} spans/s made, {sent.count / cost.wall_s:>6.0f}/s to "
        f"Jaeger; us of CPU per span: program {program_us:.0f}, {costs}"
    )
    assert sum(report["exported"] for report in sent.reports) == sent.count
