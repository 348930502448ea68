"""VictoriaMetrics and VictoriaLogs accept metrics and logs over OTLP with the committed configs."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from stack_local import LocalStack, Ports
from stack_programs import CONFIGS, HOST, Program, free_ports

import nodespan
from board_answers import Grafana, key, shows
from boards import asked
from expected_panels import AT_THE_END, AT_THEIR_HIGHEST, Run
from stack_backends import Jaeger, Prometheus, eventually

SEEDED = Path(__file__).parents[1] / "stack" / "seeded_run.py"
SEEDED_S = 300


@pytest.fixture(scope="module")
def logs_url() -> str:
    return f"http://{HOST}:{free_ports(1)[0]}"


@pytest.fixture(scope="module")
def stack(binaries: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, logs_url: str) -> Iterator[LocalStack]:
    """The stack with VictoriaMetrics in Prometheus' place and VictoriaLogs in Loki's: only addresses differ."""
    folder = tmp_path_factory.mktemp("victoria")
    stack = LocalStack(binaries, folder, Ports.free(), [CONFIGS / "overlays" / "loki.yaml"], interval="1s")
    metrics = [
        str(binaries["victoria-metrics"]),
        f"-storageDataPath={folder / 'victoria-metrics'}",
        f"-httpListenAddr={HOST}:{stack.ports.prometheus}",
        "-opentelemetry.usePrometheusNaming",
        f"-promscrape.config={folder / 'prometheus' / 'prometheus.yml'}",
        "-promscrape.config.strictParse=false",
        "-search.latencyOffset=0s",  # by default the last 30 s are not shown
    ]
    logs = [
        str(binaries["victoria-logs"]),
        f"-storageDataPath={folder / 'victoria-logs'}",
        f"-httpListenAddr={urllib.parse.urlsplit(logs_url).netloc}",
    ]
    collector = stack.programs["collector"]
    addresses = {
        "PROMETHEUS_OTLP_ENDPOINT": f"{stack.prometheus}/opentelemetry",
        "LOKI_OTLP_ENDPOINT": f"{logs_url}/insert/opentelemetry",
    }
    stack.programs = {
        "victoria-logs": Program(logs, {}, f"{logs_url}/health"),
        **stack.programs,
        "prometheus": Program(metrics, {}, f"{stack.prometheus}/health"),
        "collector": replace(collector, environment={**collector.environment, **addresses}),
    }
    with stack:
        yield stack


@pytest.fixture(scope="module")
def run(stack: LocalStack, smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The seeded run of the tests of the stack, with its spans from Jaeger."""
    folder = tmp_path_factory.mktemp("seeded")
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "NODESPAN_"))}
    given = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "1000",
        "NODESPAN_STORE": str(folder / "store.db"),
    }
    command = [sys.executable, str(SEEDED), str(smollm2)]
    ran = subprocess.run(
        command, env={**ours, **given}, cwd=folder, check=False, capture_output=True, text=True, timeout=SEEDED_S
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    printed: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    jaeger = Jaeger(stack.jaeger)
    traces = {one["trace_id"] for one in printed["runs"]}
    spans = eventually(
        lambda: [span for trace_id in traces for span in jaeger.trace(trace_id)],
        lambda spans: len(spans) == printed["delivery"]["ended"],
        "the seeded run's spans in Jaeger",
    )
    return Run(printed, spans, smollm2.stat().st_size)


def test_the_boards_on_victoriametrics_equal_the_run(stack: LocalStack, run: Run, table: list[str]) -> None:
    grafana = Grafana(Prometheus(stack.prometheus), run.printed)
    shown = 0
    for item in asked():
        if key(item) in AT_THE_END:
            shows(lambda item=item: grafana.at_the_end(item), AT_THE_END[key(item)](run), item)
            shown += 1
        elif key(item) in AT_THEIR_HIGHEST:
            shows(lambda item=item: grafana.at_their_highest(item), AT_THEIR_HIGHEST[key(item)](run), item)
            shown += 1
    table.append(f"VictoriaMetrics: {shown} queries of the boards show the seeded run's numbers")
    assert shown == len(AT_THE_END) + len(AT_THEIR_HIGHEST)


def test_jaeger_s_monitor_reads_victoriametrics(stack: LocalStack, run: Run) -> None:
    jaeger = Jaeger(stack.jaeger)
    nodes = {f"invoke_node {one['node']}" for one in run.printed["nodes"]}
    eventually(
        lambda: jaeger.monitor("calls", run.printed["service"]),
        lambda seen: nodes <= {operation for operation, values in seen.items() if any(values)},
        "calls of each node",
    )


def test_a_log_record_is_found_in_victorialogs_by_its_trace(stack: LocalStack, logs_url: str) -> None:
    secret = "sk-" + "a1B2" * 6
    with nodespan.configure(service_name="victoria-logs", endpoint=stack.endpoint) as telemetry:
        with trace.get_tracer("test").start_as_current_span("work") as span:
            trace_id = f"{span.get_span_context().trace_id:032x}"
            logging.getLogger("nodespan").warning("the river is high, key %s", secret)
        telemetry.force_flush(10)

    def found() -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": f'trace_id:"{trace_id}"'})
        with urllib.request.urlopen(f"{logs_url}/select/logsql/query?{query}", timeout=10) as answer:
            return [json.loads(line) for line in answer.read().splitlines()]

    [record] = eventually(found, lambda records: len(records) == 1, "the log record in VictoriaLogs")
    assert record["_msg"].startswith("the river is high")
    assert secret not in json.dumps(record)
    assert record["service.name"] == "victoria-logs"
