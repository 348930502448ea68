"""Batches that are joined hold the same spans, and none grows larger than a batch may be."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodespan.otlp import MAX_BATCH_BYTES, Encoded, decode_batch, encode_spans, join_batches


def names(batches: list[Encoded]) -> list[str]:
    return [span.name for batch in batches for span in decode_batch(batch.data)]


def test_joined_slices_hold_the_same_spans_in_order(
    tracer_provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = tracer_provider.get_tracer("test")
    for number in range(10):
        tracer.start_span(f"span {number}").end()
    spans = exporter.get_finished_spans()
    slices = [batch for number in range(0, 10, 3) for batch in encode_spans(spans[number : number + 3])]
    (joined,) = join_batches(slices)
    assert (joined.spans, names([joined])) == (10, [f"span {number}" for number in range(10)])


@pytest.mark.parametrize(
    ("sizes", "joined"),
    [
        ([], []),
        ([MAX_BATCH_BYTES], [MAX_BATCH_BYTES]),
        ([MAX_BATCH_BYTES, 1], [MAX_BATCH_BYTES, 1]),
        ([1, MAX_BATCH_BYTES - 1, 1], [MAX_BATCH_BYTES, 1]),
        ([1, 5 * MAX_BATCH_BYTES, 1], [1, 5 * MAX_BATCH_BYTES, 1]),
    ],
)
def test_slices_that_are_too_large_together_are_not_joined(sizes: list[int], joined: list[int]) -> None:
    made = join_batches([Encoded(bytes(size), 1) for size in sizes])
    assert [len(batch.data) for batch in made] == joined
    assert sum(batch.spans for batch in made) == len(sizes)
