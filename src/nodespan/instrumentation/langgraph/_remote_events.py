"""Event streams (version v3) of a ``RemoteGraph``: a context manager, whose run begins when it is entered.

Its status is that of the received part: an error, an interrupt, an abort. If the program leaves the stream before its
end, the run continues on the server.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from nodespan.instrumentation._proxy import Proxy
from nodespan.instrumentation.langgraph._remote import INTERRUPT, RemoteRun
from nodespan.instrumentation.langgraph._run import STATE
from nodespan.spans.guard import Guard
from nodespan.spans.scope import current_scope

if TYPE_CHECKING:
    from nodespan.instrumentation._steps import Enclosure

_READING = Guard("read the interrupts of a remote graph")


def stream_events(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps ``RemoteGraph.stream_events``."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        stream = original(self, *args, **kwargs)
        if not _is_traced(kwargs):
            return stream
        run = RemoteRun(self, args, kwargs)
        return RunStream(stream, run, lambda: original(self, *args, **{**kwargs, "headers": dict(run.headers)}))

    return wrapper


def astream_events(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wraps ``RemoteGraph.astream_events``."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        stream = await original(self, *args, **kwargs)
        if not _is_traced(kwargs):
            return stream
        run = RemoteRun(self, args, kwargs)
        return AsyncRunStream(stream, run, lambda: original(self, *args, **{**kwargs, "headers": dict(run.headers)}))

    return wrapper


def _is_traced(kwargs: dict[str, Any]) -> bool:
    return kwargs.get("version") == "v3" and (STATE.tracer is not None or current_scope() is not None)


class _RunStream(Proxy):
    """A stream whose run has a span. Every other attribute is the original's.

    Args:
        stream: The original, which has not been entered.
        run: Opens the span.
        make: Creates the stream again, with the run's headers: the original has copied its own.
    """

    def __init__(self, stream: Any, run: RemoteRun, make: Callable[[], Any]) -> None:
        super().__init__(stream)
        self._self_run = run
        self._self_make = make
        self._self_work: Enclosure | None = None

    def _leave(self, error: BaseException | None) -> None:
        if (work := self._self_work) is not None:
            self._self_work = None
            work.leave(error)


class RunStream(_RunStream):
    """The stream of ``stream_events``."""

    def __enter__(self) -> Any:
        self._self_work = work = self._self_run.open()
        if work is None:
            return self.__wrapped__.__enter__()
        try:
            with work.step():
                self.__wrapped__ = self._self_make()
                self.__wrapped__.__enter__()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    def __exit__(self, *raised: Any) -> Any:
        if self._self_work is not None and (saw := self._self_work.saw) is not None:
            with _READING:
                saw({INTERRUPT: self.__wrapped__.interrupts})
        try:
            return self.__wrapped__.__exit__(*raised)
        finally:
            self._leave(raised[1])

    def abort(self) -> Any:
        """Cancels the run."""
        try:
            return self.__wrapped__.abort()
        finally:
            self._leave(GeneratorExit())


class AsyncRunStream(_RunStream):
    """The stream of ``astream_events``."""

    async def __aenter__(self) -> Any:
        self._self_work = work = self._self_run.open()
        if work is None:
            return await self.__wrapped__.__aenter__()
        try:
            with work.step():
                self.__wrapped__ = await self._self_make()
                await self.__wrapped__.__aenter__()
        except BaseException as error:
            self._leave(error)
            raise
        return self

    async def __aexit__(self, *raised: Any) -> Any:
        if self._self_work is not None and (saw := self._self_work.saw) is not None:
            with _READING:
                saw({INTERRUPT: await self.__wrapped__.interrupts()})
        try:
            return await self.__wrapped__.__aexit__(*raised)
        finally:
            self._leave(raised[1])

    async def abort(self) -> Any:
        """Cancels the run."""
        try:
            return await self.__wrapped__.abort()
        finally:
            self._leave(GeneratorExit())
