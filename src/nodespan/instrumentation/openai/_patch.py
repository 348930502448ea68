"""Thin wrappers around ``chat.completions.create`` and ``parse``: arguments, results and exceptions pass unchanged."""

from __future__ import annotations

import functools
import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from nodespan.instrumentation._proxy import Proxy
from nodespan.instrumentation.openai._call import open_call
from nodespan.spans.attributes import fact

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from nodespan.instrumentation.openai._call import OpenAICall


def create(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``create`` or ``parse`` of ``Completions``."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = open_call(self, kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        with _Step(call):
            answer = original(self, *args, **_with_traceparent(call, kwargs))
        return _observed(call, answer)

    return wrapper


def acreate(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wraps ``create`` or ``parse`` of ``AsyncCompletions``."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = open_call(self, kwargs)
        if call is None:
            return await original(self, *args, **kwargs)
        with _Step(call):
            answer = await original(self, *args, **_with_traceparent(call, kwargs))
        return _observed(call, answer)

    return wrapper


class _Step:
    """A step of a call in its span. An exception ends the call: as complete, if it is the end of a stream."""

    __slots__ = ("_call", "_step")

    def __init__(self, call: OpenAICall) -> None:
        self._call = call
        self._step = call.step()

    def __enter__(self) -> None:
        self._step.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._step.__exit__(kind, error, traceback)
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._call.leave()
        elif error is not None:
            if (answer := fact(error, "completion")) is not None:  # cut short, so that it could not be parsed
                self._call.read_answer(answer)
            self._call.leave(error)


def _with_traceparent(call: OpenAICall, kwargs: dict[str, Any]) -> dict[str, Any]:
    headers = call.headers(kwargs.get("extra_headers"))
    return {**kwargs, "extra_headers": headers} if headers else kwargs


def _observed(call: OpenAICall, answer: Any) -> Any:
    """The answer: wrapped, so that it ends the call, if it is read later; otherwise unchanged, with the call ended."""
    kind = cast("type[Any]", type(answer))
    if hasattr(kind, "__next__"):
        return SyncStream(answer, call)
    if hasattr(kind, "__anext__"):
        return AsyncStream(answer, call)
    response = fact(answer, "http_response")
    if response is None:
        call.read_answer(answer)
    elif fact(response, "is_stream_consumed"):
        _read_body(call, answer)
    else:
        return (AsyncResponse if inspect.iscoroutinefunction(fact(answer, "parse")) else SyncResponse)(answer, call)
    call.leave()
    return answer


def _read_body(call: OpenAICall, response: Any) -> None:
    """Reads the answer in a response's body, if the program or the package has read that.

    Not by ``parse``, which calls the parser that the program has given.
    """
    with suppress(Exception):  # the body was not kept, or is not JSON
        from openai.types.chat import ChatCompletion

        call.read_answer(ChatCompletion.construct(**response.http_response.json()))


class _Later(Proxy):
    """An answer that is read later. Every other attribute is the original's."""

    def __init__(self, answer: Any, call: OpenAICall) -> None:
        super().__init__(answer)
        self._self_call = call

    def _leave(self, error: BaseException | None = None) -> None:
        """Ends the call of a response, with its answer if that has been read."""
        if not self._self_call.has_left:
            _read_body(self._self_call, self.__wrapped__)
            self._self_call.leave(error)


class SyncResponse(_Later):
    """A raw or streamed response whose body has not been read: parsing or closing it ends its call."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the answer; a stream ends the call when it is read."""
        try:
            with self._self_call.step():
                answer = self.__wrapped__.parse(*args, **kwargs)
        except BaseException as error:
            self._leave(error)
            raise
        return _observed(self._self_call, answer)

    def close(self) -> Any:
        """Closes the response."""
        try:
            return self.__wrapped__.close()
        finally:
            self._leave()


class AsyncResponse(_Later):
    """The same of a streamed response in an event loop."""

    async def parse(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the answer; a stream ends the call when it is read."""
        try:
            with self._self_call.step():
                answer = await self.__wrapped__.parse(*args, **kwargs)
        except BaseException as error:
            self._leave(error)
            raise
        return _observed(self._self_call, answer)

    async def close(self) -> Any:
        """Closes the response."""
        try:
            return await self.__wrapped__.close()
        finally:
            self._leave()


class SyncStream(_Later):
    """A ``Stream`` of the openai package that ends its call."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        with _Step(self._self_call):
            chunk = next(self.__wrapped__)
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


class AsyncStream(_Later):
    """An ``AsyncStream`` of the openai package that ends its call."""

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        with _Step(self._self_call):
            chunk = await anext(self.__wrapped__)
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
