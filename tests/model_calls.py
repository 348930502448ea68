"""Text and span of a call of a model on a server."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nodespan.runner import PipelineStream


def text_of(stream: PipelineStream) -> str:
    """The whole text of a stream."""
    return "".join(chunk.content for chunk in stream)


def the_span(exporter: InMemorySpanExporter) -> Any:
    """The one span of a call of the model ``m``."""
    (span,) = [span for span in exporter.get_finished_spans() if span.name.endswith(" m")]
    return span
