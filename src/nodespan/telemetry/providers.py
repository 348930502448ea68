"""Creates the SDK's providers from the settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, ConsoleLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource

from nodespan.delivery.outage_log import OutageLog, exporting
from nodespan.delivery.senders.answer import readable
from nodespan.telemetry.env import choice, number, report_problem
from nodespan.telemetry.tally import Tallies

if TYPE_CHECKING:
    from nodespan.delivery.destination import Destination, Signal
    from nodespan.telemetry.settings import Settings

Stop = Callable[[float], object]
"""Flushes and stops within a number of seconds."""
Meters = tuple[MeterProvider, Tallies | None, Stop]
Loggers = tuple[LoggerProvider, Stop]

_NUMBERS: Final = {
    "OTEL_METRIC_EXPORT_INTERVAL": 60_000.0,
    "OTEL_METRIC_EXPORT_TIMEOUT": 30_000.0,
    "OTEL_BLRP_SCHEDULE_DELAY": 1_000.0,
    "OTEL_BLRP_EXPORT_TIMEOUT": 30_000.0,
    "OTEL_BLRP_MAX_QUEUE_SIZE": 2_048.0,
    "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE": 512.0,
}
"""Variables that only the SDK reads, and for which it raises."""
_COUNTS: Final = tuple(
    f"OTEL_{of}_COUNT_LIMIT"
    for of in (
        "ATTRIBUTE", "SPAN_ATTRIBUTE", "SPAN_EVENT", "SPAN_LINK", "EVENT_ATTRIBUTE", "LINK_ATTRIBUTE",
        "LOGRECORD_ATTRIBUTE",
    )
) + tuple(f"OTEL_{of}ATTRIBUTE_VALUE_LENGTH_LIMIT" for of in ("", "SPAN_", "LOGRECORD_"))  # fmt: skip


_EXEMPLARS: Final = "OTEL_METRICS_EXEMPLAR_FILTER"
_EXEMPLAR_FILTERS: Final = ("trace_based", "always_on", "always_off")
_BATCH: Final = "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"
_QUEUE: Final = "OTEL_BLRP_MAX_QUEUE_SIZE"


@contextmanager
def valid_sdk_variables() -> Generator[None]:
    """Hides or corrects the variables that are invalid for the SDK while it reads them, and reports each."""
    corrected = {**_corrected_numbers(), **_corrected_batch()}
    if os.environ.get(_EXEMPLARS):
        corrected[_EXEMPLARS] = choice((_EXEMPLARS,), _EXEMPLAR_FILTERS, _EXEMPLAR_FILTERS[0])
    before = {name: os.environ.get(name) for name in corrected}
    _set_variables(corrected)
    try:
        yield
    finally:
        _set_variables(before)


def _corrected_numbers() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name, default in _NUMBERS.items():
        if (value := os.environ.get(name, "").strip()) and number((name,), default) != _float(value):
            found[name] = None
    for name in _COUNTS:
        value = os.environ.get(name, "").strip()
        if value and not value.isdigit():
            report_problem(f"{name} is {value!r}; it must be a whole number. The default is used.")
            found[name] = None
    return found


def _corrected_batch() -> dict[str, str | None]:
    """A batch of log records that is not above the queue, also where the queue alone is set."""
    queue, batch = number((_QUEUE,), _NUMBERS[_QUEUE]), number((_BATCH,), _NUMBERS[_BATCH])
    if batch <= queue:
        return {}
    if os.environ.get(_BATCH):
        report_problem(f"{_BATCH} is {batch:g}, above the size of the queue, {queue:g}, which is used.")
    return {_BATCH: f"{queue:.0f}"}


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _float(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def make_resource(settings: Settings) -> Resource:
    """Describes the process. ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` take precedence over arguments."""
    given: dict[str, Any] = dict(settings.resource_attributes)
    if settings.service_name:
        given[SERVICE_NAME] = settings.service_name
    return Resource.create(given).merge(OTELResourceDetector().detect())


def make_meter_provider(settings: Settings, resource: Resource, outages: OutageLog) -> Meters | None:
    """Exports metrics every ``OTEL_METRIC_EXPORT_INTERVAL``; ``None`` where they are not recorded."""
    exporters: list[Any] = []
    if "console" in settings.exporters_of("metrics"):
        exporters.append(ConsoleMetricExporter())
    if (destination := settings.destination("metrics")) is not None:
        exporters.append(_metric_exporter(destination))
        _log_outages(exporters[-1], destination, "metrics", outages)
    if not exporters:
        return None
    tallies = Tallies() if Tallies.usable(exporters) else None
    if tallies is not None:
        tallies.add_to(exporters[0])
    readers = [PeriodicExportingMetricReader(exporter) for exporter in exporters]
    provider = MeterProvider(readers, resource, shutdown_on_exit=False)
    return provider, tallies, lambda timeout_s: provider.shutdown(timeout_s * 1e3)


def make_logger_provider(settings: Settings, resource: Resource, outages: OutageLog) -> Loggers | None:
    """Exports log records; ``None`` where they are not recorded."""
    exporters: list[Any] = []
    if "console" in settings.exporters_of("logs"):
        exporters.append(ConsoleLogRecordExporter())
    if (destination := settings.destination("logs")) is not None:
        exporters.append(_log_exporter(destination))
        _log_outages(exporters[-1], destination, "logs", outages)
    if not exporters:
        return None
    processors = [BatchLogRecordProcessor(exporter) for exporter in exporters]
    provider = LoggerProvider(resource, shutdown_on_exit=False)
    for processor in processors:
        provider.add_log_record_processor(processor)

    def stop(timeout_s: float) -> None:
        for processor in processors:
            # The public methods have no timeout and wait for 30 s.
            batches = getattr(processor, "_batch_processor", None)
            if batches is not None:
                batches.shutdown(round(timeout_s * 1e3))
        provider.shutdown()

    return provider, stop


def _metric_exporter(destination: Destination) -> Any:
    if destination.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter(**_grpc_arguments(destination))
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter(**_http_arguments(destination, "METRICS"))


def _log_exporter(destination: Destination) -> Any:
    if destination.protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

        return GrpcExporter(**_grpc_arguments(destination))
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter

    return HttpExporter(**_http_arguments(destination, "LOGS"))


def _http_arguments(destination: Destination, signal: str) -> dict[str, Any]:
    from opentelemetry.exporter.otlp.proto.http import Compression

    from nodespan.delivery.senders.otlp_http import make_session

    # The SDK makes the session of a credential provider itself.
    has_provider = bool(os.environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{signal}_CREDENTIAL_PROVIDER"))
    return {
        "session": None if has_provider else make_session(),
        "endpoint": destination.endpoint,
        "headers": dict(destination.headers),
        "timeout": destination.timeout_s,
        "compression": {"gzip": Compression.Gzip, "deflate": Compression.Deflate}.get(
            destination.compression, Compression.NoCompression
        ),
        "certificate_file": destination.certificate,
        "client_key_file": destination.client_key,
        "client_certificate_file": destination.client_certificate,
    }


def _grpc_arguments(destination: Destination) -> dict[str, Any]:
    import grpc

    credentials = None
    if not destination.is_insecure:
        from nodespan.delivery.senders.otlp_grpc import channel_credentials

        credentials = channel_credentials(destination)
    is_gzip = destination.compression == "gzip"
    return {
        "endpoint": destination.endpoint,
        "insecure": destination.is_insecure,
        "credentials": credentials,
        "headers": dict(destination.headers),
        "timeout": destination.timeout_s,
        "compression": grpc.Compression.Gzip if is_gzip else grpc.Compression.NoCompression,
    }


def _log_outages(exporter: Any, destination: Destination, signal: Signal, outages: OutageLog) -> None:
    """Replaces the SDK's log line for each failed try by one for the begin and one for the end of an outage."""
    export = exporter.export
    subject = f"{destination.label} {signal}"

    def failed(why: str) -> None:
        outages.failed(subject, "Cannot export %s to %s (%s).", signal, destination.label, readable(why, destination))

    def export_quietly(*args: Any, **kwargs: Any) -> Any:
        with exporting(failed):
            result = export(*args, **kwargs)
        if getattr(result, "name", "") == "SUCCESS":
            outages.succeeded(subject, f"Exporting {signal} to {destination.label}")
        return result

    exporter.export = export_quietly
