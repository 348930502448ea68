"""Every metric instrument, made from the table of names."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, ref

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Observation

from nodespan import semconv
from nodespan._version import __version__
from nodespan.spans.guard import Guard, set_failure_counter

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import Span

Labels: TypeAlias = Mapping[str, str | int | None]
"""Labels of one value. Those that are ``None`` are left out."""

Readings: TypeAlias = Iterable[tuple[float, Labels]]
"""What a source says of one metric when it is asked: values, and the labels of each."""

_Source = TypeVar("_Source")

(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
_RECORDING: Final = Guard("record a metric")
_READING: Final = Guard("read an observed metric")
_MAX_PUT_OFF: Final = 4096
"""Values that wait for the next record or collection; only a provider that nobody reads lets as many come together."""


class _GarbageCollection:
    """Whether Python collects garbage at this moment.

    That is when abandoned work ends, and so is measured. It may be in the midst of the SDK, which makes objects while
    it holds locks that it cannot take twice: a value recorded then could wait for itself for ever. So it is put off.
    """

    runs = False

    @classmethod
    def note(cls, phase: str, _: object) -> None:
        cls.runs = phase == "start"


_known: Final[dict[int, tuple[ref[MeterProvider], Instruments]]] = {}
"""By the provider's identity: some providers, being dataclasses, are equal to others and have no hash."""


def get_instruments(meter_provider: MeterProvider | None = None) -> Instruments:
    """The instruments on the given provider, else on the global one. The same object each time.

    To be asked anew for each piece of work, so that a provider which is set later counts from then on.
    """
    provider = meter_provider if meter_provider is not None else metrics.get_meter_provider()
    key = id(provider)
    found = _known.get(key)
    if found is None:
        made = Instruments(provider)
        found = _known.setdefault(key, (ref(provider, lambda _: _known.pop(key, None)), made))
        if found[1] is made:  # of two threads that come here one alone registers
            made.register_observables()
    return found[1]


def exemplar_context(span: Span) -> Context:
    """A context from which an exemplar takes this span, and nothing else."""
    return Context({_SPAN_KEY: span})


class Instruments:
    """The metrics of one meter provider, by their names in ``semconv``. Safe from any thread; never raises.

    Attributes:
        are_live: Whether a real provider stands behind them. If not, nothing is done and nothing is kept.
    """

    def __init__(self, meter_provider: MeterProvider) -> None:
        self._meter = meter_provider.get_meter(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        # Whatever the API itself defines is a stand-in: a meter that does nothing, or the proxy of one still to come.
        self.are_live = not type(self._meter).__module__.startswith(metrics.__name__) and getattr(
            meter_provider, "is_live", True
        )
        self._has_observables = False
        self._writers: dict[str, Callable[..., None]] = {}
        self._put_off: deque[tuple[str, float, Labels, Context | None]] = deque(maxlen=_MAX_PUT_OFF)
        self._sources: WeakKeyDictionary[Any, Mapping[str, Callable[[Any], Readings]]] = WeakKeyDictionary()

    def record(
        self, name: str, value: float, labels: Labels, context: Context | None = None, *, later: bool = False
    ) -> None:
        """Adds a value to a histogram, a counter or an up-down counter.

        Args:
            name: The metric's name in ``semconv``.
            value: In the metric's unit.
            labels: Those that ``semconv`` names for the metric. The mapping must not change afterwards.
            context: Where an exemplar finds its trace; the current context if not given.
            later: Put it off to the next record or collection, for whoever must not call a meter now.
        """
        if not self.are_live:
            return
        if later or _GarbageCollection.runs:
            self._put_off.append((name, value, labels, context))
            return
        if self._put_off:
            self._catch_up()
        self._write(name, value, labels, context)

    def observe(self, source: _Source, readings: Mapping[str, Callable[[_Source], Readings]]) -> None:
        """Has a source asked at each collection, for as long as it lives. Doing it again changes nothing.

        Equal labels of several sources are added up. What is asked runs on the collecting thread, while the provider
        holds a lock: it must be quick, and no lock may be held at this call that it takes itself.

        Args:
            source: Held weakly.
            readings: By metric name, functions of the source.
        """
        if self.are_live and source not in self._sources:
            self._sources[source] = readings

    def unobserve(self, source: object) -> None:
        """Ends the reading of a source whose work is over."""
        self._sources.pop(source, None)

    def set_live(self, *, is_live: bool) -> None:
        """Starts or stops recording, on a provider whose exporter comes and goes."""
        self.are_live = is_live
        if not is_live:
            self._put_off.clear()
        self.register_observables()

    def register_observables(self) -> None:
        """Makes the instruments that are asked at each collection, once, as soon as they are live."""
        if not self.are_live or self._has_observables:
            return
        self._has_observables = True
        if _GarbageCollection.note not in gc.callbacks:
            gc.callbacks.append(_GarbageCollection.note)
        for entry in semconv.NAMES.values():
            if entry.kind == "metric" and entry.type.startswith("observable "):
                kind = entry.type.replace("updown", "up_down_").replace(" ", "_")
                create = getattr(self._meter, f"create_{kind}")
                create(entry.name, [self._reader(entry.name)], entry.unit, entry.meaning)

    def _write(self, name: str, value: float, labels: Labels, context: Context | None) -> None:
        if None in labels.values():
            labels = {label: given for label, given in labels.items() if given is not None}
        try:
            (self._writers.get(name) or self._make(name))(value, labels, context)
        except Exception as error:  # noqa: BLE001 see Guard
            _RECORDING.failed(error)

    def _catch_up(self) -> None:
        """Writes what was put off until now; what fails anew is put off again by the guard, and not waited for."""
        for _ in range(len(self._put_off)):
            try:
                put_off = self._put_off.popleft()
            except IndexError:  # another thread was quicker
                return
            self._write(*put_off)

    def _make(self, name: str) -> Callable[..., None]:
        """Two threads may both come here: the SDK gives both the same instrument."""
        entry = semconv.NAMES[name]
        writer: Callable[..., None]
        if entry.type == "histogram":
            writer = self._meter.create_histogram(
                name, entry.unit, entry.meaning, explicit_bucket_boundaries_advisory=entry.buckets
            ).record
        elif entry.type == "counter":
            writer = self._meter.create_counter(name, entry.unit, entry.meaning).add
        else:
            writer = self._meter.create_up_down_counter(name, entry.unit, entry.meaning).add
        self._writers[name] = writer
        return writer

    def _reader(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            self._catch_up()
            totals: dict[tuple[tuple[str, str | int | None], ...], float] = {}
            for reference in self._sources.keyrefs():  # a copy, made at once
                source = reference()
                reading = self._sources.get(source, {}).get(name) if source is not None else None
                if reading is not None:
                    with _READING:
                        for value, labels in reading(source):
                            key = tuple(labels.items())
                            totals[key] = totals.get(key, 0) + value
            return [Observation(total, dict(key)) for key, total in totals.items()]

        return read


def _count_failure(operation: str) -> None:
    # Put off, so that a meter that fails is not called again while its failure is reported.
    get_instruments().record(semconv.TELEMETRY_ERRORS, 1, {semconv.TELEMETRY_ERROR_KIND: operation}, later=True)


set_failure_counter(_count_failure)
