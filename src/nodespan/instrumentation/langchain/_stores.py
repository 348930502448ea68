"""The caller of a LangGraph store that works in batches.

A background task does the work, in the context in which the store was created. The context of the current call is kept
here while its caller waits.
"""

from __future__ import annotations

import asyncio
import functools
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import ref

from nodespan.spans.scope import own_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.context import Context


class _Call(NamedTuple):
    """A call that waits for a store."""

    context: Context
    task: asyncio.Task[Any] | None

    @property
    def has_result(self) -> bool:
        """Whether the background task has answered it; its own task may not have run since."""
        awaited = getattr(self.task, "_fut_waiter", None)
        return awaited is not None and awaited.done()


_waiting: Final[dict[int, list[_Call]]] = {}
"""Calls that wait for a store, by its ``id()``, in the order of their execution. A store may not be hashable."""
_store: Final[ContextVar[ref[Any] | None]] = ContextVar("nodespan-store", default=None)
"""The store of the current background task, or of the task that started it."""


def makes_task(original: Callable[..., None]) -> Callable[..., None]:
    """Wraps ``__init__``, which starts the background task."""

    @functools.wraps(original)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        token = _store.set(ref(self))
        try:
            original(self, *args, **kwargs)
        finally:
            _store.reset(token)

    return wrapper


def waits(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wraps a method that passes its work to the background task, and restarts that task if it has ended."""

    @functools.wraps(original)
    async def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _Call(own_context(), asyncio.current_task())
        _waiting.setdefault(id(self), []).append(call)
        token = _store.set(ref(self))
        try:
            return await original(self, *args, **kwargs)
        finally:
            _end(id(self), call)
            with suppress(ValueError):  # a coroutine that is dropped while it waits is closed in another context
                _store.reset(token)

    return wrapper


def _end(store: int, ended: _Call) -> None:
    """Removes a call. The store lives as long as it has calls, so that no other one has its ``id()`` then.

    Not by ``list.remove``, which compares contexts, and so values of the program's.
    """
    left = [call for call in _waiting.get(store, ()) if call is not ended]
    if left:
        _waiting[store] = left
    else:
        _waiting.pop(store, None)


def caller_context() -> Context | None:
    """In a store's background task the context of the current call; ``None`` elsewhere."""
    reference = _store.get()
    store = reference() if reference is not None else None
    calls = _waiting.get(id(store), ()) if store is not None else ()
    return next((call.context for call in calls if not call.has_result), None)
