"""Thin wrappers around the methods of ``llama_cpp.Llama``: the outermost called method has the span.

Arguments, results and exceptions are passed on as they are, and what is a generator stays one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Generator, Iterator, Sized
from typing import TYPE_CHECKING, Any, Final, cast

from nodespan import semconv
from nodespan.instrumentation._steps import Suppressed, in_steps
from nodespan.instrumentation.llama_cpp import _convert
from nodespan.instrumentation.llama_cpp._call import LlamaCall, current_call, open_call
from nodespan.instrumentation.llama_cpp._messages import set_input
from nodespan.spans.current import is_suppressed

if TYPE_CHECKING:
    from collections.abc import Callable

    import llama_cpp

_RETURN_COUNT: Final = 3
"""Place of ``return_count`` among the arguments of ``Llama.embed``."""


def answers(operation: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Wraps a method that returns a dict, or an iterator of dicts."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def wrapper(self: llama_cpp.Llama, *args: Any, **kwargs: Any) -> Any:
            call = open_call(
                self,
                operation,
                lambda: _convert.request(_convert.arguments(signature, args, kwargs)),
                lambda content: set_input(content, self, _convert.arguments(signature, args, kwargs)),
            )
            if call is None:
                answer = original(self, *args, **kwargs)
                if isinstance(answer, Iterator) and is_suppressed():
                    return in_steps(Suppressed, cast("Iterator[Any]", answer))
                return cast("Any", answer)
            answer = _enclosed(call, original, self, *args, **kwargs)
            if isinstance(answer, Iterator):
                return in_steps(lambda: call, cast("Iterator[Any]", answer))
            call.read_answer(answer)
            call.leave()
            return answer

        return wrapper

    return wrap


def generate(original: Callable[..., Generator[int, Any]]) -> Callable[..., Generator[int, Any]]:
    """Wraps ``Llama.generate``, the source of the tokens of every answer."""
    from nodespan.engine.llama_cpp.meter import measured

    signature = inspect.signature(original)

    @functools.wraps(original)
    def wrapper(self: llama_cpp.Llama, *args: Any, **kwargs: Any) -> Generator[int, Any]:
        given = _convert.arguments(signature, args, kwargs)
        prompt = given.get("tokens")
        tokens = original(self, *args, **kwargs)
        outer = current_call(self)
        call = outer or open_call(self, semconv.TEXT_COMPLETION, lambda: _convert.request({**given, "stream": True}))
        if call is None or not isinstance(prompt, Sized):
            return tokens
        tokens = measured(self, cast("list[int]", prompt), tokens, call.generation())
        return tokens if outer is not None else in_steps(lambda: call, tokens)

    return wrapper


def create_embedding(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``Llama.create_embedding``, which calls ``embed``."""

    @functools.wraps(original)
    def wrapper(self: llama_cpp.Llama, *args: Any, **kwargs: Any) -> Any:
        return _embedded(original, self, *args, **kwargs)

    return wrapper


def embed(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``Llama.embed``, the source of every embedding."""
    from nodespan.engine.llama_cpp.meter import measured_embedding

    def counted(self: llama_cpp.Llama, *args: Any, **kwargs: Any) -> Any:
        """Requests the count of tokens even if the caller does not."""
        call = current_call(self)
        if call is None:
            return original(self, *args, **kwargs)
        is_asked = args[_RETURN_COUNT] if len(args) > _RETURN_COUNT else kwargs.get("return_count", False)
        result = call.generation()
        with measured_embedding(self, result):
            answer = original(self, *args[:_RETURN_COUNT], **{**kwargs, "return_count": True})
            result.input_tokens = answer[1]
        return answer if is_asked else answer[0]

    @functools.wraps(original)
    def wrapper(self: llama_cpp.Llama, *args: Any, **kwargs: Any) -> Any:
        return _embedded(counted, self, *args, **kwargs)

    return wrapper


def _embedded(original: Callable[..., Any], self: llama_cpp.Llama, *args: Any, **kwargs: Any) -> Any:
    call = open_call(self, semconv.EMBEDDINGS, lambda: {semconv.EMBEDDINGS_DIMENSION: self.n_embd()})
    if call is None:
        return original(self, *args, **kwargs)
    answer = _enclosed(call, original, self, *args, **kwargs)
    call.leave()
    return answer


def _enclosed(call: LlamaCall, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Makes the call in its span, and ends that if it fails."""
    try:
        with call.step():
            return original(*args, **kwargs)
    except BaseException as error:
        call.leave(error)
        raise
