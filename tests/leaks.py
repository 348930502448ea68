"""Detects leaks of a test: an open span, an attached span, a context that could not be detached.

It observes the OpenTelemetry API and SDK, and nodespan's lean spans and scopes, which bypass both: the spans of every
provider, in every thread and task.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.sdk.trace import Span

from nodespan.fastspan.span import LeanSpan
from nodespan.fastspan.tracer import LeanTracer
from nodespan.spans.scope import Attached, Step

GRACE_S = 20.0  # a thread may be about to end its span when the test returns; only a leak waits this long


class Leaks(logging.Handler):
    """Counts spans in and out between ``watch_for_leaks`` and its end."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[Span, None] = {}  # strong references, so that a span without an end is not collected
        # By id, as tokens are not hashable; each is referenced, so that its id is not reused.
        self._attached: dict[int, tuple[Token[Context] | Attached, trace.Span, asyncio.Task[Any] | None]] = {}
        self._messages: list[str] = []

    def forget(self, span: trace.Span) -> None:
        """Excludes a span that is left open or current on purpose: its process will be killed, or its node leaks it."""
        self._open.pop(span, None)
        for key, (_, attached, _) in list(self._attached.items()):
            if attached is span:
                self._attached.pop(key, None)

    def emit(self, record: logging.LogRecord) -> None:
        if "Failed to detach" in record.getMessage():
            self._messages.append("in the log: Failed to detach context")

    def found(self) -> list[str]:
        """Descriptions of spans and contexts that are still open."""
        spans = [f"a span is open: {span.name}" for span in list(self._open)]
        current = [
            f"a span is current: {getattr(span, 'name', 'of a remote parent')}"
            for _, span, task in list(self._attached.values())
            if _lives_on(task)
        ]
        return spans + current + self._messages

    def _watch_spans(self, patch: pytest.MonkeyPatch) -> None:
        start, end = Span.start, Span.end

        def started(span: Span, *args: Any, **kwargs: Any) -> None:
            start(span, *args, **kwargs)
            self._open[span] = None

        def ended(span: Span, *args: Any, **kwargs: Any) -> None:
            self._open.pop(span, None)
            end(span, *args, **kwargs)

        patch.setattr(Span, "start", started)
        patch.setattr(Span, "end", ended)

    def _watch_lean_spans(self, patch: pytest.MonkeyPatch) -> None:
        start = LeanTracer.start_span

        def started(tracer: LeanTracer, *args: Any, **kwargs: Any) -> trace.Span:
            span = start(tracer, *args, **kwargs)
            if isinstance(span, LeanSpan):
                self._open[span] = None
            return span

        def watch(name: str) -> None:
            end = getattr(LeanSpan, name)

            def ended(span: LeanSpan, *args: Any, **kwargs: Any) -> None:
                self._open.pop(span, None)
                end(span, *args, **kwargs)

            patch.setattr(LeanSpan, name, ended)

        patch.setattr(LeanTracer, "start_span", started)
        watch("end")
        watch("end_with")

    def _watch_contexts(self, patch: pytest.MonkeyPatch) -> None:
        attach, detach = ContextVarsRuntimeContext.attach, ContextVarsRuntimeContext.detach

        def attached(runtime: ContextVarsRuntimeContext, context: Context) -> Token[Context]:
            token = attach(runtime, context)
            span = trace.get_current_span(context)
            if span.get_span_context().is_valid:
                self._attached[id(token)] = token, span, _current_task()
            return token

        def detached(runtime: ContextVarsRuntimeContext, token: Token[Context]) -> None:
            self._attached.pop(id(token), None)
            detach(runtime, token)

        patch.setattr(ContextVarsRuntimeContext, "attach", attached)
        patch.setattr(ContextVarsRuntimeContext, "detach", detached)

    def _watch_scopes(self, patch: pytest.MonkeyPatch) -> None:
        leave = Attached.__exit__

        def watch(kind: type[Attached]) -> None:
            enter = kind.__enter__

            def entered(scope: Attached) -> None:
                enter(scope)
                span = trace.get_current_span(get_current())
                if span.get_span_context().is_valid:
                    self._attached[id(scope)] = scope, span, _current_task()

            patch.setattr(kind, "__enter__", entered)

        def left(scope: Attached, *error: Any) -> None:
            attached = get_current()
            leave(scope, *error)
            if get_current() is not attached or attached is not scope._context:
                self._attached.pop(id(scope), None)

        watch(Step)
        watch(Attached)
        patch.setattr(Attached, "__exit__", left)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches for the length of a ``with`` block."""
        log = logging.getLogger("opentelemetry.context")
        with pytest.MonkeyPatch.context() as patch:
            self._watch_spans(patch)
            self._watch_lean_spans(patch)
            self._watch_contexts(patch)
            self._watch_scopes(patch)
            log.addHandler(self)
            try:
                yield
            finally:
                log.removeHandler(self)

    def wait_until_clean(self) -> list[str]:
        """Leaks after a garbage collection and after threads had time to finish."""
        deadline = time.monotonic() + GRACE_S
        while self.found() and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.02)  # polling with a deadline
        return self.found()


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None


def _lives_on(task: asyncio.Task[Any] | None) -> bool:
    """Whether an attached context can affect other code: that of a cancelled task is dropped with it."""
    return task is None or (task.done() and not task.cancelled())
