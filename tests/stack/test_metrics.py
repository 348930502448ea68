"""Every metric of the table of names is in Prometheus, with the table's name and labels, and with the run's numbers."""

from __future__ import annotations

from typing import Any

import pytest

from nodespan import semconv
from nodespan._name import Name
from nodespan.semconv import NAMES
from stack_backends import Jaeger, Prometheus, SeenSpan, eventually

METRICS = [name for name in NAMES.values() if name.kind == "metric"]
# Not emitted by real runs without internal errors.
SILENT = {semconv.TELEMETRY_ERRORS}
# Labels of every series: the sender, and the bucket of a histogram.
COMMON = {"__name__", "job", "instance", "service_name", "le"}
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def label(attribute: str) -> str:
    return attribute.replace(".", "_")


def series_names(metric: Name) -> list[str]:
    parts = HISTOGRAM_PARTS if metric.type == "histogram" else ("",)
    return [metric.prometheus_name + part for part in parts]


@pytest.fixture(scope="module", autouse=True)
def arrived(prometheus: Prometheus, seeded: dict[str, Any], demo: str) -> None:
    """The last thing that the seeded run measured is in Prometheus."""
    del demo
    calls = semconv.NAMES[semconv.OPERATION_DURATION].prometheus_name
    expected = sum(model["calls"] for model in seeded["models"].values())
    eventually(
        lambda: prometheus.query(f'sum({calls}_count{{service_name="{seeded["service"]}"}})'),
        lambda found: found and found[0][1] == expected,
        f"{expected} model calls in Prometheus",
    )


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_its_name_and_labels_in_prometheus(prometheus: Prometheus, metric: Name) -> None:
    if metric.name in SILENT:
        assert prometheus.series(metric.prometheus_name) == []
        return
    for name in series_names(metric):
        series = [one for one in prometheus.series(name) if one["service_name"].startswith("nodespan-")]
        assert series, f"{name} is not in Prometheus"
        unknown = {key for one in series for key in one} - {label(key) for key in metric.labels} - COMMON
        assert unknown == set()


def value(prometheus: Prometheus, seeded: dict[str, Any], metric: str, part: str = "", **labels: str) -> float:
    """The sum over the series of the seeded run that have these labels."""
    matchers = {"service_name": seeded["service"], **{label(key): text for key, text in labels.items()}}
    selector = ", ".join(f'{key}="{text}"' for key, text in matchers.items())
    [(_, found)] = prometheus.query(f"sum({NAMES[metric].prometheus_name}{part}{{{selector}}})")
    return found


def test_a_model_s_tokens_and_times_are_those_of_its_runs(prometheus: Prometheus, seeded: dict[str, Any]) -> None:
    for model, facts in seeded["models"].items():

        def of_model(metric: str, part: str = "", model: str = model, **labels: str) -> float:
            return value(prometheus, seeded, metric, part, **{semconv.REQUEST_MODEL: model, **labels})

        assert of_model(semconv.OPERATION_DURATION, "_count") == facts["calls"]
        assert of_model(semconv.LOAD_DURATION, "_count") == facts["loads"]
        assert of_model(semconv.CACHED_TOKENS) == facts["cached_input_tokens"]
        assert of_model(semconv.PREFILL_TOKENS) == facts["input_tokens"] - facts["cached_input_tokens"]
        assert of_model(semconv.DECODE_TOKENS) == facts["output_tokens"] - facts["calls"]
        for kind in ("input", "output"):
            labels = {semconv.TOKEN_TYPE: kind}
            assert of_model(semconv.TOKEN_USAGE, "_sum", **labels) == facts[f"{kind}_tokens"]
        for metric, key in (
            (semconv.PREFILL_DURATION, "prompt_eval_s"),
            (semconv.DECODE_DURATION, "decode_s"),
            (semconv.LOAD_DURATION, "load_s"),
            (semconv.QUEUE_DURATION, "queue_s"),
        ):
            assert of_model(metric, "_sum") == pytest.approx(facts[key])
        for priority, calls in facts["by_priority"].items():
            assert of_model(semconv.QUEUE_DURATION, "_count", **{semconv.PRIORITY: priority}) == calls
        for reason, calls in facts["finish_reasons"].items():
            assert of_model(semconv.OPERATION_DURATION, "_count", **{semconv.FINISH_REASON: reason}) == calls


def test_a_workflow_s_and_a_node_s_counts_are_those_of_the_run(prometheus: Prometheus, seeded: dict[str, Any]) -> None:
    for one in seeded["nodes"]:
        labels = {semconv.WORKFLOW_NAME: one["workflow"], semconv.NODE: one["node"], semconv.STATUS: one["status"]}
        assert value(prometheus, seeded, semconv.NODE_DURATION, "_count", **labels) == one["count"]
    for one in seeded["retries"]:
        labels = {semconv.WORKFLOW_NAME: one["workflow"], semconv.NODE: one["node"]}
        assert value(prometheus, seeded, semconv.NODE_RETRIES, **labels) == one["count"]
    runs = [(run["workflow"], run["status"]) for run in seeded["runs"]]
    for workflow, status in set(runs):
        labels = {semconv.WORKFLOW_NAME: workflow, semconv.STATUS: status}
        assert value(prometheus, seeded, semconv.WORKFLOW_DURATION, "_count", **labels) == runs.count(
            (workflow, status)
        )
        assert value(prometheus, seeded, semconv.WORKFLOW_ACTIVE, **{semconv.WORKFLOW_NAME: workflow}) == 0
    interrupted = sum(status == "interrupted" for _, status in runs)
    assert value(prometheus, seeded, semconv.WORKFLOW_INTERRUPTS) == interrupted > 0


def test_waiting_requests_and_the_eviction_are_counted(prometheus: Prometheus, seeded: dict[str, Any]) -> None:
    queue = NAMES[semconv.QUEUE_LENGTH].prometheus_name
    for priority, waiting in seeded["queue_seen"].items():
        selector = f'{{service_name="{seeded["service"]}", {label(semconv.PRIORITY)}="{priority}"}}'
        [(_, most)] = prometheus.query(f"max(max_over_time({queue}{selector}[1h]))")
        assert most == waiting
    assert value(prometheus, seeded, semconv.EVICTIONS) == seeded["evictions"] == 1


def test_an_exemplar_leads_to_its_span_in_jaeger(
    prometheus: Prometheus, jaeger: Jaeger, seeded: dict[str, Any]
) -> None:
    traces = {run["trace_id"] for run in seeded["runs"]}
    for metric in (semconv.OPERATION_DURATION, semconv.DECODE_DURATION, semconv.NODE_DURATION):
        selector = f'{NAMES[metric].prometheus_name}_bucket{{service_name="{seeded["service"]}"}}'
        found = eventually(lambda of=selector: prometheus.exemplars(of), lambda found: found, f"exemplars of {metric}")
        for exemplar in found:
            labels = exemplar["labels"]
            assert labels["trace_id"] in traces

            def spans(labels: dict[str, str] = labels) -> list[SeenSpan]:
                return [span for span in jaeger.trace(labels["trace_id"]) if span.span_id == labels["span_id"]]

            assert len(eventually(spans, lambda spans: spans, f"the span of an exemplar of {metric}")) == 1


def test_counters_begin_at_zero_so_that_their_first_event_is_an_increase(
    prometheus: Prometheus, seeded: dict[str, Any]
) -> None:
    name = NAMES[semconv.LOAD_DURATION].prometheus_name
    selector = f'{name}_count{{service_name="{seeded["service"]}", gen_ai_request_model="second"}}'
    [(_, loads)] = prometheus.query(f"increase({selector}[1h])")
    assert loads > 0


def test_the_node_that_fails_raises_the_alert(prometheus: Prometheus, seeded: dict[str, Any]) -> None:
    [failing] = [one for one in seeded["nodes"] if one["status"] == "error"]
    found = eventually(
        lambda: [one for one in prometheus.alerts() if one["alertname"] == "NodeErrorRatio"],
        lambda found: found,
        "the alert",
    )
    assert [(one["gen_ai_workflow_name"], one["gen_ai_node_name"]) for one in found] == [
        (failing["workflow"], failing["node"])
    ]
