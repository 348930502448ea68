"""Bytes of a batch: OTLP's ``ExportTraceServiceRequest``, encoded once, sent and read as they are."""

from __future__ import annotations

from nodespan.otlp.decode import SpanEvent, SpanLink, SpanRecord, decode_batch
from nodespan.otlp.encode import Encoded, encode_spans

__all__ = ["Encoded", "SpanEvent", "SpanLink", "SpanRecord", "decode_batch", "encode_spans"]
