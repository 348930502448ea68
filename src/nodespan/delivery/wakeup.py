"""Wakes a thread from anywhere."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue


class Wakeup:
    """An event for one waiting thread. ``set`` may interrupt a running ``set``: a signal handler, a garbage collection.

    ``threading.Event.set`` would wait for its own lock there.
    """

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ends the current wait, or the next one."""
        if self._calls.empty():
            self._calls.put(None)

    def wait(self, timeout_s: float) -> None:
        """Waits for ``set`` within a time limit, and resets it."""
        with suppress(Empty):
            self._calls.get(timeout=max(timeout_s, 0.0))
