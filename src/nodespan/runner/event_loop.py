"""The event loop of asynchronous pipelines and of deadlines: one per process, in a separate thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from nodespan.spans.log import warn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_left_behind: Final[list[object]] = []
"""The parent process's loops and their connections, kept in a forked child: collecting one would close it there."""


class EventLoop:
    """An asyncio event loop in a daemon thread. All methods are safe from any other thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._loop: asyncio.AbstractEventLoop = asyncio.SelectorEventLoop(self._selector)
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps weak references
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="nodespan event loop", daemon=True)
        self._thread.start()

    def spawn(self, make: Callable[[], Coroutine[Any, Any, None]], context: Context) -> None:
        """Runs a coroutine as a task in a context.

        Raises:
            RuntimeError: The loop is closed.
        """
        self._loop.call_soon_threadsafe(self._spawn, make, context, context=Context())

    def run(self, coroutine: Coroutine[Any, Any, None], timeout_s: float) -> None:
        """Runs a coroutine to its end and raises what it raises.

        Raises:
            TimeoutError: It has not ended in time, and is cancelled.
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls a function on the loop's thread after a delay.

        Returns:
            A function that prevents the call.
        """
        timers: list[asyncio.TimerHandle] = []
        due = self._loop.time() + delay_s

        def start() -> None:
            timers.append(self._loop.call_at(due, callback, context=Context()))

        def cancel() -> None:
            for timer in timers:
                timer.cancel()

        self._call(start)
        return lambda: self._call(cancel)

    def close(self, timeout_s: float) -> None:
        """Cancels all tasks, closes the loop, and waits for its thread."""
        self._is_closed = True
        self._call(self._loop.stop)
        self._thread.join(timeout_s)

    def abandon(self) -> None:
        """Releases the connections of the parent process, in a forked child.

        Each descriptor is replaced by one of the null device. So a connection ends when the parent closes it, and
        closing the objects in this process later cannot close another file of the same number.
        """
        connections = list(self._selector.get_map().values())
        _left_behind.append((self, connections))
        null = os.open(os.devnull, os.O_RDWR)
        for connection in connections:
            os.dup2(null, connection.fd, inheritable=False)
        os.close(null)
        self._selector.close()

    def _call(self, callback: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback, context=Context())

    def _spawn(self, make: Callable[[], Coroutine[Any, Any, None]], context: Context) -> None:
        task = self._loop.create_task(make(), context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard, context=Context())

    def _run(self) -> None:
        while not self._is_closed:
            try:
                self._loop.run_forever()
            except BaseException:  # noqa: BLE001 asyncio re-raises SystemExit and KeyboardInterrupt of any task
                warn("pipeline.task_failed", "A task of an asynchronous pipeline has failed.", exc_info=True)
        for task in list(self._tasks):
            task.cancel()
        with contextlib.suppress(BaseException):
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class _Current:
    """The loop of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.loop: EventLoop | None = None

    def forget(self) -> None:
        self.lock = threading.Lock()
        loop, self.loop = self.loop, None
        if loop is not None:
            loop.abandon()


_current: Final = _Current()


def event_loop() -> EventLoop:
    """The loop of this process, which starts with its first use."""
    with _current.lock:
        if _current.loop is None:
            _current.loop = EventLoop()
        return _current.loop


def close_event_loop(timeout_s: float) -> None:
    """Closes the loop of this process, if there is one; the next use starts another."""
    with _current.lock:
        loop, _current.loop = _current.loop, None
    if loop is not None:
        loop.close(timeout_s)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_current.forget)
