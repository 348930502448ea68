"""`configure()`: the only place that touches OpenTelemetry's globals."""

from __future__ import annotations

import atexit
import logging
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from nodespan.errors import ConfigurationError
from nodespan.spans.redaction import Redact, set_redaction
from nodespan.store import SqliteStore, store_path
from nodespan.telemetry.delivery import StoreSpanProcessor
from nodespan.telemetry.logs import OTelHandler
from nodespan.telemetry.providers import make_logger_provider, make_meter_provider, make_resource
from nodespan.telemetry.sender import make_sender
from nodespan.telemetry.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from nodespan.spans.ledger import DeliveryReport

_logger = logging.getLogger("nodespan")
_lock = threading.Lock()
_EXIT_S = 2.0


class Telemetry:
    """What ``configure()`` set up. A context manager: leaving it shuts down.

    Attributes:
        store: Where this process's spans are kept; ``None`` when they go elsewhere.
    """

    def __init__(self, settings: Settings, redact: Redact | None) -> None:
        self.settings = settings
        self.redact = redact
        self.store: SqliteStore | None = None
        self._processor: StoreSpanProcessor | None = None
        self._shutdowns: list[Any] = []
        self._handler: logging.Handler | None = None

    def force_flush(self, timeout_s: float = 30.0) -> DeliveryReport:
        """Writes and sends what waits, for as long as it may take.

        Returns:
            Where the spans are; it is true when none is missing, and says otherwise by how many.
        """
        from nodespan.spans.ledger import DeliveryReport

        if self._processor is None:
            return DeliveryReport(0, 0, 0, 0)
        self._processor.force_flush(round(timeout_s * 1e3))
        return self._processor.report()

    def shutdown(self, timeout_s: float = _EXIT_S) -> DeliveryReport:
        """Flushes for as long as it may take and stops; what was not sent stays in the store for the next start."""
        report = self.force_flush(timeout_s)
        for shutdown in self._shutdowns:
            shutdown()
        self._shutdowns.clear()
        if self._handler is not None:
            logging.getLogger("nodespan").removeHandler(self._handler)
            self._handler = None
        global _current
        if _current is self:
            _current = None
        return report

    def __enter__(self) -> Telemetry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()


_current: Telemetry | None = None


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
        ConfigurationError: An argument or variable cannot work, or the process is configured differently already.
    """
    settings = Settings(service_name, endpoint, protocol, headers, resource_attributes or {}, attach)
    global _current
    with _lock:
        if _current is not None:
            if (_current.settings, _current.redact) == (settings, redact):
                return _current
            raise ConfigurationError(
                "configure() was called before with other arguments. Call it once, or telemetry.shutdown() first."
            )
        telemetry = Telemetry(settings, redact)
        set_redaction(redact)
        _set_up(telemetry, settings)
        _current = telemetry
    atexit.register(telemetry.shutdown)
    return telemetry


def _set_up(telemetry: Telemetry, settings: Settings) -> None:
    existing: Any = trace.get_tracer_provider()
    if hasattr(existing, "add_span_processor"):
        if settings.attach:
            existing.add_span_processor(_store_processor(telemetry, settings))
        else:
            _logger.info(
                "A tracer provider is set already (%s): spans are made on it and go where it sends them. "
                "configure(attach=True) keeps them in nodespan's store as well.",
                type(existing).__name__,
            )
        return
    resource = make_resource(settings)
    meter_provider = make_meter_provider(settings, resource)
    if meter_provider is not None:
        metrics.set_meter_provider(meter_provider)
        telemetry._shutdowns.append(meter_provider.shutdown)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(_span_processor(telemetry, settings))
    trace.set_tracer_provider(provider)
    telemetry._shutdowns.append(provider.shutdown)
    logger_provider = make_logger_provider(settings, resource)
    if logger_provider is not None:
        _logs.set_logger_provider(logger_provider)
        telemetry._shutdowns.append(logger_provider.shutdown)
        telemetry._handler = OTelHandler(logger_provider.get_logger("nodespan"))
        logging.getLogger("nodespan").addHandler(telemetry._handler)


def _span_processor(telemetry: Telemetry, settings: Settings) -> Any:
    if settings.exporter_of("traces") == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter())
    return _store_processor(telemetry, settings)


def _store_processor(telemetry: Telemetry, settings: Settings) -> StoreSpanProcessor:
    destination = settings.endpoint_of("traces") if settings.exporter_of("traces") == "otlp" else None
    telemetry.store = SqliteStore(store_path())
    sender = make_sender(settings) if destination else None
    telemetry._processor = StoreSpanProcessor(telemetry.store, sender, destination)
    return telemetry._processor
