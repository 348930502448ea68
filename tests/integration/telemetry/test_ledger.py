"""The report is exact, the metrics equal it, and a span is stored soon after its end."""

from __future__ import annotations

import statistics
import time

import pytest
import requests
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from nodespan import semconv
from nodespan.delivery.processor import WRITE_INTERVAL_S
from nodespan.otlp import decode_batch
from nodespan.store import open_store
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 60


def points(receiver: OtlpReceiver, name: str) -> dict[str, float]:
    """The last value of a metric that arrived, by its error.type."""
    found = [metric for metric in receiver.metrics if metric.name == name][-1]
    data = getattr(found, found.WhichOneof("data")).data_points
    return {
        "".join(a.value.string_value for a in point.attributes if a.key == "error.type"): point.as_int
        or point.as_double
        for point in data
    }


def test_the_last_metrics_equal_the_last_report(make_spans, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    with OtlpReceiver() as receiver:
        telemetry = configure(endpoint=receiver.endpoint)
        receiver.answers.append((400, {}, b""))
        make_spans(150)
        assert telemetry.force_flush(PATIENCE_S).dropped == {"queue_full": 50, "400": 100}
        make_spans(30)
        report = telemetry.shutdown(PATIENCE_S)
        tracer = trace.get_tracer("test")
        assert (report.ended, report.stored, report.exported) == (180, 130, 30)
        assert report.dropped == {"queue_full": 50, "400": 100}
        assert points(receiver, semconv.SPANS_PROCESSED) == {"": 130, "queue_full": 50}
        assert points(receiver, semconv.SPANS_EXPORTED) == {"": 30, "400": 100}
        assert points(receiver, semconv.OUTBOX_SPANS) == {"": 0}
        assert points(receiver, semconv.OUTBOX_AGE) == {"": 0}
        tracer.start_span("too late").end()
        assert telemetry.force_flush(0).ended == 180  # nothing is recorded after shutdown()


def test_the_metrics_of_the_outbox_have_number_and_age_of_waiting_spans(make_spans, monkeypatch):
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    with OtlpReceiver() as metrics_only, OtlpReceiver() as down:
        pass
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{down.endpoint}/v1/traces")
    with OtlpReceiver(port=metrics_only._port) as receiver, configure(endpoint=receiver.endpoint):
        make_spans(25)
        receiver.wait_for(
            lambda r: (
                any(m.name == semconv.OUTBOX_SPANS for m in r.metrics)
                and points(r, semconv.OUTBOX_SPANS) == {"": 25}
                and points(r, semconv.OUTBOX_AGE)[""] > 0
            ),
            PATIENCE_S,
        )


def test_a_flush_of_the_provider_succeeds_after_a_loss(make_spans):
    """As the SDK's: whether everything went in time. The loss stays in the report."""
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((400, {}, b""))
        make_spans(5)
        assert not telemetry.force_flush(PATIENCE_S)
        make_spans(5)
        assert trace.get_tracer_provider().force_flush(PATIENCE_S * 1000)
        assert telemetry.force_flush(0).dropped == {"400": 5}


def test_an_incomplete_report_has_the_missing_number(make_spans):
    with OtlpReceiver() as receiver:
        pass
    with configure(endpoint=receiver.endpoint) as telemetry:
        make_spans(10)
        started = time.monotonic()
        report = telemetry.force_flush(0.5)
        assert time.monotonic() - started < 5
        assert not report
        assert (report.ended, report.stored, report.exported, report.waiting) == (10, 10, 0, 10)
        assert report.ended == report.exported + report.waiting + sum(report.dropped.values())


def test_a_span_that_cannot_be_encoded_does_not_affect_others(make_spans):
    with configure() as telemetry:
        make_spans(5)
        trace.get_tracer("test").start_span("half a character: \ud800").end()
        make_spans(5)
        report = telemetry.force_flush()
    assert (report.ended, report.stored, report.dropped) == (11, 10, {"not_encodable": 1})


def test_nodespans_own_requests_make_no_spans(make_spans, monkeypatch):
    """An instrumentation of requests would otherwise make a span for each batch of spans, without end."""
    enabled = []
    send = requests.Session.send

    def watch(*args, **kwargs):
        enabled.append(is_instrumentation_enabled())
        return send(*args, **kwargs)

    monkeypatch.setattr(requests.Session, "send", watch)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        make_spans(5)
        assert telemetry.force_flush(PATIENCE_S)
    assert set(enabled) == {False}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_headers_of_the_variable_take_precedence_over_those_of_the_argument(protocol, make_spans, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=variable")
    with (
        OtlpReceiver(protocol) as receiver,
        configure(
            endpoint=receiver.endpoint, protocol=protocol, headers={"X-Key": "argument", "X-Other": "argument"}
        ) as t,
    ):
        make_spans(1)
        assert t.force_flush(PATIENCE_S)
        (request,) = [request for request in receiver.requests if request[":path"].endswith("traces")]
        assert (request["x-key"], request["x-other"]) == ("variable", "argument")


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_all_signals_are_exported_over_grpc_compressed_or_not(compression, make_spans, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    with OtlpReceiver("grpc") as receiver, configure(endpoint=receiver.endpoint, protocol="grpc") as telemetry:
        make_spans(100, text="x" * 1000)
        assert telemetry.force_flush(PATIENCE_S)
        assert len(receiver.spans) == 100


def test_a_span_is_stored_soon_after_its_end(make_spans, figures, record_property):
    """No span waits for the next one. The benchmark measures the goal, a p99 of twice the write interval."""
    with configure():
        for _ in range(200):
            make_spans(5)
            time.sleep(0.01)
        deadline = time.monotonic() + PATIENCE_S
        while open_store().stats().spans < 1000 and time.monotonic() < deadline:
            time.sleep(0.02)
    store = open_store()
    lags = [batch.created_ns - span.end_ns for batch in _batches(store) for span in decode_batch(batch.data)]
    assert len(lags) == 1000
    cuts = statistics.quantiles((lag / 1e9 for lag in lags), n=100)
    figures([], [], lag_p50_s=round(cuts[49], 3), lag_p99_s=round(cuts[98], 3))
    assert cuts[49] < 5 * WRITE_INTERVAL_S
    store.close()


def _batches(store):
    store.readdress(None, "to see them", "")
    return store.unsent("to see them")[0]
