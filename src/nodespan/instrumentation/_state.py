"""Whether an instrumentor is active, and with which providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nodespan.spans.current import is_suppressed
from nodespan.spans.instruments import get_instruments
from nodespan.spans.scope import current_scope, enclosing, get_tracer, makes_spans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import LoggerProvider
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer

    from nodespan.spans.instruments import Instruments
    from nodespan.spans.scope import SpanScope


class Surroundings(NamedTuple):
    """Tracer, instruments and parent context for the span of a call.

    Attributes:
        tracer: Makes the span.
        instruments: Record its metrics.
        context: What it is started in.
        around: The scope around, found in the context.
    """

    tracer: Tracer
    instruments: Instruments
    context: Context
    around: SpanScope | None


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
        """Reads the providers from the keyword arguments of ``instrument()``."""
        self.tracer = get_tracer(providers.get("tracer_provider"))
        self.meter_provider = providers.get("meter_provider")
        self.logger_provider = providers.get("logger_provider")

    def deactivate(self) -> None:
        """Stops the instrumentation of further work; open spans end as usual."""
        self.tracer = self.meter_provider = self.logger_provider = None

    def surroundings(self, context: Context | None = None) -> Surroundings | None:
        """Tracer, instruments and parent for a call in the context (the current one if not given).

        Tracer and instruments are those of the scope around, so that all of a run is recorded in one place, else the
        instrumentor's own. ``None`` where the instrumentor is inactive, the program has suppressed instrumentation, or
        there is neither a tracer nor a meter provider.
        """
        if self.tracer is None:
            return None
        if context is None:
            context, around = enclosing()
        else:
            around = current_scope(context)
        if around is not None:
            tracer, instruments = around.tracer, around.instruments
        elif is_suppressed(context):
            return None
        else:
            tracer, instruments = self.tracer, get_instruments(self.meter_provider)
        if not (instruments.are_live or makes_spans(tracer)):
            return None
        return Surroundings(tracer, instruments, context, around)
