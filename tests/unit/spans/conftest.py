"""Shared by the tests of spans: our own errors, as they are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry import metrics

from nodespan import semconv
from nodespan.telemetry import configure
from nodespan.telemetry.meter_provider import NodespanMeterProvider
from otlp_receiver import OtlpReceiver


@pytest.fixture
def counted_errors() -> Iterator[Callable[[], dict[str, int]]]:
    """Reads the number of our own errors by operation, as it is exported."""
    with OtlpReceiver() as receiver, configure(endpoint=receiver.endpoint):

        def read() -> dict[str, int]:
            provider = metrics.get_meter_provider()
            assert isinstance(provider, NodespanMeterProvider)
            assert provider.force_flush()
            last = {metric.name: metric.sum.data_points for metric in receiver.metrics}
            return {
                attribute.value.string_value: point.as_int
                for point in last[semconv.TELEMETRY_ERRORS]
                for attribute in point.attributes
                if attribute.key == semconv.TELEMETRY_ERROR_KIND
            }

        yield read
