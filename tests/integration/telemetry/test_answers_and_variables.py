"""Responses that count as delivered, variables with an effect, and exported log records of warnings."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from opentelemetry import trace

from nodespan.delivery.ledger import Ledger
from nodespan.errors import ConfigurationError
from nodespan.instrumentation._seams import Seam, Seams
from nodespan.spans.log import CODE_FIELD, CODES
from nodespan.telemetry import configure
from nodespan.telemetry.env import collecting_problems
from nodespan.telemetry.settings import Settings
from otlp_receiver import OtlpReceiver

ROOT = Path(__file__).parents[3]
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}


def make(number: int) -> None:
    for index in range(number):
        trace.get_tracer("test").start_span(f"work {index}").end()


@pytest.mark.parametrize("headers", [HTML, {}], ids=["html", "a page without its type"])
def test_a_web_page_is_not_an_acceptance(headers):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.extend([(200, headers, b"<html>sign in</html>")] * 2)
        make(5)
        report = telemetry.force_flush(0.5)
        assert (report.exported, report.waiting, report.dropped) == (0, 5, {})
        receiver.answers.clear()
        assert telemetry.force_flush(20).exported == 5
        assert len(receiver.spans) == 5


def test_a_grpc_port_used_over_http_is_reported_for_each_signal(monkeypatch, caplog):
    with OtlpReceiver("grpc") as receiver:
        with configure(endpoint=receiver.endpoint) as telemetry:
            make(1)
            report = telemetry.force_flush(1)
        assert (report.exported, report.waiting) == (0, 1)
    outages = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Cannot export")]
    assert len(outages) >= 2
    for line in outages:
        assert "the port expects gRPC; use port 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in line
        assert "\N{REPLACEMENT CHARACTER}" not in line


def test_an_outage_of_each_signal_is_logged_also_at_one_address(caplog):
    """The address of a gRPC destination is the same for all signals."""
    with OtlpReceiver("grpc") as receiver:
        pass
    with configure(endpoint=receiver.endpoint, protocol="grpc") as telemetry:
        make(1)
        logging.getLogger("nodespan").warning("a line")
        assert telemetry.force_flush(0.5).waiting == 1
    lines = [one.getMessage() for one in caplog.records if one.getMessage().startswith("Cannot export")]
    assert sorted(line.split()[2] for line in lines) == ["logs", "metrics", "spans"]


def test_each_outage_of_logs_is_reported_with_its_reason(monkeypatch, caplog):
    """The SDK drops a record of its log exporter that has the form of the one before, within 20 s."""
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    logger = logging.getLogger("nodespan")
    with OtlpReceiver() as receiver:
        receiver.answers.append((503, {}, b""))
        with configure(endpoint=receiver.endpoint):
            logger.warning("a line")
            receiver.wait_for(lambda one: one.log_records)
    caplog.clear()
    with OtlpReceiver("grpc") as receiver, configure(endpoint=receiver.endpoint):
        logger.warning("a line")
    [outage] = [one.getMessage() for one in caplog.records if one.getMessage().startswith("Cannot export logs")]
    assert "the port expects gRPC" in outage


def test_a_proxy_of_the_environment_is_used_and_its_answer_reported(monkeypatch, caplog):
    with OtlpReceiver() as proxy:
        proxy.answers.extend([(403, {}, b"blocked by proxy")] * 20)
        monkeypatch.setenv("http_proxy", proxy.endpoint)
        monkeypatch.delenv("no_proxy", raising=False)
        with configure(endpoint="http://collector.example:4318") as telemetry:
            make(1)
            assert telemetry.force_flush(1).waiting == 1
        assert any("403 blocked by proxy" in record.getMessage() for record in caplog.records)
        proxy.answers.clear()
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with configure(endpoint=receiver.endpoint) as telemetry:
            make(1)
            assert telemetry.force_flush(20).exported == 1


@pytest.mark.parametrize("body", [b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}'])
def test_a_partial_success_in_json_is_counted(body):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append((200, JSON, body))
        make(5)
        report = telemetry.force_flush(20)
        assert (report.exported, report.waiting, report.dropped) == (3, 0, {"rejected": 2})


@pytest.mark.parametrize("answer", [(204, {}, b""), (200, JSON, b"{}"), (200, JSON, b"[not json"), (200, {}, b"")])
def test_an_empty_or_unknown_success_is_an_acceptance(answer):
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint) as telemetry:
        receiver.answers.append(answer)
        make(5)
        assert telemetry.force_flush(20).exported == 5


@pytest.mark.parametrize(
    ("variables", "exporters", "problems"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, ("otlp", "console"), 0),
        ({"OTEL_TRACES_EXPORTER": "OTLP"}, ("otlp",), 0),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, ("otlp",), 1),
        ({"OTEL_TRACES_EXPORTER": "none"}, (), 0),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, ("otlp",), 0),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, ("otlp",), 1),
    ],
)
def test_an_invalid_variable_affects_its_setting_only(monkeypatch, variables, exporters, problems):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with collecting_problems() as found:
        settings = Settings()
        assert settings.exporters_of("traces") == exporters
        assert settings.protocol_of("traces") == "http/protobuf"
        _ = settings.destination("traces")
    assert len(found) == problems, found


def test_an_unsupported_exporter_of_metrics_does_not_affect_traces(monkeypatch, caplog):
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
        with configure() as telemetry:
            make(3)
            assert telemetry.force_flush(20).exported == 3
    assert "configure.invalid_variable" in {getattr(record, CODE_FIELD, None) for record in caplog.records}


@pytest.mark.parametrize("insecure", ["true", ""])
def test_the_insecure_variable_applies_to_grpc_without_a_scheme(monkeypatch, insecure):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", insecure)
    with collecting_problems() as found:
        destination = Settings().destination("traces")
    assert (destination.endpoint, destination.is_insecure, found) == ("127.0.0.1:4317", insecure == "true", [])


ONE_SPAN = """
import sys, nodespan
from opentelemetry import trace
with nodespan.configure(endpoint=sys.argv[1]) as telemetry:
    trace.get_tracer("x").start_span("kept").end()
    print(telemetry.force_flush(5).stored)
"""


@pytest.mark.parametrize(
    ("variables", "reported"),
    [
        ({"OTEL_PROPAGATORS": "b3,tracecontext"}, 1),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "abc"}, 1),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "-3", "OTEL_PROPAGATORS": "x"}, 2),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "64", "OTEL_PROPAGATORS": "tracecontext"}, 0),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "bogus"}, 1),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "ALWAYS_ON"}, 0),
        ({"OTEL_BLRP_MAX_QUEUE_SIZE": "100"}, 0),
        ({"OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": "99999"}, 1),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1e30"}, 1),
        ({"OTEL_BSP_SCHEDULE_DELAY": "1e30"}, 1),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "1e30"}, 1),
    ],
    ids=str,
)
def test_no_value_of_a_variable_prevents_the_start(variables, reported, run_python):
    """In a process of its own, since some are read when OpenTelemetry is imported."""
    with OtlpReceiver() as receiver:
        done = run_python(ONE_SPAN, receiver.endpoint, **variables)
        assert (done.stdout.split(), done.returncode) == (["1"], 0), done.stderr
        assert len(done.stderr.splitlines()) == reported, done.stderr
        assert sum(f"{name} is" in done.stderr for name in variables) == reported
        assert len(receiver.spans) == 1


def test_a_timeout_in_milliseconds_is_capped_and_reported(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "10000")
    with collecting_problems() as found:
        assert Settings().destination("traces").timeout_s == 60
    assert "seconds" in found[0]


@pytest.mark.parametrize("headers", [{"x-a": "a\nb"}, {"x-\ta": "b"}, {"x-a": "grün"}, {"": "a"}])
def test_a_header_that_no_protocol_accepts_is_refused_without_its_value(headers):
    with pytest.raises(ConfigurationError, match="that a header cannot have") as caught:
        configure(endpoint="http://127.0.0.1:1", headers=headers)
    assert "grün" not in str(caught.value)


def test_an_invalid_header_of_a_variable_is_reported_and_ignored(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-a=a%0Ab,x-b=c")
    with collecting_problems() as problems:
        assert Settings().headers_of("traces") == {"x-b": "c"}
    assert "OTEL_EXPORTER_OTLP_HEADERS: entry 1" in problems[0]


def test_a_header_of_another_type_is_sent_as_text():
    assert Settings(headers={"X-Project": 7}).headers_of("traces") == {"x-project": "7"}  # type: ignore[dict-item]


def test_an_exported_record_has_its_code_and_its_exception():
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint):
        try:
            raise ValueError("the reason")
        except ValueError:
            logging.getLogger("nodespan").warning("failed", exc_info=True, extra={CODE_FIELD: "internal.failed"})
    receiver.wait_for(lambda r: r.log_records, 10)
    (record,) = [record for record in receiver.log_records if record.body.string_value == "failed"]
    attributes = {pair.key: pair.value.string_value for pair in record.attributes}
    assert attributes[CODE_FIELD] == "internal.failed"
    assert attributes["exception.type"] == "ValueError"
    assert "the reason" in attributes["exception.stacktrace"]


def test_every_code_of_the_table_is_used():
    source = "\n".join(path.read_text() for path in sorted((ROOT / "src").rglob("*.py")) if path.name != "log.py")
    assert {code for code in CODES if f'"{code}"' not in source} == set()


def test_a_span_ended_by_the_garbage_collector_inside_the_ledger_or_a_start_does_not_block():
    """In a separate process: on failure this thread deadlocks."""
    code = """
import gc
from opentelemetry.sdk.trace import TracerProvider
from nodespan.delivery import ledger as module, processor as child
from nodespan.delivery.processor import StoreSpanProcessor
from nodespan.store import MEMORY, SqliteStore
processor = StoreSpanProcessor(SqliteStore(MEMORY))
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(processor)
tracer = provider.get_tracer("x")
class Abandoned:
    def __init__(self): self.me, self.span = self, tracer.start_span("abandoned")
    def __del__(self): self.span.end()
class CollectingThread(child.threading.Thread):
    def __init__(self, *a, **k):
        Abandoned(); gc.collect(); super().__init__(*a, **k)
child.threading.Thread = CollectingThread
plain = module.Counter
class Collecting(plain):
    def __init__(self, *a, **k):
        Abandoned(); gc.collect(); super().__init__(*a, **k)
module.Counter = Collecting
processor.ledger.__init__()
tracer.start_span("first").end()
processor.report()
module.Counter = plain
processor.force_flush(5000)
report = processor.report()
print(report.ended, report.stored, report.waiting)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    ended, stored, waiting = map(int, done.stdout.split())
    assert ended >= 4  # the first, one of the start, and at least one of each report
    assert (stored, waiting) == (ended, 0)


class Library:
    def call(self):
        return "original"


def test_seams_that_are_installed_by_many_threads_wrap_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "library_of_this_test", sys.modules[__name__])
    wraps: list[int] = []

    def wrap(original):
        wraps.append(1)
        time.sleep(0.02)  # long enough for the other threads to check whether the seam is installed
        return lambda self: original(self)

    seams = Seams("library", [Seam("library_of_this_test", "Library", "call", wrap, "calls")])
    claimants = [type("Claimant", (), {})() for _ in range(4)]
    go = threading.Barrier(4)

    def install(claimant):
        go.wait()
        seams.install(claimant)

    threads = [threading.Thread(target=install, args=(claimant,)) for claimant in claimants]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for claimant in claimants:
        seams.release(claimant)
    assert len(wraps) == 1
    assert Library().call() == "original"


def test_counts_of_the_ledger_are_exact_with_many_threads():
    ledger = Ledger()
    threads = [threading.Thread(target=lambda: [ledger.ended() for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        ledger.report(has_destination=False)
    assert ledger.report(has_destination=False).ended == 40_000
