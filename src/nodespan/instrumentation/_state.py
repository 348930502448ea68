"""Whether an instrumentor is active, and with which providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nodespan.spans.instruments import get_instruments
from nodespan.spans.scope import current_scope, get_tracer, is_suppressed, makes_spans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer

    from nodespan.spans.instruments import Instruments


class Providers(NamedTuple):
    """Makes a call's span and records its metrics."""

    tracer: Tracer
    instruments: Instruments


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

    def providers(self, context: Context | None = None) -> Providers | None:
        """The providers for a call in the context (the current one if not given).

        They are those of the scope around, so that all of a run is recorded in one place, else the instrumentor's own.
        ``None`` where the instrumentor is inactive, the program has suppressed instrumentation, or there is neither a
        tracer nor a meter provider.
        """
        if self.tracer is None or is_suppressed(context):
            return None
        if (outer := current_scope(context)) is not None:
            here = Providers(outer.tracer, outer.instruments)
        else:
            here = Providers(self.tracer, get_instruments(self.meter_provider))
        return here if makes_spans(here.tracer) or here.instruments.are_live else None
