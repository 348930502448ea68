"""A lock for state that a forked child continues to use."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

if TYPE_CHECKING:
    from types import TracebackType


class ForkLock:
    """A reentrant lock that is free in a forked child if another thread, which the child does not have, held it."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _alive.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Releases it, unless the current thread holds it. For a process with one thread."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


# One handler for all, since a handler cannot be removed and would keep its object alive.
_alive: Final[WeakSet[ForkLock]] = WeakSet()


def _renew_in_child() -> None:
    for lock in list(_alive):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_in_child)
