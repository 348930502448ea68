"""The caller of a LangGraph store that works in batches.

A background task does the work, in the context in which the store was made. The context of the call that it works for
is kept here while the caller waits.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from nodespan.spans.scope import own_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opentelemetry.context import Context

_waiting: Final[WeakKeyDictionary[Any, list[Context]]] = WeakKeyDictionary()
"""Contexts of the calls that wait for a store, in the order of their execution."""
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
        contexts, context = _waiting.setdefault(self, []), own_context()
        contexts.append(context)
        token = _store.set(ref(self))
        try:
            return await original(self, *args, **kwargs)
        finally:
            contexts.remove(context)
            with suppress(ValueError):  # a coroutine that is dropped while it waits is closed in another context
                _store.reset(token)

    return wrapper


def caller_context() -> Context | None:
    """In a store's background task the context of the current call; ``None`` elsewhere."""
    reference = _store.get()
    store = reference() if reference is not None else None
    contexts = _waiting.get(store) if store is not None else None
    return contexts[0] if contexts else None
