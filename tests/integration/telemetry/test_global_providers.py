"""nodespan's global providers, as a program uses them through OpenTelemetry: flushed and shut down by it."""

from __future__ import annotations

import pytest
from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodespan.telemetry import configure
from nodespan.telemetry.logger_provider import NodespanLoggerProvider
from nodespan.telemetry.meter_provider import NodespanMeterProvider
from otlp_receiver import OtlpReceiver


def test_the_global_providers_flush_and_shut_down_as_those_of_the_sdk():
    def flush():
        return [provider.force_flush() for provider in providers]

    def last():
        counts = [m.sum.data_points[-1].as_int for m in receiver.metrics if m.name == "flushed.count"]
        return counts[-1:], [record.body.string_value for record in receiver.log_records]

    with OtlpReceiver() as receiver:
        for _ in range(2):
            receiver.metrics.clear()
            receiver.log_records.clear()
            telemetry = configure(endpoint=receiver.endpoint)
            providers = [trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider()]
            counter, logger = metrics.get_meter("x").create_counter("flushed.count"), _logs.get_logger("x")
            assert last() == ([], [])
            counter.add(1)
            logger.emit(body="one")
            assert flush() == [True, True, True]
            assert last() == ([1], ["one"])
            counter.add(1)
            logger.emit(body="two")
            for provider in providers * 2:
                provider.shutdown()
            assert last() == ([2], ["one", "two"])
            counter.add(1)
            logger.emit(body="three")
            assert flush()[1:] == [True, True]
            assert last() == ([2], ["one", "two"])
    telemetry.shutdown()


@pytest.mark.parametrize("kind", [NodespanMeterProvider, NodespanLoggerProvider])
def test_a_global_provider_that_another_thread_configures_during_its_shutdown_stays_on(kind, monkeypatch, caplog):
    def fails(timeout_s):
        times.append(timeout_s)
        raise OSError("the exporter is gone")

    class Behind(NoOpMeterProvider, NoOpLoggerProvider):
        def force_flush(self, timeout_millis=0):
            return False

    monkeypatch.setenv("NODESPAN_RAISE_INTERNAL_ERRORS", "0")
    times = []
    provider, first, second = kind(), Behind(), Behind()
    provider.use(first, end=lambda timeout_s: provider.use(second, end=fails))
    provider.shutdown()
    assert not provider.force_flush()  # the second one answers
    provider.shutdown(2000)
    provider.shutdown()
    assert provider.force_flush()  # nothing is there to be exported
    assert times == [2.0]
    assert "the exporter is gone" in caplog.text


def test_after_the_program_has_shut_down_the_provider_a_new_configuration_records(caplog):
    for _ in range(2):
        telemetry = configure()
        exporter = InMemorySpanExporter()
        trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
        trace.get_tracer("x").start_span("work").end()
        assert len(exporter.get_finished_spans()) == 1
        trace.get_tracer_provider().shutdown()
        report = telemetry.force_flush()
        assert (report.ended, report.stored, report.dropped) == (1, 1, {})
    telemetry.shutdown()
    assert caplog.records == []  # what the SDK logs for each span that a processor receives after it was shut down
