"""nodespan's tracer provider, one per process. Each ``configure()`` exchanges its settings and processors."""

# The SDK has no public way to exchange them; a name that is missing in another version costs only the lean span.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from typing_extensions import override

from nodespan import semconv
from nodespan.fastspan.check import find_difference, lean_tracer
from nodespan.fastspan.processors import LeanProcessors
from nodespan.fastspan.tracer import LeanTracer
from nodespan.spans.fork_lock import ForkLock
from nodespan.spans.guard import Guard
from nodespan.spans.log import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Tracer

_SWITCHING: Final = Guard("switch a tracer on or off")
_ENDING: Final = Guard("shut down a span processor of the program")


class NodespanTracerProvider(TracerProvider):
    """A provider of the SDK's whose resource, sampler, limits and processors can be exchanged.

    Tracers that were obtained earlier use the new ones from their next span on. An open span ends under those that it
    started with. Processors that others have added stay until the interpreter exits. Before the first ``apply`` and
    after ``suspend`` no span is recorded. Safe from any thread.
    """

    def __init__(self, meter_provider: MeterProvider) -> None:
        super().__init__(
            ALWAYS_OFF,
            Resource.get_empty(),
            shutdown_on_exit=False,
            active_span_processor=LeanProcessors(),
            meter_provider=meter_provider,
        )
        self._disabled = False  # OTEL_SDK_DISABLED is read by each configure()
        self._exchange_lock = ForkLock()
        self._given_out: set[Any] = set()
        self._others: list[SpanProcessor] = []
        self._own: tuple[SpanProcessor, ...] = ()
        self._is_on = False
        difference = find_difference()
        self._makes_lean_spans = difference is None
        if difference is not None:
            warn(
                "sdk.unknown_version",
                "nodespan's lean spans do not support this version of opentelemetry-sdk (%s). nodespan uses the "
                "SDK's spans, which cost more.",
                difference,
            )

    def apply(
        self, resource: Resource, sampler: Sampler, limits: SpanLimits, processors: Sequence[SpanProcessor]
    ) -> None:
        """Uses these from the next span on.

        Args:
            resource: Of the spans.
            sampler: Decides which spans are recorded.
            limits: Of attributes, events and links.
            processors: nodespan's own.
        """
        with self._exchange_lock:
            self._resource = resource
            self.sampler = sampler
            self._span_limits = limits
            self._own = tuple(processors)
            self._exchange(is_on=True)

    def suspend(self) -> None:
        """Records nothing from now on, until the next ``apply``."""
        with self._exchange_lock:
            self.sampler = ALWAYS_OFF
            self._own = ()
            self._exchange(is_on=False)

    def shutdown_others(self) -> None:
        """Shuts down the processors that others have added, at interpreter exit: each of them, whatever one raises."""
        with self._exchange_lock:
            others, self._others = self._others, []
        for processor in others:
            try:
                processor.shutdown()
            except Exception as error:  # noqa: BLE001 reported
                _ENDING.failed(error)
            except BaseException:  # noqa: BLE001, S110 an exit, which has begun already
                pass

    @override
    def shutdown(self) -> None:
        """Shuts down all processors. Those that others have added receive no span of a later configuration."""
        super().shutdown()
        with self._exchange_lock:
            self._others = []

    @override
    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        with self._exchange_lock:
            self._others.append(span_processor)
            super().add_span_processor(span_processor)

    @override
    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> Tracer:
        arguments = instrumenting_module_name, instrumenting_library_version, schema_url, attributes
        with self._exchange_lock:
            tracer: Any = super().get_tracer(*arguments)
            if self._makes_lean_spans and instrumenting_module_name == semconv.SCOPE and type(tracer) is sdk.Tracer:
                tracer = self._tracers[tracer._instrumentation_scope] = self._lean(tracer)
            if tracer not in self._given_out:
                self._given_out.add(tracer)
                self._switch(tracer)
            return tracer

    def _lean(self, tracer: sdk.Tracer) -> sdk.Tracer:
        if type(tracer._tracer_metrics).__name__ != "NoOpTracerMetrics":
            return tracer  # the SDK counts its own spans: OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED
        return lean_tracer(tracer, self._meter_provider)

    def _exchange(self, *, is_on: bool) -> None:
        # New ones, as an open span reports its end to the processors that it started with.
        processors = LeanProcessors()
        for processor in (*self._own, *self._others):
            processors.add_span_processor(processor)
        self._active_span_processor = processors
        self._is_on = is_on
        for tracer in self._given_out:
            self._switch(tracer)

    def _switch(self, tracer: Any) -> None:
        tracer.resource = self._resource
        tracer.span_processor = self._active_span_processor
        tracer._span_limits = self._span_limits
        tracer.sampler = self.sampler
        # With a sampler alone, ids of spans that are never recorded would be current.
        with _SWITCHING:
            tracer._set_tracer_config(sdk._TracerConfig(is_enabled=self._is_on))
        if isinstance(tracer, LeanTracer):
            tracer.refresh()
