"""Spans as OTLP bytes, by the SDK's own encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.common import trace_encoder

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

MAX_BATCH_BYTES: Final = 1024 * 1024
"""Receivers take 4 MiB (gRPC's default) and more. Only a single span makes a batch that is larger than this."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch as it will be kept and sent.

    Attributes:
        data: An ``ExportTraceServiceRequest``.
        spans: How many spans it holds.
    """

    data: bytes
    spans: int


def encode_spans(spans: Sequence[ReadableSpan]) -> list[Encoded]:
    """Encodes a slice of spans, as one batch if it may be.

    A span that the encoder cannot take, or that is huge, does not take the others along: the slice is halved until it
    is alone, and one that cannot be encoded is left out.
    """
    try:
        data = trace_encoder.encode_spans(spans).SerializeToString()
    except Exception:  # noqa: BLE001 whatever an attribute made the encoder raise
        if len(spans) == 1:
            return []
    else:
        if len(spans) == 1 or len(data) <= MAX_BATCH_BYTES:
            return [Encoded(data, len(spans))]
    half = len(spans) // 2
    return encode_spans(spans[:half]) + encode_spans(spans[half:])


def join_batches(batches: Iterable[Encoded]) -> list[Encoded]:
    """The same spans in fewer batches, none larger than one may be; messages of protobuf are joined by their bytes."""
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
