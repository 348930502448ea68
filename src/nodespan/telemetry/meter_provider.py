"""nodespan's meter provider, one per process. Each ``configure()`` exchanges its SDK provider."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from typing_extensions import override

from nodespan import semconv
from nodespan.errors import ConfigurationError
from nodespan.spans.fork_lock import ForkLock
from nodespan.telemetry.exchangeable import Exchangeable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    from nodespan.telemetry.tally import Tallies

    Attributes = Mapping[str, Any] | None

_NONE: Final = metrics.NoOpMeterProvider()


class _Instrument:
    """An instrument whose SDK instrument can be exchanged."""

    def __init__(self, create: Callable[[metrics.Meter], Any], meter: metrics.Meter) -> None:
        self._create = create
        self._behind: Any = create(meter)

    def use(self, meter: metrics.Meter) -> None:
        """Records in this meter from now on."""
        self._behind = self._create(meter)


class _Counter(_Instrument, metrics.Counter):
    @override
    def add(self, amount: float, attributes: Attributes = None, context: Context | None = None) -> None:
        self._behind.add(amount, attributes, context)


class _UpDownCounter(_Instrument, metrics.UpDownCounter):
    @override
    def add(self, amount: float, attributes: Attributes = None, context: Context | None = None) -> None:
        self._behind.add(amount, attributes, context)


class _Histogram(_Instrument, metrics.Histogram):
    @override
    def record(self, amount: float, attributes: Attributes = None, context: Context | None = None) -> None:
        self._behind.record(amount, attributes, context)


class _TalliedMeter:
    """Creates nodespan's own histograms, which are counted in tallies; all other instruments are the SDK's."""

    def __init__(self, meter: metrics.Meter, tallies: Tallies) -> None:
        self._meter = meter
        self._tallies = tallies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._meter, name)

    def create_histogram(self, name: str, *arguments: Any, **options: Any) -> Any:
        histogram = self._meter.create_histogram(name, *arguments, **options)
        bounds = options.get("explicit_bucket_boundaries_advisory")
        return histogram if bounds is None else self._tallies.tally(name, bounds, histogram.record)


class _Gauge(_Instrument, metrics._Gauge):  # noqa: SLF001 the API has no public name
    @override
    def set(self, amount: float, attributes: Attributes = None, context: Context | None = None) -> None:
        self._behind.set(amount, attributes, context)


class _ObservableCounter(_Instrument, metrics.ObservableCounter):
    pass


class _ObservableUpDownCounter(_Instrument, metrics.ObservableUpDownCounter):
    pass


class _ObservableGauge(_Instrument, metrics.ObservableGauge):
    pass


class _Meter(metrics.Meter):
    """A meter whose SDK meter can be exchanged. An instrument is created once per kind and name."""

    def __init__(self, arguments: tuple[Any, ...], meter: metrics.Meter) -> None:
        super().__init__(arguments[0], arguments[1], arguments[2])
        self.arguments = arguments
        self._lock = ForkLock()
        self._behind = meter
        self._instruments: dict[tuple[Any, ...], Any] = {}

    def use(self, meter: metrics.Meter) -> None:
        """Records in this meter from now on."""
        with self._lock:
            self._behind = meter
            for instrument in self._instruments.values():
                instrument.use(self._behind)

    def _make(self, kind: Any, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        def create(meter: metrics.Meter) -> Any:
            return getattr(meter, method)(name, *arguments, **options)

        with self._lock:
            found = self._instruments.get((kind, name.lower(), repr(arguments), repr(options)))
            if found is None:
                found = kind(create, self._behind)
                self._instruments[kind, name.lower(), repr(arguments), repr(options)] = found
            return found

    @override
    def create_counter(self, name: str, unit: str = "", description: str = "") -> metrics.Counter:
        return self._make(_Counter, "create_counter", name, unit, description)

    @override
    def create_up_down_counter(self, name: str, unit: str = "", description: str = "") -> metrics.UpDownCounter:
        return self._make(_UpDownCounter, "create_up_down_counter", name, unit, description)

    @override
    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> metrics.Histogram:
        return self._make(
            _Histogram,
            "create_histogram",
            name,
            unit,
            description,
            explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
        )

    @override
    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Any:
        return self._make(_Gauge, "create_gauge", name, unit, description)

    @override
    def create_observable_counter(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableCounter:
        return self._make(_ObservableCounter, "create_observable_counter", name, callbacks, unit, description)

    @override
    def create_observable_up_down_counter(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableUpDownCounter:
        method = "create_observable_up_down_counter"
        return self._make(_ObservableUpDownCounter, method, name, callbacks, unit, description)

    @override
    def create_observable_gauge(
        self, name: str, callbacks: Any = None, unit: str = "", description: str = ""
    ) -> metrics.ObservableGauge:
        return self._make(_ObservableGauge, "create_observable_gauge", name, callbacks, unit, description)


class NodespanMeterProvider(Exchangeable, metrics.MeterProvider):
    """A meter provider whose SDK provider can be exchanged; without one it records nothing.

    Meters and instruments that were obtained earlier record in the new one from then on. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = ForkLock()
        self._behind: Any = _NONE
        self._tallies: Tallies | None = None
        self._meters: dict[tuple[Any, ...], _Meter] = {}

    @property
    def is_live(self) -> bool:
        """Whether measurements are recorded."""
        return self._behind is not _NONE

    @override
    def use(
        self,
        provider: metrics.MeterProvider | None,
        tallies: Tallies | None = None,
        end: Callable[[float], object] | None = None,
    ) -> None:
        """Exchanges the SDK provider; with ``None`` nothing is recorded.

        Args:
            provider: The SDK provider.
            tallies: Counters of nodespan's own histograms. The provider's only exporter must add them to its points.
            end: Shuts it down, within this number of seconds.
        """
        with self._lock:
            self._end = end
            self._behind = provider if provider is not None else _NONE
            self._tallies = tallies
            self._switch()

    def add_metric_reader(self, metric_reader: Any) -> None:
        """Adds a reader, such as Prometheus', until the next ``configure()`` or ``shutdown()``, which shuts it down.

        From then on the SDK records every value, because the reader cannot read tallies. As with the SDK's provider,
        the reader receives only values that are recorded afterwards.

        Raises:
            ConfigurationError: Metrics are not recorded.
        """
        with self._lock:
            if self._behind is _NONE:
                raise ConfigurationError(
                    "add_metric_reader() needs a configuration that records metrics. Set OTEL_EXPORTER_OTLP_ENDPOINT "
                    "or OTEL_METRICS_EXPORTER=console, and call configure() first."
                )
            self._tallies = None  # values counted so far are exported as before
            self._switch()
            self._behind.add_metric_reader(metric_reader)

    def _switch(self) -> None:
        for meter in self._meters.values():
            meter.use(self._meter(meter.arguments))

    def _meter(self, arguments: tuple[Any, ...]) -> Any:
        meter = self._behind.get_meter(*arguments)
        if self._tallies is None or arguments[0] != semconv.SCOPE:
            return meter
        return _TalliedMeter(meter, self._tallies)

    @override
    def get_meter(
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: Attributes = None
    ) -> metrics.Meter:
        arguments = name, version, schema_url, attributes
        key = name, version, schema_url, repr(attributes)
        with self._lock:
            found = self._meters.get(key)
            if found is None:
                found = self._meters[key] = _Meter(arguments, self._meter(arguments))
            return found
