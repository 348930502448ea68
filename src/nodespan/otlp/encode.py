"""Spans as OTLP bytes, by the SDK's own encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.common import trace_encoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, slots=True)
class Encoded:
    """A batch as it will be kept and sent.

    Attributes:
        data: An ``ExportTraceServiceRequest``.
        spans: How many spans it holds.
        refused: How many of those given the encoder could not take.
    """

    data: bytes
    spans: int
    refused: int = 0


def encode_spans(spans: Sequence[ReadableSpan]) -> Encoded:
    """Encodes a slice of spans. One that the encoder cannot take does not take the others along."""
    try:
        return Encoded(trace_encoder.encode_spans(spans).SerializeToString(), len(spans))
    except Exception:  # noqa: BLE001 whatever an attribute made the encoder raise
        return _one_by_one(spans)


def _one_by_one(spans: Sequence[ReadableSpan]) -> Encoded:
    good: list[ReadableSpan] = []
    for span in spans:
        try:
            trace_encoder.encode_spans([span]).SerializeToString()
        except Exception:  # noqa: BLE001 this is the span that the encoder refuses
            continue
        good.append(span)
    data = trace_encoder.encode_spans(good).SerializeToString() if good else b""
    return Encoded(data, len(good), len(spans) - len(good))
