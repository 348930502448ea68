"""`configure()`: the only place that touches OpenTelemetry's globals."""

from __future__ import annotations

import atexit
import logging
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from nodespan.delivery.ledger import DeliveryReport
from nodespan.delivery.outage_log import SaidOnce
from nodespan.delivery.processor import DESTINATION_READINGS, READINGS, StoreSpanProcessor
from nodespan.errors import ConfigurationError
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import get_instruments
from nodespan.spans.redaction import Redact, set_redaction
from nodespan.store import SqliteStore, open_store
from nodespan.telemetry.logs import OTelHandler
from nodespan.telemetry.providers import Stop, make_logger_provider, make_meter_provider, make_resource
from nodespan.telemetry.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.trace import SpanProcessor

    from nodespan.delivery.senders.answer import Sender

EXIT_S: Final = 1.5
"""Longest time for the last spans, metrics and log records: with the interpreter's own end, leaving takes 2 s."""
_FOR_SPANS: Final = 0.5
"""Part of it in which spans may go out; the rest is for the last metrics and log records."""
_LEAST_S: Final = 0.05

_logger = logging.getLogger("nodespan")
_lock = threading.RLock()
_STOPPING: Final = Guard("shut down")


class Telemetry:
    """What ``configure()`` set up. A context manager: leaving it shuts down.

    Attributes:
        settings: What it was told.
        redact: Every captured text runs through it.
    """

    _current: ClassVar[Telemetry | None] = None

    def __init__(self, settings: Settings, redact: Redact | None) -> None:
        self.settings = settings
        self.redact = redact
        self._delivery: StoreSpanProcessor | None = None
        self._stops: list[Stop] = []
        self._said = SaidOnce()
        set_redaction(redact)
        self._set_up_traces()
        atexit.register(self.shutdown)

    @classmethod
    def of(cls, settings: Settings, redact: Redact | None) -> Telemetry:
        """The process's one, made if there is none yet.

        Raises:
            ConfigurationError: There is one that was told otherwise.
        """
        with _lock:
            if cls._current is None:
                cls._current = cls(settings, redact)
            elif cls._current.settings.zero_code:
                cls._current.add_to_zero_code(settings, redact)
            elif (cls._current.settings, cls._current.redact) != (settings, redact):
                raise ConfigurationError(
                    f"This process was configured before, with {cls._current.settings}. "
                    "Call configure() once, or telemetry.shutdown() before the next time."
                )
            return cls._current

    @property
    def store(self) -> SqliteStore | None:
        """Where this process's spans are kept; ``None`` when they go elsewhere."""
        return self._delivery.store if self._delivery is not None else None

    def force_flush(self, timeout_s: float = 30.0) -> DeliveryReport:
        """Writes and sends what waits, for as long as it may take.

        Returns:
            Where the spans are; it is true when none is missing, and says otherwise by how many.
        """
        if self._delivery is None:
            return DeliveryReport(0, 0, 0, 0)
        self._delivery.force_flush(round(timeout_s * 1e3))
        return self._delivery.report()

    def shutdown(self, timeout_s: float = EXIT_S) -> DeliveryReport:
        """Flushes and stops, in at most this time. What was not sent stays in the store for the next start."""
        deadline = time.monotonic() + timeout_s
        report = self.force_flush(timeout_s * _FOR_SPANS)
        with _lock:
            while self._stops:  # metrics after spans, whose last figures they are to tell
                stop = self._stops.pop(0)
                with _STOPPING:
                    stop(max((deadline - time.monotonic()) / (len(self._stops) + 1), _LEAST_S))
            if Telemetry._current is self:
                Telemetry._current = None
        atexit.unregister(self.shutdown)
        return report

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def add_to_zero_code(self, settings: Settings, redact: Redact | None) -> None:
        """Takes of the program's own ``configure()`` what can still be taken."""
        if redact is not None:
            self.redact = redact
            set_redaction(redact)
        if settings != Settings():
            _logger.warning(
                "opentelemetry-instrument has configured this process by OTEL_* variables. Of configure() only "
                "the redaction hook is taken: give the rest as variables, such as OTEL_SERVICE_NAME."
            )

    def _set_up_traces(self) -> None:
        existing: Any = trace.get_tracer_provider()
        if not hasattr(existing, "add_span_processor"):
            self._set_up_providers()
        elif self.settings.attach:
            delivery = self._make_delivery(None)
            existing.add_span_processor(delivery)
            self._stops.append(lambda _: delivery.shutdown())
        else:
            _logger.warning(
                "A tracer provider is set already (%s): spans are made on it and go where it sends them. "
                "configure(attach=True) keeps them in nodespan's store as well.",
                type(existing).__name__,
            )

    def _set_up_providers(self) -> None:
        resource = make_resource(self.settings)
        meters = make_meter_provider(self.settings, resource, self._said)
        loggers = make_logger_provider(self.settings, resource, self._said)
        meter_provider = meters[0] if meters is not None else None
        provider = TracerProvider(resource=resource, shutdown_on_exit=False, meter_provider=meter_provider)
        if (processor := self._make_processor(meter_provider)) is not None:
            provider.add_span_processor(processor)
        trace.set_tracer_provider(provider)
        self._stops.append(lambda _: provider.shutdown())
        if meters is not None:
            metrics.set_meter_provider(meters[0])
            self._stops.append(meters[1])
        if loggers is not None:
            _logs.set_logger_provider(loggers[0])
            handler = OTelHandler(loggers[0].get_logger("nodespan"))
            logging.getLogger("nodespan").addHandler(handler)
            self._stops.append(lambda _: logging.getLogger("nodespan").removeHandler(handler))
            self._stops.append(loggers[1])

    def _make_processor(self, meter_provider: MeterProvider | None) -> SpanProcessor | None:
        kind = self.settings.exporter_of("traces")
        if kind == "console":
            return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout))
        return None if kind == "none" else self._make_delivery(meter_provider)

    def _make_delivery(self, meter_provider: MeterProvider | None) -> StoreSpanProcessor:
        settings = self.settings
        destination = settings.endpoint_of("traces") if settings.exporter_of("traces") == "otlp" else None
        self._delivery = StoreSpanProcessor(
            open_store(),
            destination,
            lambda: make_sender(settings),
            self._said,
            settings.write_interval_s,
            settings.queue_max,
        )
        readings = READINGS if destination is None else READINGS | DESTINATION_READINGS
        get_instruments(meter_provider).observe(self._delivery, readings)
        return self._delivery


def make_sender(settings: Settings) -> Sender:
    """Sends to the endpoint of traces."""
    endpoint, headers = settings.exporter_endpoint("traces"), settings.headers_of("traces")
    if settings.protocol_of("traces") == "grpc":
        from nodespan.delivery.senders.otlp_grpc import GrpcSender

        return GrpcSender(endpoint, headers, settings.compression_of("traces"))
    from nodespan.delivery.senders.otlp_http import HttpSender

    return HttpSender(endpoint, headers)


def configure(
    service_name: str | None = None,
    *,
    endpoint: str | None = None,
    protocol: str | None = None,
    headers: Mapping[str, str] | None = None,
    resource_attributes: Mapping[str, str] | None = None,
    redact: Redact | None = None,
    attach: bool = False,
) -> Telemetry:
    """Sets up traces, metrics and logs for this process, once. ``OTEL_*`` variables go before the arguments.

    Without an endpoint spans go to the local store (``NODESPAN_STORE``), and metrics and logs are not recorded. A
    tracer provider that somebody else has set is respected: spans are made on it and go where it sends them.

    Args:
        service_name: ``service.name`` of the resource.
        endpoint: OTLP address, such as ``http://localhost:4318``.
        protocol: ``"http/protobuf"`` (the default) or ``"grpc"``.
        headers: Sent along with each request.
        resource_attributes: More of the resource.
        redact: Every captured text runs through it before it leaves.
        attach: Add the local store, and the endpoint, to a provider that somebody else has set.

    Returns:
        The same object for the same arguments.

    Raises:
        ConfigurationError: An argument or variable cannot work, or the process is configured otherwise already.
    """
    return Telemetry.of(Settings(service_name, endpoint, protocol, headers, resource_attributes or {}, attach), redact)
