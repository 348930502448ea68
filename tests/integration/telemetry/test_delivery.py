"""From configure() to the store and to a real OTLP receiver."""

from __future__ import annotations

import json
import logging
import socket
import time
from pathlib import Path

import pytest
from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind

import nodespan
from nodespan.errors import ConfigurationError
from nodespan.spans.log import CODE_FIELD
from nodespan.store import MEMORY, SqliteStore, StoreReader, TraceFilter, store_path
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError:
        return False
    return True


def make_spans(number: int, name: str = "work") -> None:
    tracer = trace.get_tracer("test")
    for index in range(number):
        with tracer.start_as_current_span(f"{name} {index}", kind=SpanKind.INTERNAL, attributes={"index": index}):
            pass


def stored() -> list[str]:
    store = SqliteStore(store_path())
    found = [found["name"] for found in StoreReader(store).find(TraceFilter(), 1_000_000)]
    store.close()
    return sorted(found)


def test_without_an_endpoint_spans_are_in_the_local_store():
    with configure(service_name="app") as telemetry:
        make_spans(100)
        report = telemetry.force_flush()
    assert report
    assert (report.ended, report.stored, report.exported, report.waiting, report.dropped) == (100, 100, 0, 0, {})
    assert len(stored()) == 100
    assert store_path().stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("form", ["http://localhost:{port}", "http://localhost:{port}/", "http://[::1]:{port}"])
def test_an_endpoint_can_be_a_name_an_ipv4_or_an_ipv6_address(protocol, form):
    if "::1" in form and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with OtlpReceiver(protocol, host="::1" if "::1" in form else "127.0.0.1") as receiver:
        endpoint = form.format(port=receiver.endpoint.rpartition(":")[2])
        with configure("app", endpoint=endpoint, protocol=protocol) as telemetry:
            make_spans(1)
            assert telemetry.force_flush(10)
        assert [span.name for span in receiver.spans] == ["work 0"]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("by", ["argument", "variable"])
def test_with_an_endpoint_spans_metrics_and_logs_are_exported(protocol, by, monkeypatch):
    with OtlpReceiver(protocol) as receiver:
        if by == "variable":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
            monkeypatch.setenv("OTEL_SERVICE_NAME", "from-env")
            telemetry = configure(service_name="argument", endpoint="http://127.0.0.1:9", protocol="http/protobuf")
        else:
            telemetry = configure("app", endpoint=receiver.endpoint, protocol=protocol, headers={"x-key": "secret"})
        with telemetry:
            metrics.get_meter("test").create_counter("things").add(3)
            logging.getLogger("nodespan").warning("a line")
            make_spans(50)
            report = telemetry.force_flush(10)
        assert report
        assert report.exported == 50
        assert sorted(span.name for span in receiver.spans) == sorted(f"work {index}" for index in range(50))
        assert {span.service_name for span in receiver.spans} == {"from-env" if by == "variable" else "app"}
        assert "things" in [metric.name for metric in receiver.metrics]
        assert [record.body.string_value for record in receiver.log_records] == ["a line"]
        assert {request["x-key"] for request in receiver.requests} == {"secret"}
    assert len(stored()) == 50


def test_gzip_is_used_when_configured(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        make_spans(3)
        assert telemetry.force_flush(10)
        traces = [request for request in receiver.requests if request[":path"].endswith("traces")]
        assert {request.get("content-encoding") for request in traces} == {"gzip"}


@pytest.mark.extended
def test_an_endpoint_that_does_not_answer_is_logged_once_and_nothing_is_lost(caplog):
    with OtlpReceiver() as receiver:
        pass  # its port is free again
    with configure(endpoint=receiver.endpoint) as telemetry:
        make_spans(20)
        took_s: list[float] = []
        for _ in range(3):  # the machine may have other things to do: the quickest counts
            started = time.monotonic()
            report = telemetry.force_flush(1.0)
            took_s.append(time.monotonic() - started)
            assert not report
            assert report.waiting == 20
        assert min(took_s) < 3  # not the default timeout, and not forever
        with OtlpReceiver(port=receiver._port) as again:
            make_spans(5, "later")
            again.wait_for(lambda r: len(r.spans) == 25, 30)
            assert telemetry.force_flush(10)
    ours = [record for record in caplog.records if record.name == "nodespan" and "spans" in record.getMessage()]
    assert [getattr(record, CODE_FIELD) for record in ours] == ["export.unreachable", "export.recovered"]


@pytest.mark.parametrize("status", [503, 429])
def test_a_receiver_that_requests_a_pause_receives_everything_later(status):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.extend([(status, {"Retry-After": "0"}, b"")] * 3)
        make_spans(10)
        report = telemetry.force_flush(20)
        assert report
        assert len(receiver.spans) == 10


def test_permanently_rejected_spans_are_counted_and_do_not_block_others(caplog):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((400, {}, b"no"))
        make_spans(10)
        first = telemetry.force_flush(10)
        make_spans(5)
        second = telemetry.force_flush(10)
        assert (first.dropped, first.waiting) == ({"400": 10}, 0)
        assert (second.exported, second.dropped) == (5, {"400": 10})
        assert not second
    assert "permanently rejected 10 spans" in caplog.text


def test_spans_stored_before_are_not_sent_to_a_new_endpoint():
    with configure():
        make_spans(10)
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        make_spans(3)
        assert telemetry.force_flush(10)
        assert len(receiver.spans) == 3
    assert len(stored()) == 13


def test_the_same_arguments_return_the_same_object_and_others_raise():
    with configure(service_name="app") as telemetry:
        assert configure(service_name="app") is telemetry
        with pytest.raises(ConfigurationError, match="service_name='app', now 'other'"):
            configure(service_name="other")


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ({"endpoint": "localhost:4318"}, {}, "http://localhost:4318"),
        ({"endpoint": "http://"}, {}, "not a valid URL"),
        ({"protocol": "thrift", "endpoint": "http://localhost:1"}, {}, "http/protobuf, grpc"),
        ({}, {"NODESPAN_STORE_MAX_BYTES": "-1"}, "number above 0"),
    ],
)
def test_invalid_settings_are_an_error_at_once(arguments, variables, message, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=message):
        configure(**arguments)


def test_exporters_none_and_console(monkeypatch, capsys):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with configure() as telemetry:
        make_spans(1)
        assert telemetry.store is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    with configure():
        make_spans(1, "shown")
    assert "shown 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_SDK_DISABLED", "true", 0),
        ("OTEL_TRACES_SAMPLER", "always_off", 0),
        ("OTEL_TRACES_SAMPLER", "always_on", 3),
    ],
)
def test_standard_variables_switch_the_sdk(monkeypatch, variable, value, expected):
    monkeypatch.setenv(variable, value)
    with configure() as telemetry:
        make_spans(3)
        assert telemetry.force_flush().ended == expected


def test_resource_attributes_of_variables_take_precedence_over_arguments(monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=env,a=env")
    with configure("app", resource_attributes={"a": "argument", "b": "argument"}) as telemetry:
        make_spans(1)
        telemetry.force_flush()
        assert telemetry.store is not None
        (found,) = StoreReader(telemetry.store).find(TraceFilter(), 1)
        (span,) = StoreReader(telemetry.store).get(found["trace_id"])["spans"]
    assert {key: span["resource"][key] for key in ("a", "b", "deployment.environment.name", "service.name")} == {
        "a": "env",
        "b": "argument",
        "deployment.environment.name": "env",
        "service.name": "app",
    }


def test_an_unwritable_store_is_logged_once_and_memory_is_used(monkeypatch, caplog):
    monkeypatch.setenv("NODESPAN_STORE", "/proc/nowhere/spans.db")
    with configure() as telemetry:
        make_spans(3)
        report = telemetry.force_flush()
        make_spans(3)
        assert telemetry.force_flush().stored == 6
        assert telemetry.store is not None
        assert telemetry.store.path == MEMORY
        assert len(StoreReader(telemetry.store).find(TraceFilter(), 10)) == 6
    assert report
    assert caplog.text.count("kept in memory") == 1


def test_memory_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("NODESPAN_STORE", "memory")
    monkeypatch.chdir(tmp_path)
    with configure() as telemetry:
        make_spans(3)
        assert telemetry.force_flush().stored == 3
    assert list(Path().iterdir()) == []


def test_redaction_of_configure_is_applied_to_exceptions():
    with configure(redact=lambda text: text.replace("secret", "***")) as telemetry:
        from nodespan.spans.scope import SpanScope, get_tracer

        scope = SpanScope(get_tracer(), "work")
        scope.fail(ValueError("the secret"))
        telemetry.force_flush()
        assert telemetry.store is not None
        (found,) = StoreReader(telemetry.store).find(TraceFilter(is_error=True), 1)
        spans = StoreReader(telemetry.store).get(found["trace_id"])["spans"]
    assert "secret" not in repr(spans)
    assert spans[0]["status_message"] == "the ***"


def test_the_package_exports_the_names():
    assert nodespan.configure is configure
    json.dumps(nodespan.DeliveryReport(1, 1, 0, 0).dropped)
