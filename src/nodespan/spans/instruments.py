"""All metric instruments, created from the table of names."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar
from weakref import WeakKeyDictionary, ref

from opentelemetry import metrics
from opentelemetry.context import Context
from opentelemetry.metrics import Observation

from nodespan import semconv
from nodespan._version import __version__
from nodespan.spans.current import SPAN_KEY
from nodespan.spans.guard import Guard, set_failure_counter

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import Span

Labels: TypeAlias = Mapping[str, str | int | None]
"""Labels of one value. Those that are ``None`` are left out."""

Readings: TypeAlias = Iterable[tuple[float, Labels]]
"""Values of one metric from one source, each with its labels."""

_Source = TypeVar("_Source")

_RECORDING: Final = Guard("record a metric")
_READING: Final = Guard("read an observed metric")
_DEFERRED_MAX: Final = 4096
"""Maximum number of deferred values; only a provider without a reader accumulates as many."""


class _GarbageCollection:
    """Whether the garbage collector is running.

    It ends abandoned work, whose values are then recorded. The collector may run inside the SDK, which creates objects
    while it holds non-reentrant locks: recording then could deadlock. Such values are deferred.
    """

    runs = False

    @classmethod
    def note(cls, phase: str, _: object) -> None:
        cls.runs = phase == "start"


_known: Final[dict[int, tuple[ref[MeterProvider], Instruments]]] = {}
"""By the provider's identity: some providers, being dataclasses, are equal to others and have no hash."""


def get_instruments(meter_provider: MeterProvider | None = None) -> Instruments:
    """The instruments on the given provider, else on the global one. The same object each time.

    Call it for each piece of work, so that a provider that is set later is used from then on.
    """
    provider = meter_provider if meter_provider is not None else metrics.get_meter_provider()
    key = id(provider)
    found = _known.get(key)
    if found is None:
        made = Instruments(provider)
        found = _known.setdefault(key, (ref(provider, lambda _: _known.pop(key, None)), made))
        if found[1] is made:  # only one of two concurrent threads registers
            made.register_observables()
    return found[1]


def exemplar_context(span: Span) -> Context:
    """A context with this span only, for an exemplar."""
    return Context({SPAN_KEY: span})


class Instruments:
    """The metrics of one meter provider, by their names in ``semconv``. Safe from any thread; never raises.

    Attributes:
        are_live: Whether their provider is a real one. If not, all methods do nothing.
    """

    def __init__(self, meter_provider: MeterProvider) -> None:
        self._meter = meter_provider.get_meter(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        # The API's own classes are placeholders: a no-op meter, or the proxy of a later one.
        self.are_live = not type(self._meter).__module__.startswith(metrics.__name__) and getattr(
            meter_provider, "is_live", True
        )
        self._has_observables = False
        self._writers: dict[str, Callable[..., None]] = {}
        self._put_off: deque[tuple[str, float, Labels, Context | None]] = deque(maxlen=_DEFERRED_MAX)
        self._sources: WeakKeyDictionary[Any, Mapping[str, Callable[[Any], Readings]]] = WeakKeyDictionary()

    def record(
        self, name: str, value: float, labels: Labels, context: Context | None = None, *, later: bool = False
    ) -> None:
        """Adds a value to a histogram, a counter or an up-down counter.

        Args:
            name: The metric's name in ``semconv``.
            value: In the metric's unit.
            labels: Those that ``semconv`` names for the metric. The mapping must not change afterwards.
            context: Contains the span for an exemplar; the current context if not given.
            later: Defer it to the next record or collection, for callers that must not call a meter now.
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
        """Reads a source at each collection until it is garbage-collected. Idempotent.

        Values with equal labels are added up over all sources; of ages, in seconds, the greatest counts. The readings
        run on the collecting thread, while the provider holds a lock: they must be fast, and must not acquire a lock
        that is held during this call.

        Args:
            source: Held weakly.
            readings: By metric name, functions of the source.
        """
        if self.are_live and source not in self._sources:
            self._sources[source] = readings

    def unobserve(self, source: object) -> None:
        """Stops reading a source."""
        self._sources.pop(source, None)

    def set_live(self, *, is_live: bool) -> None:
        """Starts or stops recording, on a provider whose exporter is added and removed."""
        self.are_live = is_live
        if not is_live:
            self._put_off.clear()
        self.register_observables()

    def register_observables(self) -> None:
        """Creates the observable instruments, once, as soon as the provider is live."""
        if not self.are_live or self._has_observables:
            return
        self._has_observables = True
        if _GarbageCollection.note not in gc.callbacks:
            gc.callbacks.append(_GarbageCollection.note)
        for entry in semconv.NAMES.values():
            if entry.kind == "metric" and entry.type.startswith("observable "):
                kind = entry.type.replace("updown", "up_down_").replace(" ", "_")
                create = getattr(self._meter, f"create_{kind}")
                create(entry.name, [self._reader(entry.name, is_age=entry.unit == "s")], entry.unit, entry.meaning)

    def _write(self, name: str, value: float, labels: Labels, context: Context | None) -> None:
        if None in labels.values():
            labels = {label: given for label, given in labels.items() if given is not None}
        try:
            (self._writers.get(name) or self._make(name))(value, labels, context)
        except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
            _RECORDING.failed(error)

    def _catch_up(self) -> None:
        """Records the deferred values; a failure during it is deferred by the guard and not retried here."""
        for _ in range(len(self._put_off)):
            try:
                put_off = self._put_off.popleft()
            except IndexError:  # another thread has recorded it
                return
            self._write(*put_off)

    def _make(self, name: str) -> Callable[..., None]:
        """Two threads may run this at once: the SDK returns the same instrument to both."""
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

    def _reader(self, name: str, *, is_age: bool) -> Callable[[CallbackOptions], Iterable[Observation]]:
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
                            before = totals.get(key, 0)
                            totals[key] = max(before, value) if is_age else before + value
            return [Observation(total, dict(key)) for key, total in totals.items()]

        return read


def _count_failure(operation: str) -> None:
    # Deferred, so that a failing meter is not called again while its failure is reported.
    get_instruments().record(semconv.TELEMETRY_ERRORS, 1, {semconv.TELEMETRY_ERROR_KIND: operation}, later=True)


set_failure_counter(_count_failure)
