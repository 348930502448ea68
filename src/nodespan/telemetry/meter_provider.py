"""The one meter provider of ours in a process. Each ``configure()`` exchanges what is behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import metrics
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    Attributes = Mapping[str, Any] | None

_NONE: Final = metrics.NoOpMeterProvider()


class _Instrument:
    """An instrument that outlives the meter behind it."""

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


class _Gauge(_Instrument, metrics._Gauge):  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] the API has no public name
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
    """A meter that outlives the provider behind it. An instrument is made once for its kind and name."""

    def __init__(self, arguments: tuple[Any, ...], provider: metrics.MeterProvider) -> None:
        super().__init__(arguments[0], arguments[1], arguments[2])
        self._arguments = arguments
        self._lock = threading.Lock()
        self._behind = provider.get_meter(*arguments)
        self._instruments: dict[tuple[Any, ...], Any] = {}

    def use(self, provider: metrics.MeterProvider) -> None:
        """Records in this provider from now on."""
        with self._lock:
            self._behind = provider.get_meter(*self._arguments)
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


class NodespanMeterProvider(metrics.MeterProvider):
    """A meter provider whose SDK provider can be exchanged; without one it records nothing.

    Meters and instruments that were obtained earlier record in the new one from then on. Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._behind: metrics.MeterProvider = _NONE
        self._meters: dict[tuple[Any, ...], _Meter] = {}

    @property
    def is_live(self) -> bool:
        """Whether measurements are recorded."""
        return self._behind is not _NONE

    def use(self, provider: metrics.MeterProvider | None) -> None:
        """Records in this provider from now on; in none with ``None``."""
        with self._lock:
            self._behind = provider if provider is not None else _NONE
            for meter in self._meters.values():
                meter.use(self._behind)

    @override
    def get_meter(
        self, name: str, version: str | None = None, schema_url: str | None = None, attributes: Attributes = None
    ) -> metrics.Meter:
        arguments = name, version, schema_url, attributes
        key = name, version, schema_url, repr(attributes)
        with self._lock:
            found = self._meters.get(key)
            if found is None:
                found = self._meters[key] = _Meter(arguments, self._behind)
            return found
