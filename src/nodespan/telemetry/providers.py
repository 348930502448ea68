"""The SDK's providers as the settings ask for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

if TYPE_CHECKING:
    from nodespan.telemetry.settings import Settings


def make_resource(settings: Settings) -> Resource:
    """What the process is. ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` go before the arguments."""
    given: dict[str, Any] = dict(settings.resource_attributes)
    if settings.service_name:
        given[SERVICE_NAME] = settings.service_name
    detected = Resource.create({})
    named = detected.attributes.get(SERVICE_NAME, "")
    if str(named).startswith("unknown_service"):
        return detected.merge(Resource(given))
    return Resource(given).merge(detected)


def make_meter_provider(settings: Settings, resource: Resource) -> MeterProvider | None:
    """Exports metrics every ``OTEL_METRIC_EXPORT_INTERVAL``; ``None`` where they go nowhere."""
    kind = settings.exporter_of("metrics")
    if kind == "none":
        return None
    exporter: Any
    if kind == "console":
        exporter = ConsoleMetricExporter()
    elif settings.protocol_of("metrics") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        exporter = GrpcExporter(endpoint=settings.exporter_endpoint("metrics"), headers=_headers(settings))
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        exporter = HttpExporter(endpoint=settings.exporter_endpoint("metrics"), headers=_headers(settings))
    return MeterProvider([PeriodicExportingMetricReader(exporter)], resource, shutdown_on_exit=False)


def make_logger_provider(settings: Settings, resource: Resource) -> LoggerProvider | None:
    """Exports log records; ``None`` where they go nowhere."""
    kind = settings.exporter_of("logs")
    if kind == "none":
        return None
    exporter: Any
    if kind == "console":
        exporter = ConsoleLogRecordExporter()
    elif settings.protocol_of("logs") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        exporter = GrpcExporter(endpoint=settings.exporter_endpoint("logs"), headers=_headers(settings))
    else:
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter

        exporter = HttpExporter(endpoint=settings.exporter_endpoint("logs"), headers=_headers(settings))
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return provider


def _headers(settings: Settings) -> dict[str, str] | None:
    return dict(settings.headers) if settings.headers else None
