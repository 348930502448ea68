"""A destination that is down, slow, rude or wrong: no acceptable span is lost, and the others are counted."""

from __future__ import annotations

import socket
import struct
import time

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from nodespan.spans.log import CODE_FIELD
from nodespan.telemetry import configure
from otlp_receiver import OtlpReceiver

PATIENCE_S = 60  # on a machine that has other things to do


@pytest.fixture(autouse=True)
def only_traces(monkeypatch):
    """The answers are for spans. Each try is short, so that the delivery's own pauses are seen; and whatever was made
    before a flush is one batch.
    """
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "60000")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")


def all_arrived(names):
    wanted = set(names)
    return lambda receiver: wanted <= {span.name for span in receiver.spans}


def warnings_of(caplog):
    """The warnings of traces, by their codes."""
    ours = [record for record in caplog.records if record.name == "nodespan"]
    return [getattr(record, CODE_FIELD) for record in ours if "metrics" not in record.msg and "logs" not in record.msg]


@pytest.mark.extended
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_long_outage_under_load_loses_no_span_and_does_not_grow_memory(
    protocol, make_spans, figures, monkeypatch, caplog
):
    monkeypatch.delenv("OTEL_BSP_SCHEDULE_DELAY")
    with OtlpReceiver(protocol) as receiver:
        pass  # its port is free again
    with configure(endpoint=receiver.endpoint, protocol=protocol) as telemetry:
        names = []
        most_queued = 0
        for round_ in range(40):
            names += make_spans(500, f"{protocol} {round_}", text="x" * 200)
            most_queued = max(most_queued, len(telemetry._pipelines.delivery._queue))
            time.sleep(0.05)  # the writer empties the queue meanwhile
        down = telemetry.force_flush(0.5)
        assert (down.ended, down.stored, down.exported, down.waiting, down.dropped) == (20_000, 20_000, 0, 20_000, {})
        assert most_queued < 10_000
        with OtlpReceiver(protocol, port=receiver._port) as again:
            report = telemetry.force_flush(PATIENCE_S)
            found = figures(names, again.spans, most_queued=most_queued)
    assert report, report
    assert found["lost"] == 0
    assert warnings_of(caplog) == ["export.unreachable", "export.recovered"]


@pytest.mark.extended
def test_slow_answers_do_not_block_the_program(make_spans, figures):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.delay_s = 0.5
        names = make_spans(50, "first")
        telemetry.force_flush(0)
        receiver.wait_for(lambda r: r.arrivals, PATIENCE_S)
        names += make_spans(5_000, "while it ponders")  # the application goes on
        assert telemetry.force_flush(PATIENCE_S)
        assert figures(names, receiver.spans)["lost"] == 0


def reset(handler):
    """Reads a part of the body, and resets the connection."""
    handler.rfile.read(10)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(handler):
    """Reads everything, and closes without an answer."""
    handler.rfile.read(int(handler.headers["Content-Length"]))


def garble(handler):
    """Answers in no protocol at all."""
    handler.rfile.read(int(handler.headers["Content-Length"]))
    handler.wfile.write(b"\x00\xff\x15garbage\r\n\r\n\xfe" * 10)


@pytest.mark.parametrize(
    "misbehaviour", [reset, *(pytest.param(way, marks=pytest.mark.extended) for way in (hang_up, garble))]
)
def test_interrupted_connections_lose_no_span(misbehaviour, make_spans, figures):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.extend([misbehaviour] * 2)
        names = make_spans(200)
        assert telemetry.force_flush(PATIENCE_S)
        assert not receiver.answers
        assert figures(names, receiver.spans)["lost"] == 0


def test_a_success_with_an_undecodable_body_is_an_acceptance(make_spans):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((200, {}, b"\xff\xff\xff\xff"))
        make_spans(10)
        assert telemetry.force_flush(PATIENCE_S)
        assert len(receiver.requests) == 1


@pytest.mark.extended
@pytest.mark.parametrize("status", [429, 503])
def test_a_destination_is_not_contacted_during_its_retry_after(status, make_spans, figures):
    """The time is longer than one attempt of the SDK, and a flush runs meanwhile."""
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((status, {"Retry-After": "4"}, b""))
        names = make_spans(10)
        assert not telemetry.force_flush(1)
        assert telemetry.force_flush(PATIENCE_S)
        first, second = receiver.arrivals
        assert second - first >= 4
        assert figures(names, receiver.spans, asked_s=4, left_alone_s=round(second - first, 2))["duplicates"] == 0


@pytest.mark.parametrize("status", [301, 401, 403, 404, 500, 502, 504])
def test_status_codes_about_address_credentials_or_load_lose_no_span(status, make_spans, figures, caplog):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((status, {}, b"not now"))
        names = make_spans(10)
        assert telemetry.force_flush(PATIENCE_S)
        assert figures(names, receiver.spans)["lost"] == 0
    assert warnings_of(caplog) == ["export.unreachable", "export.recovered"]


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_permanently_rejected_batch_is_dropped_counted_and_logged_once(status, make_spans, figures, caplog):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((status, {}, b"bad words"))
        make_spans(10, "bad")
        assert telemetry.force_flush(PATIENCE_S).dropped == {str(status): 10}
        receiver.answers.append((status, {}, b"bad words"))
        make_spans(10, "bad again")
        telemetry.force_flush(PATIENCE_S)
        names = make_spans(10, "good")
        report = telemetry.force_flush(PATIENCE_S)
        figures(names, receiver.spans, dropped=report.dropped)
        assert (report.exported, report.waiting, report.dropped) == (10, 0, {str(status): 20})
    assert warnings_of(caplog) == ["export.rejected"]
    assert f"{status} bad words" in caplog.text


def test_of_joined_batches_only_the_rejected_one_is_dropped(make_spans, figures):
    """Batches accumulate while the destination handles the first; the request with all of them is refused."""
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.delay_s = 1.0
        names = make_spans(1, "first")
        telemetry.force_flush(0)
        receiver.wait_for(lambda r: r.arrivals, PATIENCE_S)
        for part in range(3):
            names += make_spans(1, f"part {part}")
            telemetry.force_flush(0)
        receiver.wait_for(lambda r: r.spans, PATIENCE_S)
        receiver.delay_s = 0.0
        receiver.answers.extend([(400, {}, b"one of them is bad"), (400, {}, b"this one")])
        report = telemetry.force_flush(PATIENCE_S)
        assert (report.exported, report.dropped) == (3, {"400": 1})
        assert figures(names, receiver.spans)["lost"] == 1


def test_a_batch_that_breaks_the_destination_does_not_block_others(make_spans, figures, caplog):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.poison = b"poison"
        names = make_spans(3, "poison")
        assert telemetry.force_flush(1).waiting == 3  # nothing else went, so it may be broken altogether
        names += make_spans(10, "good")
        report = telemetry.force_flush(PATIENCE_S)
        assert (report.exported, report.waiting, report.dropped) == (10, 0, {"500": 3})
        assert figures(names, receiver.spans, dropped=report.dropped)["lost"] == 3
    assert "500 panic" in caplog.text


@pytest.mark.parametrize("protocol", ["http/protobuf", pytest.param("grpc", marks=pytest.mark.extended)])
def test_a_batch_that_is_too_large_is_split_and_only_a_single_large_span_is_dropped(protocol, make_spans, figures):
    receiver = OtlpReceiver(protocol)
    receiver.max_bytes = 20_000
    with receiver, configure(endpoint=receiver.endpoint, protocol=protocol) as telemetry:
        names = make_spans(30, "small", text="x" * 2_000) + make_spans(1, "huge", text="x" * 50_000)
        names += make_spans(30, "more", text="x" * 2_000)
        report = telemetry.force_flush(PATIENCE_S)
        found = figures(names, receiver.spans, dropped=report.dropped)
        assert report.exported == 60
        assert report.dropped == {"413" if protocol == "http/protobuf" else "RESOURCE_EXHAUSTED": 1}
        assert (found["lost"], found["duplicates"]) == (1, 0)


def test_a_large_span_is_a_separate_batch(make_spans):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        make_spans(20, "small")
        make_spans(2, "huge", text="x" * 3_000_000)
        make_spans(20, "more")
        assert telemetry.force_flush(PATIENCE_S)
        sizes = sorted(int(request["content-length"]) for request in receiver.requests)
        assert len(receiver.spans) == 42
        assert [size > 1024 * 1024 for size in sizes[-3:]] == [False, True, True]


PARTIAL = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=4, error_message="four were too old")
)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_accepted_and_rejected_spans_of_a_partial_success_are_counted(protocol, make_spans, caplog):
    with OtlpReceiver(protocol) as receiver, configure(endpoint=receiver.endpoint, protocol=protocol) as telemetry:
        receiver.answers.append(PARTIAL if protocol == "grpc" else (200, {}, PARTIAL.SerializeToString()))
        make_spans(10)
        report = telemetry.force_flush(PATIENCE_S)
        assert (report.exported, report.waiting, report.dropped) == (6, 0, {"rejected": 4})
        assert not report
        assert len(receiver.requests) == 1
    assert "four were too old" in caplog.text


@pytest.mark.parametrize(
    ("code", "is_final"),
    [
        (grpc.StatusCode.UNAVAILABLE, False),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, False),
        (grpc.StatusCode.UNAUTHENTICATED, False),
        (grpc.StatusCode.PERMISSION_DENIED, False),
        (grpc.StatusCode.UNIMPLEMENTED, False),
        (grpc.StatusCode.INTERNAL, False),
        (grpc.StatusCode.INVALID_ARGUMENT, True),
    ],
)
def test_grpc_codes_distinguish_bad_batches_from_bad_destinations(code, is_final, make_spans):
    with OtlpReceiver("grpc") as receiver, configure(endpoint=receiver.endpoint, protocol="grpc") as telemetry:
        receiver.answers.append((code, "no"))
        make_spans(10)
        report = telemetry.force_flush(PATIENCE_S)
        assert report.dropped == ({code.name: 10} if is_final else {})
        assert report.exported == (0 if is_final else 10)


@pytest.mark.extended
def test_an_unresolvable_name_is_logged_and_nothing_is_lost(make_spans, caplog):
    with configure(endpoint="http://nowhere.invalid:4318") as telemetry:
        make_spans(10)
        report = telemetry.force_flush(5)
        assert (report.stored, report.waiting, report.dropped) == (10, 10, {})
        assert warnings_of(caplog) == ["export.unreachable"]
        assert "nowhere.invalid" in caplog.text
        assert "Name or service not known" in caplog.text or "name resolution" in caplog.text


@pytest.mark.parametrize("protocol", ["http/protobuf", pytest.param("grpc", marks=pytest.mark.extended)])
def test_an_untrusted_certificate_keeps_spans_in_the_store_until_it_is_replaced(
    protocol, certificates, monkeypatch, make_spans, figures
):
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # with the SDK's exporter they go before OpenTelemetry's
        monkeypatch.delenv(name, raising=False)
    with OtlpReceiver(protocol, certificate=(certificates["key"], certificates["chain"])) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", certificates["stranger"])
        with configure(endpoint=receiver.endpoint, protocol=protocol) as telemetry:
            names = make_spans(10)
            report = telemetry.force_flush(3)
            assert (report.waiting, report.dropped, receiver.spans) == (10, {}, [])
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", certificates["authority"])
        with configure(endpoint=receiver.endpoint, protocol=protocol) as telemetry:
            names += make_spans(1, "after")
            telemetry.force_flush(0)
            receiver.wait_for(all_arrived(names), PATIENCE_S)
        assert figures(names, receiver.spans)["lost"] == 0
