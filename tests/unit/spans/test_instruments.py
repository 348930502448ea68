"""Instruments: as in the table, once per provider, safe during garbage collection, and never blocking."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from dataclasses import dataclass

import pytest
from opentelemetry.metrics import MeterProvider as AnyMeterProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from nodespan import semconv
from nodespan.spans import guard
from nodespan.spans.instruments import Instruments, get_instruments
from nodespan.spans.scope import SpanScope

MODEL = {semconv.REQUEST_MODEL: "m"}
METRICS = [name for name in semconv.NAMES.values() if name.kind == "metric"]


class Source:
    def __init__(self, value):
        self.value = value


def read(source):
    return [(source.value, MODEL)]


@pytest.mark.parametrize("name", METRICS, ids=lambda name: name.name)
def test_each_instrument_is_as_in_the_table(name, measured):
    instruments = get_instruments(measured.provider)
    if name.type.startswith("observable"):
        source = Source(1)
        instruments.observe(source, {name.name: read})
    else:
        instruments.record(name.name, 1, MODEL)
    data = measured.reader.get_metrics_data()
    assert data is not None
    (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
    assert (metric.name, metric.unit, metric.description) == (name.name, name.unit, name.meaning)
    kinds = {
        "histogram": ("Histogram", None),
        "counter": ("Sum", True),
        "observable counter": ("Sum", True),
        "updowncounter": ("Sum", False),
        "observable updowncounter": ("Sum", False),
        "observable gauge": ("Gauge", None),
    }
    assert (type(metric.data).__name__, getattr(metric.data, "is_monotonic", None)) == kinds[name.type]
    assert data.resource_metrics[0].scope_metrics[0].scope.name == semconv.SCOPE


@pytest.mark.parametrize("name", METRICS, ids=lambda name: name.name)
def test_names_units_and_buckets_are_valid_for_the_sdk_and_prometheus(name):
    assert name.buckets == tuple(sorted(set(name.buckets)))
    assert bool(name.buckets) == (name.type == "histogram")
    assert name.prometheus_name.replace("_", "").isalnum()
    assert not any(label.endswith(("id", ".span", ".trace")) for label in name.labels)


def test_names_in_prometheus():
    arrived = {
        semconv.OPERATION_DURATION: "gen_ai_client_operation_duration_seconds",
        semconv.TOKEN_USAGE: "gen_ai_client_token_usage",
        semconv.NODE_RETRIES: "nodespan_node_retries_total",
        semconv.WORKFLOW_ACTIVE: "nodespan_workflow_active",
        semconv.CONTEXT_UTILIZATION: "nodespan_llama_cpp_context_utilization",
        semconv.MODEL_SIZE: "nodespan_llama_cpp_model_size_bytes",
    }
    assert {name: semconv.NAMES[name].prometheus_name for name in arrived} == arrived


def test_there_is_one_set_of_instruments_per_provider(measured):
    assert get_instruments(measured.provider) is get_instruments(measured.provider)
    assert get_instruments(measured.provider) is not get_instruments(NoOpMeterProvider())


def test_an_unhashable_provider_is_supported():
    @dataclass
    class Equal(NoOpMeterProvider):
        pass

    one, other = Equal(), Equal()
    assert one == other
    assert get_instruments(one) is get_instruments(one)
    assert get_instruments(one) is not get_instruments(other)


def test_instruments_are_dropped_with_an_api_provider():
    provider = NoOpMeterProvider()
    instruments = weakref.ref(get_instruments(provider))
    assert instruments() is not None
    del provider
    gc.collect()
    assert instruments() is None


def test_concurrent_threads_receive_the_same_instruments(measured, caplog):
    together = threading.Barrier(8)
    got: list[Instruments] = []

    def ask():
        together.wait()
        got.append(get_instruments(measured.provider))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1
    assert not caplog.records
    source = Source(5)
    got[0].observe(source, {semconv.LOADED: read})
    assert measured.of(semconv.LOADED) == {(): 5}


def test_instruments_are_dropped_with_an_sdk_provider():
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    instruments = weakref.ref(get_instruments(provider))
    provider.shutdown()
    del provider
    gc.collect()
    assert instruments() is None


@pytest.mark.parametrize("provider", [None, NoOpMeterProvider()], ids=["none", "no-op"])
def test_without_an_sdk_provider_no_value_is_recorded_or_referenced(provider: AnyMeterProvider | None):
    instruments = get_instruments(provider)
    created = list(instruments._writers)  # the global ones may have been used by a configure() of another test
    source = Source(1)
    instruments.record(semconv.NODE_DURATION, 1, {})
    instruments.record(semconv.NODE_DURATION, 1, {}, later=True)
    instruments.observe(source, {semconv.LOADED: read})
    assert not instruments.are_live
    assert list(instruments._writers) == created
    assert not instruments._put_off
    assert not instruments._sources


def test_labels_without_a_value_are_omitted(measured):
    labels = {semconv.WORKFLOW_NAME: None, semconv.NODE: "n", semconv.STATUS: "ok", semconv.ERROR_TYPE: None}
    get_instruments(measured.provider).record(semconv.NODE_DURATION, 1, labels)
    (point,) = measured.points()[semconv.NODE_DURATION]
    assert point.attributes == {semconv.NODE: "n", semconv.STATUS: "ok"}


def test_beyond_the_cardinality_limit_values_overflow_and_none_is_lost(measured):
    instruments = get_instruments(measured.provider)
    for number in range(2_100):
        instruments.record(semconv.EVICTIONS, 1, {semconv.REQUEST_MODEL: f"m{number}"})
    points = measured.points()[semconv.EVICTIONS]
    overflow = [point for point in points if point.attributes == {"otel.metric.overflow": True}]
    assert len(overflow) == 1
    assert sum(point.value for point in points) == 2_100


def test_a_deferred_value_is_recorded_at_the_next_collection_or_record(measured):
    instruments = get_instruments(measured.provider)
    instruments.record(semconv.EVICTIONS, 1, MODEL, later=True)
    assert measured.of(semconv.EVICTIONS) == {(): 1}
    instruments.record(semconv.EVICTIONS, 1, MODEL, later=True)
    instruments.record(semconv.LOADED, 1, MODEL)
    assert not instruments._put_off
    assert measured.of(semconv.EVICTIONS) == {(): 2}


class _Abandoned(SpanScope):
    """Work in a reference cycle, as an abandoned generator is: only the garbage collector finds it."""

    __slots__ = ("me",)

    def finish(self, outcome="ok", *, end_time_ns=None):
        ended = super().finish(outcome, end_time_ns=end_time_ns)
        if ended:
            self.instruments.record(semconv.NODE_DURATION, 1, {semconv.STATUS: outcome})
        return ended


def test_a_span_ended_by_the_garbage_collector_inside_the_sdk_does_not_block(measured, tracer_provider):
    instruments = get_instruments(measured.provider)
    instruments.record(semconv.NODE_DURATION, 1, {semconv.STATUS: "cancelled"})
    scope = _Abandoned(tracer_provider.get_tracer("test"), "abandoned", instruments=instruments)
    scope.me = scope
    del scope
    measured.collect_garbage_while_collecting(semconv.STATUS, "cancelled")
    assert measured.of(semconv.NODE_DURATION, semconv.STATUS) == {"cancelled": (2, 2)}


def test_a_source_is_read_at_each_collection_while_it_exists(measured):
    instruments = get_instruments(measured.provider)
    source, other = Source(1), Source(10)
    for each in (source, source, other):
        instruments.observe(each, {semconv.LOADED: read})
    assert measured.of(semconv.LOADED) == {(): 11}
    source.value = 3
    del other, each
    gc.collect()
    assert measured.of(semconv.LOADED) == {(): 3}
    del source
    gc.collect()
    assert measured.of(semconv.LOADED) == {}


def test_a_failing_source_is_counted_and_the_others_are_read(measured, counted_errors, monkeypatch, caplog):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "0")
    instruments = get_instruments(measured.provider)
    broken, sound = Source("no number"), Source(2)
    for each in (broken, sound):
        instruments.observe(each, {semconv.LOADED: read})
    assert measured.of(semconv.LOADED) == {(): 2}
    assert "read an observed metric" in caplog.text
    assert counted_errors() == {"read an observed metric": 1}


def test_a_failing_meter_is_logged_once_and_does_not_recurse(counted_errors, monkeypatch, caplog):
    monkeypatch.setenv(guard.RAISE_INTERNAL_ERRORS, "0")
    instruments = get_instruments()

    def fail(*_args, **_kwargs):
        raise OSError("no")

    patch = pytest.MonkeyPatch()
    patch.setattr(instruments._meter, "create_counter", fail)
    for _ in range(3):
        instruments.record(semconv.EVICTIONS, 1, MODEL)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    patch.undo()
    assert counted_errors()["record a metric"] >= 3


def test_of_the_ages_of_several_sources_the_greatest_is_observed(measured):
    instruments = get_instruments(measured.provider)
    sources = [Source(3.0), Source(5.0), Source(4.0)]
    for source in sources:
        instruments.observe(source, {semconv.NODE_RUNNING_AGE: read})
    assert measured.of(semconv.NODE_RUNNING_AGE) == {(): 5.0}
