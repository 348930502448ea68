"""Every metric instrument, made from the table of names when it is first used (DESIGN 4.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from opentelemetry import metrics

from nodespan import semconv
from nodespan._version import __version__
from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider

    Labels = Mapping[str, str | int | bool | None]

_RECORDING: Final = Guard("record a metric")
_known: Final[WeakKeyDictionary[MeterProvider, Instruments]] = WeakKeyDictionary()


def get_instruments(meter_provider: MeterProvider | None = None) -> Instruments:
    """The instruments on the given provider, else on the global one. The same object each time."""
    provider = meter_provider if meter_provider is not None else metrics.get_meter_provider()
    found = _known.get(provider)
    if found is None:
        found = _known[provider] = Instruments(provider)
    return found


class Instruments:
    """The metrics of one meter provider, by their names in ``semconv``. Safe from any thread; never raises.

    Labels that are ``None`` are left out. The context, the current one if not given, is where an exemplar finds its
    trace.
    """

    def __init__(self, meter_provider: MeterProvider) -> None:
        self._meter = meter_provider.get_meter(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        self._made: dict[str, Any] = {}

    def record(self, name: str, value: float, labels: Labels, context: Context | None = None) -> None:
        """Adds a value to a histogram."""
        with _RECORDING:
            (self._made.get(name) or self._make(name)).record(value, _given(labels), context)

    def add(self, name: str, value: float, labels: Labels, context: Context | None = None) -> None:
        """Adds to a counter or an up-down counter."""
        with _RECORDING:
            (self._made.get(name) or self._make(name)).add(value, _given(labels), context)

    def _make(self, name: str) -> Any:
        """Two threads may both come here: the SDK gives both an instrument of the same stream."""
        entry = semconv.NAMES[name]
        arguments: dict[str, Any] = {"name": name, "unit": entry.unit, "description": entry.meaning}
        if entry.type == "histogram":
            made = self._meter.create_histogram(**arguments, explicit_bucket_boundaries_advisory=entry.buckets)
        elif entry.type == "counter":
            made = self._meter.create_counter(**arguments)
        else:
            made = self._meter.create_up_down_counter(**arguments)
        self._made[name] = made
        return made


def _given(labels: Labels) -> dict[str, str | int | bool]:
    return {name: value for name, value in labels.items() if value is not None}
