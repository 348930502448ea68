"""Bytes of a batch: OTLP's ``ExportTraceServiceRequest``, encoded once, sent and read as they are."""

from __future__ import annotations

from nodespan.otlp.decode import SpanEvent, SpanLink, SpanRecord, decode_batch
from nodespan.otlp.encode import MAX_BATCH_BYTES, Encoded, encode_spans, join_batches
from nodespan.otlp.split import split_batch
from nodespan.otlp.summary import ERROR, TraceSlice, summarise, words_of
from nodespan.otlp.to_json import to_json
from nodespan.otlp.topologies import topologies

__all__ = [
    "ERROR",
    "MAX_BATCH_BYTES",
    "Encoded",
    "SpanEvent",
    "SpanLink",
    "SpanRecord",
    "TraceSlice",
    "decode_batch",
    "encode_spans",
    "join_batches",
    "split_batch",
    "summarise",
    "to_json",
    "topologies",
    "words_of",
]
