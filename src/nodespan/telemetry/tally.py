"""Histograms that are counted in Python dictionaries and added to the SDK's points at each export.

The SDK records a value in 5 to 12 µs, most of it for views, filters and copies that nodespan's own histograms do not
use. A tally does so in about 1 µs. The SDK records the first value of each set of labels, and so creates the point with
its resource, scope, start time and cardinality limit; the tally counts the other values and adds them to the point.

This requires explicit buckets, cumulative temporality and a single exporter; see ``Tallies.usable``.
"""

from __future__ import annotations

import math
import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from opentelemetry import trace
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Metric, MetricsData

from nodespan import semconv
from nodespan.fastspan import LeanSpan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context

    Write = Callable[[float, Mapping[str, Any] | None, Context | None], None]
    Key = tuple[tuple[str, Any], ...]

_MAX_CELLS: Final = 2000
"""Sets of labels per histogram, as the SDK's default limit; further ones are recorded by the SDK alone."""
_OVERFLOW: Final = frozenset({("otel.metric.overflow", True)})
_SLOW_VARIABLES: Final = {
    "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit_bucket_histogram",
    "OTEL_METRICS_EXEMPLAR_FILTER": "trace_based",
}
"""Variables of the SDK that change histograms, each with its default."""

_alive: Final[WeakSet[Tallies]] = WeakSet()


class _Seen(NamedTuple):
    """The newest value in a bucket that was recorded in a sampled span."""

    value: float
    time_ns: int
    span_id: int
    trace_id: int


class _Cell:
    """The counts of one set of labels."""

    __slots__ = ("count", "counts", "high", "lock", "low", "seen", "sum")

    def __init__(self, buckets: int) -> None:
        self.lock = threading.Lock()
        self.counts = [0] * buckets
        self.seen: dict[int, _Seen] = {}
        self.count, self.sum, self.low, self.high = 0, 0.0, float("inf"), float("-inf")


class Tally:
    """One histogram.

    Args:
        bounds: Upper bounds of the buckets, ascending.
        write: The SDK's ``record`` of the same histogram.
    """

    def __init__(self, bounds: Sequence[float], write: Write) -> None:
        self._bounds = tuple(bounds)
        self._write = write
        self._cells: dict[Key, _Cell] = {}

    def record(self, value: float, labels: Mapping[str, Any] | None = None, context: Context | None = None) -> None:
        """Adds a value. Safe from any thread, but not during a garbage collection."""
        key = tuple(labels.items()) if labels else ()
        cell = self._cells.get(key)
        is_valid = 0 <= value < math.inf  # other values are rejected by the SDK
        if cell is None or not is_valid:
            if is_valid and len(self._cells) < _MAX_CELLS:
                self._cells.setdefault(key, _Cell(len(self._bounds) + 1))
            self._write(value, labels, context)
            return
        index = bisect_left(self._bounds, value)
        ids = _sampled_ids(context)
        seen = None if ids is None else _Seen(value, time.time_ns(), *ids)
        with cell.lock:
            cell.counts[index] += 1
            cell.count += 1
            cell.sum += value
            if value < cell.low:
                cell.low = value
            if value > cell.high:
                cell.high = value
            if seen is not None:
                cell.seen[index] = seen

    def reset(self) -> None:
        """Clears all counts in a forked child, where another thread may have held a lock."""
        self._cells = {}

    def join(self, points: Iterable[HistogramDataPoint]) -> list[HistogramDataPoint]:
        """The SDK's points with the values counted here."""
        cells: dict[frozenset[tuple[str, Any]], list[_Cell]] = {}
        for key, cell in list(self._cells.items()):
            cells.setdefault(frozenset(key), []).append(cell)
        keyed = [(frozenset((point.attributes or {}).items()), point) for point in points]
        own = {key: cells.pop(key, []) for key, _ in keyed}
        if _OVERFLOW in own:  # the SDK's limit was reached before: these have no separate point
            own[_OVERFLOW] += [cell for rest in cells.values() for cell in rest]
        return [_joined(point, own[key]) for key, point in keyed]


class Tallies:
    """The tallies of one meter provider."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        _alive.add(self)

    @staticmethod
    def usable(exporters: Sequence[object]) -> bool:
        """Whether tallies can be used: there is one exporter, and the histograms have the SDK's defaults."""
        return len(exporters) == 1 and all(
            os.environ.get(name, "").strip().lower() in {"", default} for name, default in _SLOW_VARIABLES.items()
        )

    def tally(self, name: str, bounds: Sequence[float], write: Write) -> Tally:
        """The tally of a histogram of nodespan's own scope; the same for the same name."""
        return self._tallies.setdefault(name, Tally(bounds, write))

    def reset(self) -> None:
        """See ``Tally.reset``."""
        for tally in self._tallies.values():
            tally.reset()

    def add_to(self, exporter: Any) -> None:
        """Adds the tallies to each export from now on."""
        export = exporter.export

        def export_joined(metrics_data: MetricsData, *args: Any, **kwargs: Any) -> Any:
            return export(self.join(metrics_data), *args, **kwargs)

        exporter.export = export_joined

    def join(self, data: MetricsData) -> MetricsData:
        """The SDK's metrics with the values counted here."""
        return replace(
            data,
            resource_metrics=[
                replace(
                    resource,
                    scope_metrics=[
                        replace(scope, metrics=[self._joined(metric) for metric in scope.metrics])
                        if scope.scope.name == semconv.SCOPE
                        else scope
                        for scope in resource.scope_metrics
                    ],
                )
                for resource in data.resource_metrics
            ],
        )

    def _joined(self, metric: Metric) -> Metric:
        tally = self._tallies.get(metric.name)
        if tally is None or not isinstance(metric.data, Histogram):
            return metric
        return replace(metric, data=replace(metric.data, data_points=tally.join(metric.data.data_points)))


def _joined(point: HistogramDataPoint, cells: Sequence[_Cell]) -> HistogramDataPoint:
    for cell in cells:
        with cell.lock:
            if not cell.count:
                continue
            seen, cell.seen = cell.seen, {}
            point = replace(
                point,
                count=point.count + cell.count,
                sum=point.sum + cell.sum,
                bucket_counts=[one + more for one, more in zip(point.bucket_counts, cell.counts, strict=True)],
                min=min(point.min, cell.low),
                max=max(point.max, cell.high),
                exemplars=_exemplars(point, seen),
            )
    return point


def _sampled_ids(context: Context | None) -> tuple[int, int] | None:
    """Span id and trace id of the span in the context, if it is exported."""
    span = trace.get_current_span(context)
    if type(span) is LeanSpan:  # has no SpanContext until one is read
        return span.sampled_ids
    made = span.get_span_context()
    return (made.span_id, made.trace_id) if made.trace_flags.sampled else None


def _exemplars(point: HistogramDataPoint, seen: Mapping[int, _Seen]) -> list[Exemplar]:
    """One per bucket, the newest, in the order of the buckets."""
    by_bucket = {bisect_left(point.explicit_bounds, one.value): one for one in point.exemplars}
    for index, newer in seen.items():
        if index not in by_bucket or by_bucket[index].time_unix_nano <= newer.time_ns:
            by_bucket[index] = Exemplar({}, newer.value, newer.time_ns, newer.span_id, newer.trace_id)
    return [by_bucket[index] for index in sorted(by_bucket)]


def _reset_in_child() -> None:
    for tallies in _alive:
        tallies.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_in_child)
