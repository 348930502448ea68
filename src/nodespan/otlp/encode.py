"""Spans as OTLP bytes: by the encoder of ``wire.py``, or by the SDK's for values that the former does not support."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.common import trace_encoder

from nodespan.otlp import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

MAX_BATCH_BYTES: Final = 1024 * 1024
"""Receivers accept at least 4 MiB (gRPC's default). Only a batch of a single span may be larger than this."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded batch, as it is stored and sent.

    Attributes:
        data: An ``ExportTraceServiceRequest``.
        spans: Number of its spans.
    """

    data: bytes
    spans: int


def encode_spans(spans: Sequence[ReadableSpan]) -> list[Encoded]:
    """Encodes a slice of spans, as one batch where it fits.

    A span that cannot be encoded, or that is huge, does not affect the others: the slice is halved until the span is
    alone. One that cannot be encoded is left out.
    """
    data = _encoded(spans)
    if data is not None and (len(spans) == 1 or len(data) <= MAX_BATCH_BYTES):
        return [Encoded(data, len(spans))]
    if len(spans) <= 1:
        return []
    half = len(spans) // 2
    return encode_spans(spans[:half]) + encode_spans(spans[half:])


def _encoded(spans: Sequence[ReadableSpan]) -> bytes | None:
    with suppress(Exception):  # a value made the encoder raise
        return wire.encode(spans)
    with suppress(Exception):
        return _by_the_sdk(spans)
    return None


def _by_the_sdk(spans: Sequence[ReadableSpan]) -> bytes:
    return trace_encoder.encode_spans(spans).SerializeToString()


def join_batches(batches: Iterable[Encoded]) -> list[Encoded]:
    """The same spans in fewer batches within the size limit; protobuf messages are joined by concatenation."""
    groups: list[list[Encoded]] = []
    size = 0
    for batch in batches:
        if not groups or size + len(batch.data) > MAX_BATCH_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(batch)
        size += len(batch.data)
    return [
        Encoded(b"".join(one.data for one in group), sum(one.spans for one in group)) if len(group) > 1 else group[0]
        for group in groups
    ]
