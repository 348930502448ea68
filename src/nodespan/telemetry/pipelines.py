"""The pipelines of an active configuration: traces, metrics and logs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final
from weakref import WeakValueDictionary

from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from typing_extensions import override

from nodespan.delivery.outage_log import OutageLog
from nodespan.delivery.processor import StoreSpanProcessor
from nodespan.delivery.readings import DESTINATION_READINGS, READINGS
from nodespan.fastspan import NodespanTracerProvider
from nodespan.spans.guard import Guard
from nodespan.spans.instruments import get_instruments
from nodespan.spans.log import logger, warn
from nodespan.store import open_store
from nodespan.telemetry.logger_provider import NodespanLoggerProvider
from nodespan.telemetry.logs import OTelHandler
from nodespan.telemetry.meter_provider import NodespanMeterProvider
from nodespan.telemetry.providers import make_logger_provider, make_meter_provider, make_resource, valid_sdk_variables

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Span

    from nodespan.telemetry.providers import Meters, Stop
    from nodespan.telemetry.settings import Settings

_LEAST_S: Final = 0.05
_STOPPING: Final = Guard("stop an exporter")


class _Attached(SpanProcessor):
    """Stays on a foreign provider, as a processor cannot be removed, and delegates to the active processor.

    A span that is open while the active one is exchanged ends at the one that it started with.
    """

    def __init__(self) -> None:
        self._active = _Receiver(None)
        self._earlier: list[_Receiver] = []

    def use(self, target: SpanProcessor | None) -> None:
        """Passes on the spans that start from now on; with ``None`` none of them."""
        self._earlier = [one for one in (*self._earlier, self._active) if one.target is not None and one.open]
        self._active = _Receiver(target)

    @override
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        active = self._active
        if active.target is not None:
            active.open[span.get_span_context().span_id] = span
            active.target.on_start(span, parent_context)

    @override
    def on_end(self, span: ReadableSpan) -> None:
        span_id = span.context.span_id if span.context is not None else 0
        receiver = active = self._active
        if active.open.pop(span_id, None) is None:
            # A span that started before the first configuration ends at the active processor.
            receiver = next((one for one in self._earlier if one.open.pop(span_id, None) is not None), active)
        if receiver.target is not None:
            receiver.target.on_end(span)

    @override
    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        target = self._active.target
        return target is None or target.force_flush(timeout_millis)

    @override
    def shutdown(self) -> None:
        if (target := self._active.target) is not None:
            target.shutdown()


class _Receiver:
    """A processor, and by span id the open spans that started while it was the active one."""

    def __init__(self, target: SpanProcessor | None) -> None:
        self.target = target
        self.open: WeakValueDictionary[int, Span] = WeakValueDictionary()


class Pipelines:
    """Sets up the three signals, and stops them.

    Attributes:
        delivery: Receives the spans; ``None`` if nodespan does not store them.
    """

    # Made once and global for the life of the process: OpenTelemetry's globals can be set only once.
    _tracers: ClassVar[NodespanTracerProvider | None] = None
    _meters: ClassVar[NodespanMeterProvider] = NodespanMeterProvider()
    _loggers: ClassVar[NodespanLoggerProvider] = NodespanLoggerProvider()
    _attached: ClassVar[list[tuple[Any, _Attached]]] = []  # not a mapping: a provider may be a data class, or a proxy

    def __init__(self, settings: Settings) -> None:
        self.delivery: StoreSpanProcessor | None = None
        self._settings = settings
        self._outages = OutageLog()
        self._stops: list[Stop] = []

    @property
    def is_shut_down(self) -> bool:
        """Whether the program has shut down the tracer provider."""
        return self.delivery is not None and self.delivery.is_shut_down

    def start(self) -> None:
        """Sets up the signals. If it raises, ``stop`` stops those that were started.

        Raises:
            ConfigurationError: A variable of nodespan's is invalid.
        """
        existing: Any = trace.get_tracer_provider()
        accepts_processors = hasattr(existing, "add_span_processor")
        if isinstance(existing, trace.ProxyTracerProvider | NodespanTracerProvider):
            self._set_up_all()
        elif self._settings.attach and accepts_processors:
            self._attach(existing)
        else:
            warn(
                "configure.foreign_provider",
                "The program has set a tracer provider (%s), which creates and exports the spans. %s",
                type(existing).__name__,
                "configure(attach=True) also stores and exports them."
                if accepts_processors
                else "nodespan cannot store them, because it has no add_span_processor().",
            )

    def stop(self, deadline: float) -> None:
        """Stops every signal: metrics after spans, whose last figures they export.

        Args:
            deadline: On the monotonic clock.
        """
        while self._stops:
            stop = self._stops.pop(0)
            with _STOPPING:
                stop(max((deadline - time.monotonic()) / (len(self._stops) + 1), _LEAST_S))

    @classmethod
    def shut_down_others(cls) -> None:
        """Shuts down, at interpreter exit, the processors that others have added to our provider."""
        if cls._tracers is not None:
            with _STOPPING:
                cls._tracers.shutdown_others()

    def _set_up_all(self) -> None:
        settings = self._settings
        if settings.is_disabled:
            provider = self._tracer_provider()
            provider.suspend()
            return
        processors = self._make_processors()  # first, as it rejects invalid variables
        with valid_sdk_variables():
            resource = make_resource(settings)
            sampler = TracerProvider(resource=resource, shutdown_on_exit=False).sampler
            limits = SpanLimits()
            provider = self._tracer_provider()
        self._stops.append(lambda timeout_s: self._stop_traces(provider, timeout_s))
        provider.apply(resource, sampler, limits, processors)
        self._start_metrics_and_logs(resource)

    @classmethod
    def _tracer_provider(cls) -> NodespanTracerProvider:
        existing = trace.get_tracer_provider()
        if isinstance(existing, NodespanTracerProvider):
            return existing
        cls._tracers = provider = NodespanTracerProvider(cls._meters)
        trace.set_tracer_provider(provider)
        return provider

    def _stop_traces(self, provider: NodespanTracerProvider, timeout_s: float) -> None:
        provider.suspend()
        if self.delivery is not None:
            self.delivery.shutdown(timeout_s)

    def _attach(self, existing: Any) -> None:
        attached = next((attached for provider, attached in self._attached if provider is existing), None)
        if attached is None:
            attached = _Attached()
            existing.add_span_processor(attached)
            self._attached.append((existing, attached))
        delivery = self._make_delivery()
        self._stops.append(lambda timeout_s: self._detach(attached, delivery, timeout_s))
        attached.use(delivery)
        with valid_sdk_variables():
            resource = make_resource(self._settings)
        self._start_metrics_and_logs(resource)

    def _detach(self, attached: _Attached, delivery: StoreSpanProcessor, timeout_s: float) -> None:
        attached.use(None)
        delivery.shutdown(timeout_s)

    def _start_metrics_and_logs(self, resource: Resource) -> None:
        with valid_sdk_variables():
            self._use_meters(make_meter_provider(self._settings, resource, self._outages))
            self._use_loggers(make_logger_provider(self._settings, resource, self._outages))
        self._observe()

    def _make_processors(self) -> list[SpanProcessor]:
        exporters = self._settings.exporters_of("traces")
        processors: list[SpanProcessor] = []
        if "otlp" in exporters or "local" in exporters:
            processors.append(self._make_delivery())
        if "console" in exporters:
            processors.append(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stdout)))
        return processors

    def _make_delivery(self) -> StoreSpanProcessor:
        settings = self._settings
        self.delivery = StoreSpanProcessor(
            open_store(),
            settings.destination(),
            self._outages,
            settings.write_interval_s,
            settings.queue_max,
            settings.running_after_s,
        )
        return self.delivery

    def _observe(self) -> None:
        """Reports the figures of delivery, once the meter provider is there."""
        delivery, instruments = self.delivery, get_instruments()
        if delivery is not None:
            has_destination = self._settings.destination() is not None
            instruments.observe(delivery, READINGS | (DESTINATION_READINGS if has_destination else {}))
            self._stops.append(lambda _: instruments.unobserve(delivery))

    def _use_meters(self, made: Meters | None) -> None:
        existing: Any = metrics.get_meter_provider()
        if made is None:
            return
        provider, tallies, stop = made
        if existing is not self._meters and not type(existing).__module__.startswith(metrics.__name__):
            warn(
                "configure.foreign_meter_provider",
                "The program has set a meter provider (%s): metrics are recorded with it, and it exports them.",
                type(existing).__name__,
            )
            with _STOPPING:
                stop(_LEAST_S)
            return
        self._meters.use(provider, tallies, stop)
        if existing is not self._meters:
            metrics.set_meter_provider(self._meters)
        get_instruments(self._meters).set_live(is_live=True)
        self._stops.append(self._stop_meters)

    def _stop_meters(self, timeout_s: float) -> None:
        try:
            self._meters.shutdown(timeout_s * 1e3)
        finally:
            get_instruments(self._meters).set_live(is_live=False)

    def _use_loggers(self, made: tuple[Any, Stop] | None) -> None:
        if made is None:
            return
        self._loggers.use(*made)
        existing: Any = _logs.get_logger_provider()
        if existing is not self._loggers and type(existing).__module__.startswith(_logs.__name__):
            _logs.set_logger_provider(self._loggers)
        handler = OTelHandler(made[0].get_logger("nodespan"))
        logger.addHandler(handler)
        self._stops.append(lambda _: logger.removeHandler(handler))
        self._stops.append(lambda timeout_s: self._loggers.shutdown(timeout_s * 1e3))
