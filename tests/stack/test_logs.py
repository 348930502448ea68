"""Logs of the programs of the stack under real traffic."""

from __future__ import annotations

import json
from typing import Any

from stack_local import LocalStack

from stack_backends import Jaeger, Prometheus, eventually


def test_the_collector_s_log_has_no_error_and_nothing_deprecated(
    stack: LocalStack, jaeger: Jaeger, seeded: dict[str, Any], demo: str
) -> None:
    traces = [*(run["trace_id"] for run in seeded["runs"]), demo]
    eventually(lambda: [one for one in traces if not jaeger.trace(one)], lambda left: not left, "traces in Jaeger")
    lines = stack.log("collector").splitlines()
    assert len(lines) > 3
    bad = [line for line in lines if json.loads(line)["level"] not in {"debug", "info"} or "deprecated" in line.lower()]
    assert bad == []


def test_no_data_were_refused_or_lost(stack: LocalStack, prometheus: Prometheus, seeded: dict[str, Any]) -> None:
    del stack
    ended = seeded["delivery"]["ended"]
    eventually(
        lambda: prometheus.query('otelcol_exporter_sent_spans_total{exporter="otlp_grpc/jaeger"}'),
        lambda found: sum(value for _, value in found) >= ended,
        "spans that the collector reports as sent to Jaeger",
    )
    for lost in ("otelcol_receiver_refused_spans_total", "otelcol_receiver_refused_metric_points_total"):
        assert [value for _, value in prometheus.query(lost) if value] == []
    for failed in ("enqueue_failed", "send_failed"):
        for kind in ("spans", "metric_points", "log_records"):
            assert [value for _, value in prometheus.query(f"otelcol_exporter_{failed}_{kind}_total") if value] == []


def test_every_part_of_the_stack_is_up_and_every_rule_is_healthy(prometheus: Prometheus) -> None:
    jobs = {"prometheus", "otel-collector", "jaeger"}
    eventually(
        lambda: {labels["job"] for labels, value in prometheus.query("up") if value == 1}, jobs.issubset, "parts up"
    )
    rules = eventually(
        prometheus.rules, lambda rules: all(rule["health"] != "unknown" for rule in rules), "evaluated rules"
    )
    assert len(rules) > 8
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
