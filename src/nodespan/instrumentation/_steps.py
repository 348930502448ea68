"""Wrappers of generators: the work's span is current in each step, and no context stays attached between two steps.

A generator's body runs in its consumer's context. So the context is attached for one step and detached before the
``yield``: the consumer's own span, context and baggage are never touched, also if another task or thread continues
the generator, or the garbage collector ends it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, cast

from nodespan.spans.scope import suppressed

Steps: TypeAlias = Generator[Any, Any, Any]
AsyncSteps: TypeAlias = AsyncGenerator[Any, Any]


class Enclosure(Protocol):
    """Work that is done in steps."""

    @property
    def saw(self) -> Callable[[Any], None] | None:
        """Reads an item before the consumer receives it; ``None`` where no item is read."""
        ...

    def step(self) -> AbstractContextManager[None]:
        """Makes the work's span current in each step, over the context that the consumer has at that step."""
        ...

    def leave(self, error: BaseException | None = None) -> None:
        """Ends the work with its outcome."""
        ...


class Suppressed:
    """Work that was started where instrumentation was suppressed: its steps stay suppressed."""

    saw = None

    @staticmethod
    def step() -> AbstractContextManager[None]:
        """Suppresses instrumentation."""
        return suppressed()

    def leave(self, error: BaseException | None = None) -> None:
        """Does nothing."""


Open: TypeAlias = Callable[[], Enclosure | None]
"""Opens the work at its first step, so that a generator that is never read has no span; ``None``: not recorded."""


def in_steps(open_work: Open, steps: Iterator[Any]) -> Steps:
    """The generator, or any iterator, enclosed; what the consumer sends is passed on."""
    work = open_work()
    if work is None:
        yield from steps
        return
    step, saw, sent = work.step(), work.saw, None
    try:
        while True:
            with step:
                try:
                    item = next(steps) if sent is None else cast("Steps", steps).send(sent)
                except StopIteration:
                    break
            if saw is not None:
                saw(item)
            sent = yield item
    except BaseException as error:
        try:
            with step:
                if isinstance(steps, Generator):
                    steps.close()
        finally:
            work.leave(error)
        raise
    work.leave()


async def in_async_steps(open_work: Open, steps: AsyncSteps) -> AsyncSteps:
    """The async generator, enclosed."""
    work = open_work()
    if work is None:
        try:
            async for item in steps:
                yield item
        finally:
            await aclose(steps)
        return
    step, saw = work.step(), work.saw
    try:
        while True:
            with step:
                try:
                    item = await anext(steps)
                except StopAsyncIteration:
                    break
            if saw is not None:
                saw(item)
            yield item
    except BaseException as error:
        try:
            with step:
                await aclose(steps)
        finally:
            work.leave(error)
        raise
    work.leave()


async def aclose(steps: AsyncIterator[Any]) -> None:
    """Closes an async generator, which is otherwise closed by a later task; other iterators have nothing to close."""
    if hasattr(steps, "aclose"):
        await cast("AsyncSteps", steps).aclose()
