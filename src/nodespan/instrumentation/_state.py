"""Whether an instrumentor is active, and with which providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nodespan.spans.scope import get_tracer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer


class InstrumentationState:
    """State of one instrumentor in this process. One instance per instrumentor.

    Attributes:
        tracer: Makes the spans of work that no scope of nodespan encloses; ``None`` while the instrumentor is inactive.
        meter_provider: Receives the metrics; the global one if ``None``.
        logger_provider: Receives the log events; the global one if ``None``.
    """

    def __init__(self) -> None:
        self.tracer: Tracer | None = None
        self.meter_provider: MeterProvider | None = None
        self.logger_provider: LoggerProvider | None = None

    def activate(self, providers: Mapping[str, Any]) -> None:
        """Takes the providers from the keyword arguments of ``instrument()``."""
        self.tracer = get_tracer(providers.get("tracer_provider"))
        self.meter_provider = providers.get("meter_provider")
        self.logger_provider = providers.get("logger_provider")

    def deactivate(self) -> None:
        """Stops the instrumentation of further work; open spans end as usual."""
        self.tracer = self.meter_provider = self.logger_provider = None
