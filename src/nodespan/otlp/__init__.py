"""Bytes of a batch: OTLP's ``ExportTraceServiceRequest``, encoded once, sent and read as they are."""

from __future__ import annotations

from nodespan.otlp.columns import SpanColumns
from nodespan.otlp.decode import SpanEvent, SpanLink, SpanRecord, decode_batch
from nodespan.otlp.encode import MAX_BATCH_BYTES, Encoded, encode_spans, join_batches
from nodespan.otlp.from_json import from_json
from nodespan.otlp.receive import Received, check_spans, keys_of, parse_request, without
from nodespan.otlp.split import split_batch
from nodespan.otlp.summary import ERROR, INTERRUPTED, RESUMES, Sums, TraceSlice, summarise, words_of
from nodespan.otlp.to_json import to_json
from nodespan.otlp.topologies import topologies

__all__ = [
    "ERROR",
    "INTERRUPTED",
    "MAX_BATCH_BYTES",
    "RESUMES",
    "Encoded",
    "Received",
    "SpanColumns",
    "SpanEvent",
    "SpanLink",
    "SpanRecord",
    "Sums",
    "TraceSlice",
    "check_spans",
    "decode_batch",
    "encode_spans",
    "from_json",
    "join_batches",
    "keys_of",
    "parse_request",
    "split_batch",
    "summarise",
    "to_json",
    "topologies",
    "without",
    "words_of",
]
