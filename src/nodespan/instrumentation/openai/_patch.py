"""Thin wrappers around ``chat.completions.create``: arguments, results and exceptions pass as they are."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import wrapt

from nodespan.instrumentation.openai._call import open_call
from nodespan.spans.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from nodespan.instrumentation.openai._call import OpenAICall

if TYPE_CHECKING:
    _Proxy = wrapt.ObjectProxy[Any]
else:
    _Proxy = wrapt.ObjectProxy  # cannot be subscripted at run time

_PARSING = Guard("read a raw response of the openai package")


def create(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``Completions.create``."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = open_call(self, kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        try:
            with call.step():
                answer = original(self, *args, **_sent(call, kwargs))
        except BaseException as error:
            call.leave(error)
            raise
        return (
            SyncStream(answer, call)
            if hasattr(cast("type[Any]", type(answer)), "__next__")
            else _whole(call, answer, kwargs)
        )

    return wrapper


def acreate(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wraps ``AsyncCompletions.create``."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = open_call(self, kwargs)
        if call is None:
            return await original(self, *args, **kwargs)
        try:
            with call.step():
                answer = await original(self, *args, **_sent(call, kwargs))
        except BaseException as error:
            call.leave(error)
            raise
        return (
            AsyncStream(answer, call)
            if hasattr(cast("type[Any]", type(answer)), "__anext__")
            else _whole(call, answer, kwargs)
        )

    return wrapper


def _sent(call: OpenAICall, kwargs: dict[str, Any]) -> dict[str, Any]:
    headers = call.headers(kwargs.get("extra_headers"))
    return {**kwargs, "extra_headers": headers} if headers else kwargs


def _whole(call: OpenAICall, answer: Any, kwargs: dict[str, Any]) -> Any:
    """Ends a call that was not streamed. A raw response keeps what it has parsed, so that parsing changes nothing."""
    parsed = answer
    if hasattr(cast("type[Any]", type(answer)), "parse") and not kwargs.get("stream") and hasattr(answer, "text"):
        parsed = None
        with _PARSING:
            parsed = answer.parse()
    call.answered(parsed)
    call.leave()
    return answer


class SyncStream(_Proxy):
    """The stream of an answer, with everything else that it has."""

    def __init__(self, stream: Any, call: OpenAICall) -> None:
        super().__init__(stream)
        self._self_call = call

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        try:
            with self._self_call.step():
                chunk = next(self.__wrapped__)
        except StopIteration:
            self._self_call.leave()
            raise
        except BaseException as error:
            self._self_call.leave(error)
            raise
        self._self_call.saw(chunk)
        return chunk

    def __enter__(self) -> Any:
        self.__wrapped__.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        try:
            return self.__wrapped__.__exit__(*args)
        finally:
            self._self_call.leave(GeneratorExit())

    def close(self) -> Any:
        """Closes the stream; the model stops."""
        try:
            return self.__wrapped__.close()
        finally:
            self._self_call.leave(GeneratorExit())


class AsyncStream(_Proxy):
    """The same for an asynchronous stream."""

    def __init__(self, stream: Any, call: OpenAICall) -> None:
        super().__init__(stream)
        self._self_call = call

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        try:
            with self._self_call.step():
                chunk = await anext(self.__wrapped__)
        except StopAsyncIteration:
            self._self_call.leave()
            raise
        except BaseException as error:
            self._self_call.leave(error)
            raise
        self._self_call.saw(chunk)
        return chunk

    async def __aenter__(self) -> Any:
        await self.__wrapped__.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> Any:
        try:
            return await self.__wrapped__.__aexit__(*args)
        finally:
            self._self_call.leave(GeneratorExit())

    async def close(self) -> Any:
        """Closes the stream; the model stops."""
        try:
            return await self.__wrapped__.close()
        finally:
            self._self_call.leave(GeneratorExit())
