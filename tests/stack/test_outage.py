"""Jaeger or the collector is killed in the middle of a load: every delivered span is in Jaeger.

While Jaeger is down and the collector's queue is full, the collector refuses spans, and Prometheus shows that.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from stack_local import LocalStack, Ports
from stack_programs import CONFIGS, STOP_S

from nodespan.telemetry import Telemetry, configure
from stack_backends import Jaeger, Prometheus, eventually

SPANS_PER_TRACE = 50
PAUSE_S = 0.1  # 500 spans a second, what some ten busy workflows make
STEP = 500
KILLS = 2
DELIVERY_S = 120.0  # the sender's own pause after a failed try grows to 30 s


class Load:
    """Ends spans in a thread until it is stopped, and keeps their ids."""

    def __init__(self) -> None:
        self.ended: dict[str, set[str]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        tracer = trace.get_tracer("outage")
        while not self._stopping.wait(PAUSE_S):
            with tracer.start_as_current_span("load") as root:
                trace_id = f"{root.get_span_context().trace_id:032x}"
                ids = {f"{root.get_span_context().span_id:016x}"}
                for number in range(SPANS_PER_TRACE - 1):
                    with tracer.start_as_current_span("work", attributes={"number": number}) as span:
                        ids.add(f"{span.get_span_context().span_id:016x}")
            self.ended[trace_id] = ids


@pytest.fixture
def pair(programs: dict[str, Path], tmp_path: Path) -> Iterator[LocalStack]:
    """A Jaeger and a collector of this test's own."""
    stack = LocalStack(programs, tmp_path / "stack", Ports.free(), interval="1s")
    try:
        stack.start("jaeger")
        stack.start("collector")
        yield stack
    finally:
        stack.stop()


def wait_for_exported(telemetry: Telemetry, count: int) -> None:
    """Waits until this number of spans is reported delivered."""
    # force_flush only reads and wakes the sender here; the count includes all spans.
    eventually(
        lambda: telemetry.force_flush(0).exported, lambda exported: exported >= count, f"{count} spans delivered"
    )


@pytest.mark.parametrize("victim", ["jaeger", "collector"])
def test_after_a_kill_every_delivered_span_is_in_jaeger(pair: LocalStack, victim: str) -> None:
    with configure(service_name=f"outage-{victim}", endpoint=pair.endpoint) as telemetry:
        with Load() as load:
            for _ in range(KILLS):
                before = telemetry.force_flush(0)
                wait_for_exported(telemetry, before.exported + STEP)
                pair.kill(victim)
                eventually(
                    lambda: telemetry.force_flush(0).ended,
                    lambda ended, least=before.ended + 2 * STEP: ended >= least,
                    "load while it is away",
                )
                pair.start(victim)
        report = telemetry.force_flush(DELIVERY_S)

    assert (report.waiting, report.dropped) == (0, {})
    assert report.exported == report.ended == sum(len(ids) for ids in load.ended.values()) > KILLS * STEP
    nothing_missing(pair, load)


def nothing_missing(stack: LocalStack, load: Load) -> None:
    """Jaeger has, or soon has, every span of the load."""
    jaeger = Jaeger(stack.jaeger)

    def missing() -> dict[str, set[str]]:
        seen = {trace_id: {span.span_id for span in jaeger.trace(trace_id)} for trace_id in load.ended}
        return {trace_id: left for trace_id, ids in load.ended.items() if (left := ids - seen[trace_id])}

    eventually(missing, lambda left: not left, "delivered spans that Jaeger does not have", patience_s=DELIVERY_S)


@pytest.fixture
def agent(programs: dict[str, Path], pair: LocalStack, tmp_path: Path) -> Iterator[str]:
    """A collector as on a host of its own, for which the pair's is the gateway; the address it listens at."""
    ports = Ports.free()
    environment = {
        "GATEWAY_OTLP_ENDPOINT": f"127.0.0.1:{pair.ports.otlp_grpc}",
        "GATEWAY_INSECURE": "true",
        "OTELCOL_STATE_DIR": str(tmp_path / "agent"),
        "OTELCOL_GRPC_PORT": str(ports.otlp_grpc),
        "OTELCOL_HTTP_PORT": str(ports.otlp_http),
        "OTELCOL_HEALTH_PORT": str(ports.collector_health),
        "OTELCOL_METRICS_PORT": str(ports.collector_metrics),
    }
    command = [programs["otelcol"], f"--config={CONFIGS / 'scale-out' / 'agent.yaml'}"]
    with (tmp_path / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{ports.otlp_http}"
    finally:
        process.terminate()
        process.wait(STOP_S)


def test_an_agent_keeps_spans_while_the_gateway_is_away(pair: LocalStack, agent: str) -> None:
    pair.kill("collector")
    with configure(service_name="agent", endpoint=agent) as telemetry:
        with Load() as load:
            eventually(lambda: telemetry.force_flush(0).ended, lambda ended: ended >= STEP, "load")
        report = telemetry.force_flush(DELIVERY_S)  # to the agent
    assert (report.exported, report.waiting, report.dropped) == (report.ended, 0, {})
    pair.start("collector")
    nothing_missing(pair, load)


@pytest.fixture
def full(programs: dict[str, Path], tmp_path: Path) -> Iterator[LocalStack]:
    """A collector whose queue for Jaeger holds two requests, Prometheus, and no Jaeger."""
    tiny = {"exporters": {"otlp_grpc/jaeger": {"sending_queue": {"queue_size": 2, "batch": None}}}}
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(json.dumps(tiny))  # JSON is YAML
    stack = LocalStack(programs, tmp_path / "stack", Ports.free(), [overlay], interval="1s")
    try:
        stack.start("prometheus")
        stack.start("collector")
        yield stack
    finally:
        stack.stop()


def test_a_full_queue_refuses_and_raises_the_alerts_and_the_refused_spans_wait(full: LocalStack) -> None:
    expected = {"CollectorQueueNearlyFull", "CollectorRefusing", "StackPartDown"}
    prometheus = Prometheus(full.prometheus)
    with configure(service_name="refused", endpoint=full.endpoint) as telemetry:
        with Load():
            eventually(
                lambda: {one["alertname"] for one in prometheus.alerts()}, expected.issubset, "alerts of a full queue"
            )
        waiting = telemetry.force_flush(0).waiting
        assert waiting > 0  # refused, and kept in the store
        full.start("jaeger")
        report = telemetry.force_flush(DELIVERY_S)
    assert (report.exported, report.waiting, report.dropped) == (report.ended, 0, {})
