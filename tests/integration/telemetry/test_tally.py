"""Histograms that nodespan counts itself are exported with the points that the SDK would have made."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from nodespan import semconv
from nodespan.errors import ConfigurationError
from nodespan.telemetry import configure
from nodespan.telemetry.meter_provider import NodespanMeterProvider
from nodespan.telemetry.tally import Tallies
from otlp_receiver import OtlpReceiver

BOUNDS = (0.1, 1.0, 10.0)


class Kept(MetricExporter):
    """Keeps the last export."""

    last: Any = None

    def export(self, metrics_data: Any, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        self.last = metrics_data
        return MetricExportResult.SUCCESS

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        pass

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True


class Recorder:
    """A histogram of nodespan's scope, with or without tallies behind it."""

    def __init__(self, *, is_tallied: bool) -> None:
        self.exporter = Kept()
        self.tallies = Tallies() if is_tallied else None
        if self.tallies is not None:
            self.tallies.add_to(self.exporter)
        reader = PeriodicExportingMetricReader(self.exporter, export_interval_millis=math.inf)
        self.sdk = MeterProvider([reader], shutdown_on_exit=False)
        self.provider = NodespanMeterProvider()
        self.provider.use(self.sdk, self.tallies)
        meter = self.provider.get_meter(semconv.SCOPE)
        self.histogram = meter.create_histogram("h", "s", "what", explicit_bucket_boundaries_advisory=BOUNDS)
        self.others = self.provider.get_meter("mine").create_histogram("h", "s")

    def points(self) -> list[tuple[Any, ...]]:
        self.sdk.force_flush()
        assert self.exporter.last is not None
        return sorted(map(facts, points(self.exporter.last)))


def points(data: Any) -> list[Any]:
    return [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        if scope.scope.name == semconv.SCOPE
        for metric in scope.metrics
        for point in metric.data.data_points
    ]


class Sum(float):
    """A sum of floats, equal to one in another order with other rounding."""

    def __eq__(self, other: object) -> bool:
        return self is other or pytest.approx(float(self), rel=1e-12, nan_ok=True) == other

    __hash__ = float.__hash__


def facts(point: Any) -> tuple[Any, ...]:
    exemplars = [(one.value, one.span_id, one.trace_id, one.filtered_attributes or {}) for one in point.exemplars]
    return (
        sorted(dict(point.attributes).items(), key=str),
        point.count,
        Sum(point.sum),
        list(point.bucket_counts),
        list(point.explicit_bounds),
        point.min,
        point.max,
        exemplars,
    )


LABELS = [{"node": "a", "status": "ok"}, {"status": "ok", "node": "a"}, {"node": "b"}, {}]
VALUES = st.sampled_from([0, 0.1, 0.10001, 1.0, 5, 10.0, 11, 1e9]) | st.floats(0, 100) | st.integers(0, 50)
RECORDS = st.lists(st.tuples(st.sampled_from(LABELS), VALUES, st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(RECORDS, RECORDS)
def test_points_and_exemplars_equal_those_of_the_sdk(before, after):
    sampled = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    span = trace.set_span_in_context(NonRecordingSpan(sampled), Context())
    plain, tallied = Recorder(is_tallied=False), Recorder(is_tallied=True)
    for records in (before, after):
        for labels, value, is_in_span in records:
            for recorder in (plain, tallied):
                recorder.histogram.record(value, labels, span if is_in_span else Context())
        # The SDK's reservoir forgets its exemplars with each collection, and so does the tally.
        assert tallied.points() == plain.points()


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_unusual_values_equal_those_of_the_sdk(value):
    plain, tallied = Recorder(is_tallied=False), Recorder(is_tallied=True)
    for recorder in (plain, tallied):
        for each in (1.0, value, 1.0):
            recorder.histogram.record(each, {"a": 1})
    assert tallied.points() == plain.points()


def test_values_beyond_the_cardinality_limit_are_counted():
    plain, tallied = Recorder(is_tallied=False), Recorder(is_tallied=True)
    for recorder in (plain, tallied):
        for _ in range(2):
            for label in range(2_100):
                recorder.histogram.record(1.0, {"label": label})
    assert sum(point[1] for point in tallied.points()) == sum(point[1] for point in plain.points()) == 4_200
    assert tallied.points() == plain.points()


def test_other_histograms_use_the_sdk():
    tallied = Recorder(is_tallied=True)
    assert type(tallied.others._behind).__module__.startswith("opentelemetry.sdk")
    assert not type(tallied.histogram._behind).__module__.startswith("opentelemetry.sdk")


def test_a_reader_added_late_has_later_values_and_the_exporter_all():
    tallied = Recorder(is_tallied=True)
    for _ in range(5):
        tallied.histogram.record(1.0, {"a": 1})
    late = InMemoryMetricReader()
    tallied.provider.add_metric_reader(late)
    for _ in range(3):
        tallied.histogram.record(2.0, {"a": 1})
    assert [(point.count, point.sum) for point in points(late.get_metrics_data())] == [(3, 6.0)]
    assert [(point[1], point[2]) for point in tallied.points()] == [(8, 11.0)]


def test_a_reader_cannot_be_added_without_a_recording_provider():
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        NodespanMeterProvider().add_metric_reader(InMemoryMetricReader())


def test_a_forked_child_counts_only_its_own_values():
    tallied = Recorder(is_tallied=True)
    for _ in range(5):
        tallied.histogram.record(1.0, {"a": 1})
    child = os.fork()
    if child == 0:
        # The first value is with the SDK, which keeps it over a fork, as it does with all of its own.
        tallied.histogram.record(1.0, {"a": 1})
        tallied.histogram.record(1.0, {"a": 1})
        counts = [point[1] for point in tallied.points()]
        os._exit(0 if counts == [3] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [point[1] for point in tallied.points()] == [5]


@pytest.mark.parametrize(
    ("variable", "value", "is_usable"),
    [
        ("OTEL_METRICS_EXEMPLAR_FILTER", "always_on", False),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "DELTA", False),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Cumulative", True),
        ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram", False),
    ],
)
def test_tallies_are_used_only_where_points_can_be_joined(monkeypatch, variable, value, is_usable):
    assert Tallies.usable([Kept()])
    assert not Tallies.usable([Kept(), Kept()])
    monkeypatch.setenv(variable, value)
    assert Tallies.usable([Kept()]) is is_usable


def test_a_configured_program_exports_exact_counts_over_two_configurations():
    for expected in (7, 4):
        with OtlpReceiver() as receiver:
            with configure("app", endpoint=receiver.endpoint):
                meter = metrics.get_meter(semconv.SCOPE)
                histogram = meter.create_histogram("h", "s", explicit_bucket_boundaries_advisory=BOUNDS)
                for _ in range(expected):
                    histogram.record(0.5, {"a": 1})
            counts = [
                point.count for each in receiver.metrics if each.name == "h" for point in each.histogram.data_points
            ]
        assert counts == [expected]
