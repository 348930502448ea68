"""Thin wrappers around LangChain's seams. Each encloses the original call in one frame, so attach and detach are exact.

Arguments, results and exceptions are passed on as they are; only a run id is chosen instead of LangChain's own, if a
reader needs it to find the span.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from nodespan.instrumentation._steps import AsyncSteps, Steps, in_async_steps, in_steps
from nodespan.instrumentation.langchain import _calls
from nodespan.instrumentation.langchain._spans import STATE, Call, ModelCall
from nodespan.spans.guard import Guard
from nodespan.spans.model_call import current_model_call
from nodespan.spans.scope import attached_scope

_OPENING = Guard("open a LangChain span")

Function = Callable[..., Any]


Open = Callable[[Any, tuple[Any, ...], dict[str, Any]], Call | None]
"""Opens the span of a call of a method, given its object and arguments; ``None``: it has no separate span."""


def _opened(open_call: Open, target: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    if STATE.tracer is None:
        return None
    try:
        return open_call(target, args, kwargs)
    except Exception as error:  # noqa: BLE001 reported; telemetry must not raise into the program
        _OPENING.failed(error)
        return None


def enclosed(open_call: Open, original: Function) -> Function:
    """Wraps a method whose call is one span."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _opened(open_call, self, args, kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        try:
            with call.attached():
                result = original(self, *args, **kwargs)
        except BaseException as error:
            call.leave(error)
            raise
        call.returned(result)
        return result

    return wrapper


def aenclosed(open_call: Open, original: Function) -> Function:
    """Wraps an async method whose call is one span."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _opened(open_call, self, args, kwargs)
        if call is None:
            return await original(self, *args, **kwargs)
        try:
            with call.attached():
                result = await original(self, *args, **kwargs)
        except BaseException as error:
            call.leave(error)
            raise
        call.returned(result)
        return result

    return wrapper


def streamed(operation: str, original: Callable[..., Steps]) -> Callable[..., Steps]:
    """Wraps ``stream`` of a model."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Steps:
        if STATE.tracer is None:
            return original(self, *args, **kwargs)
        opening, args, kwargs = _calls.streaming(operation, self, args, kwargs)
        return in_steps(opening.open, original(self, *args, **kwargs))

    return wrapper


def astreamed(operation: str, original: Callable[..., AsyncSteps]) -> Callable[..., AsyncSteps]:
    """Wraps ``astream`` of a model."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> AsyncSteps:
        if STATE.tracer is None:
            return original(self, *args, **kwargs)
        opening, args, kwargs = _calls.streaming(operation, self, args, kwargs)
        return in_async_steps(opening.open, original(self, *args, **kwargs))

    return wrapper


def iter_v2_events(original: Callable[..., Steps]) -> Callable[..., Steps]:
    """Wraps ``BaseChatModel._iter_v2_events``: ``stream_events(version="v3")`` of a model itself."""

    @functools.wraps(original)
    def wrapper(self: Any, messages: Any, **kwargs: Any) -> Steps:
        steps = original(self, messages, **kwargs)
        return steps if STATE.tracer is None else in_steps(_calls.EventStream(self, messages, kwargs).open, steps)

    return wrapper


def aiter_v2_events(original: Callable[..., AsyncSteps]) -> Callable[..., AsyncSteps]:
    """Wraps ``BaseChatModel._aiter_v2_events``."""

    @functools.wraps(original)
    def wrapper(self: Any, messages: Any, **kwargs: Any) -> AsyncSteps:
        steps = original(self, messages, **kwargs)
        if STATE.tracer is None:
            return steps
        return in_async_steps(_calls.EventStream(self, messages, kwargs).open, steps)

    return wrapper


def piece(original: Function) -> Function:
    """Wraps the callback for each piece of an answer, as a model may stream inside of a call that does not."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        last = attached_scope()
        has_streamed = isinstance(last, ModelCall) and last.has_streamed  # as for all pieces but the first
        if not has_streamed and isinstance(call := current_model_call(), ModelCall):
            call.streams()
        return original(self, *args, **kwargs)

    return wrapper


def cached(original: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
    """Wraps ``BaseChatModel._convert_cached_generations``, which reads answers from LangChain's cache."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Sequence[Any]:
        if isinstance(call := current_model_call(), ModelCall):
            call.from_cache = True
        return original(self, *args, **kwargs)

    return wrapper
