"""Reads what was measured: the points of a meter provider, by metric name."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData


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
