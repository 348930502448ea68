"""The SDK's providers as the settings ask for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource

from nodespan.delivery.outage_log import SaidOnce, exporting

if TYPE_CHECKING:
    from nodespan.delivery.senders.answer import Sender
    from nodespan.telemetry.settings import Settings, Signal

Stop = Callable[[float], object]
"""Flushes and stops, in at most so many seconds."""


def make_resource(settings: Settings) -> Resource:
    """What the process is. ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` go before the arguments."""
    given: dict[str, Any] = dict(settings.resource_attributes)
    if settings.service_name:
        given[SERVICE_NAME] = settings.service_name
    return Resource.create(given).merge(OTELResourceDetector().detect())


def make_meter_provider(settings: Settings, resource: Resource, said: SaidOnce) -> tuple[MeterProvider, Stop] | None:
    """Exports metrics every ``OTEL_METRIC_EXPORT_INTERVAL``; ``None`` where they go nowhere."""
    kind = settings.exporter_of("metrics")
    if kind in {"none", "local"}:
        return None
    exporter: Any
    if kind == "console":
        exporter = ConsoleMetricExporter()
    elif settings.protocol_of("metrics") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        from nodespan.delivery.senders.otlp_grpc import grpc_compression

        exporter = GrpcExporter(
            settings.exporter_endpoint("metrics"),
            headers=settings.headers_of("metrics"),
            compression=grpc_compression(settings.compression_of("metrics")),
        )
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        exporter = HttpExporter(settings.exporter_endpoint("metrics"), headers=settings.headers_of("metrics"))
    _say_trouble_once(exporter, settings, "metrics", said)
    provider = MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)
    return provider, lambda timeout_s: provider.shutdown(timeout_s * 1e3)


def make_logger_provider(settings: Settings, resource: Resource, said: SaidOnce) -> tuple[LoggerProvider, Stop] | None:
    """Exports log records; ``None`` where they go nowhere."""
    kind = settings.exporter_of("logs")
    if kind in {"none", "local"}:
        return None
    exporter: Any
    if kind == "console":
        exporter = ConsoleLogRecordExporter()
    elif settings.protocol_of("logs") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        from nodespan.delivery.senders.otlp_grpc import grpc_compression

        exporter = GrpcExporter(
            settings.exporter_endpoint("logs"),
            headers=settings.headers_of("logs"),
            compression=grpc_compression(settings.compression_of("logs")),
        )
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter

        exporter = HttpExporter(settings.exporter_endpoint("logs"), headers=settings.headers_of("logs"))
    _say_trouble_once(exporter, settings, "logs", said)
    processor = BatchLogRecordProcessor(exporter)
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(processor)

    def stop(timeout_s: float) -> None:
        # The public ways have no timeout, and wait for 30 s.
        batches = processor._batch_processor  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        batches.shutdown(round(timeout_s * 1e3))
        provider.shutdown()

    return provider, stop


def _say_trouble_once(exporter: Any, settings: Settings, signal: Signal, said: SaidOnce) -> None:
    """The SDK's exporters log every try that fails; with a destination that is down that is all there is to read."""
    export = exporter.export
    destination = settings.endpoint_of(signal)

    def say(why: str, _will_retry: bool) -> None:
        said.warn(f"{destination} is down", "%s does not take %s now (%s).", destination, signal, why)

    def export_quietly(*args: Any, **kwargs: Any) -> Any:
        with exporting(say):
            return export(*args, **kwargs)

    exporter.export = export_quietly


def make_sender(settings: Settings) -> Sender:
    """Sends to the endpoint of traces."""
    endpoint, headers = settings.exporter_endpoint("traces"), settings.headers_of("traces")
    if settings.protocol_of("traces") == "grpc":
        from nodespan.delivery.senders.otlp_grpc import GrpcSender

        return GrpcSender(endpoint, headers, settings.compression_of("traces"))
    from nodespan.delivery.senders.otlp_http import HttpSender

    return HttpSender(endpoint, headers)
