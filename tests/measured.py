"""Reads the points of a meter provider by metric name."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from opentelemetry.sdk.metrics import AlignedHistogramBucketExemplarReservoir, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData

PATIENCE_S = 20.0


class Measured:
    """A meter provider of the SDK's and what came in. Each reading collects anew."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)

    def points(self) -> dict[str, list[Any]]:
        """All points by metric name."""
        data: MetricsData | None = self.reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else ()
        return {
            metric.name: list(metric.data.data_points)
            for resource in resources
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def of(self, name: str, *labels: str) -> dict[Any, Any]:
        """Values of one metric, by the values of these labels: sum and count of a histogram, otherwise the number.

        With one label the keys are its values, with more of them tuples, with none it is the empty tuple.
        """
        found: dict[Any, Any] = {}
        for point in self.points().get(name, []):
            values = tuple(point.attributes.get(label) for label in labels)
            key = values[0] if len(labels) == 1 else values
            assert key not in found, f"{name} has two points for {key}: name more labels"
            found[key] = (point.sum, point.count) if hasattr(point, "sum") else point.value
        return found

    def collect_garbage_while_collecting(self, label: str, value: str) -> None:
        """One collection in which the garbage collector runs while the SDK reads a point with that label.

        It can run at any time: the SDK creates objects while it holds locks that are not reentrant.
        """
        with pytest.MonkeyPatch.context() as patch:

            def collect_garbage_too(reservoir: Any, attributes: Any) -> Any:
                if attributes.get(label) == value:
                    gc.collect()
                return collect(reservoir, attributes)

            collect = AlignedHistogramBucketExemplarReservoir.collect
            patch.setattr(AlignedHistogramBucketExemplarReservoir, "collect", collect_garbage_too)
            collecting = threading.Thread(target=self.reader.collect, daemon=True)
            collecting.start()
            collecting.join(PATIENCE_S)
            assert not collecting.is_alive(), "the collection waits for itself"
