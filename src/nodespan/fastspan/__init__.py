"""A lean span for nodespan's own scope on the tracer provider of ``configure()``.

The span, its tracer and its processors are subclasses of the SDK's: ``isinstance`` and every rarely used method are the
SDK's own code. Only start, attributes and end are written anew. Spans of other scopes, and spans on other providers,
stay the SDK's.
"""

from __future__ import annotations

from nodespan.fastspan.check import find_difference
from nodespan.fastspan.processors import LeanProcessors
from nodespan.fastspan.provider import NodespanTracerProvider
from nodespan.fastspan.span import LeanSpan, WireFields
from nodespan.fastspan.tracer import LeanTracer

__all__ = ["LeanProcessors", "LeanSpan", "LeanTracer", "NodespanTracerProvider", "WireFields", "find_difference"]
