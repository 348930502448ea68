"""Processors of a provider: nodespan's receive lean spans, all others receive the same as from the SDK."""

# The SDK has no public way to make a span; find_difference() compares what comes out.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor
from typing_extensions import override

from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from nodespan.fastspan.span import LeanSpan

_CALLING: Final = Guard("call a span processor of the program")


class LeanProcessors(SynchronousMultiSpanProcessor):
    """The processors of one provider, in the order in which they were added.

    Attributes:
        starts: Methods to call at the start of a span.
    """

    def __init__(self) -> None:
        super().__init__()
        self.starts: tuple[Callable[..., None], ...] = ()
        self._ends: tuple[Callable[[Any], None], ...] = ()
        self._has_others = False

    @override
    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        super().add_span_processor(span_processor)
        self._sort()

    def _sort(self) -> None:
        processors = self._span_processors
        # An on_start that is the SDK's own does nothing and is not called.
        self.starts = tuple(one.on_start for one in processors if type(one).on_start is not SpanProcessor.on_start)
        self._ends = tuple(one.on_end for one in processors)
        self._has_others = not all(accepts_lean_spans(one) for one in processors)

    def start_span(self, span: LeanSpan, context: Context | None) -> None:
        """Reports a started span."""
        for on_start in self.starts:
            try:
                on_start(span, parent_context=context)
            except Exception as error:  # noqa: BLE001 reported; a failing processor does not affect the others
                _CALLING.failed(error)

    def end_span(self, span: LeanSpan) -> None:
        """Reports an ended span: to others as the SDK does, first ``_on_ending``, then a read-only copy."""
        if not self._has_others:
            for on_end in self._ends:
                on_end(span)
            return
        with _CALLING:
            self._on_ending(span)
        readable = span._readable_span()
        for processor in self._span_processors:
            with _CALLING:
                processor.on_end(span if accepts_lean_spans(processor) else readable)


def accepts_lean_spans(processor: object) -> bool:
    """Whether the processor's ``on_end`` reads only ``wire_fields()``: its attribute ``accepts_lean_spans`` is true."""
    return getattr(type(processor), "accepts_lean_spans", False) is True
