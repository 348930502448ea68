"""Pieces of text on their way from the model's thread to whoever reads the stream, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY: Final = 64
"""Pieces that may wait to be read before the model pauses: half a second of a fast model, a few KiB."""

_ROOM_AGAIN: Final = CAPACITY // 4
"""A paused writer goes on when this few are left, so that the two threads do not take turns for every piece."""


class ChunkQueue:
    """A bounded queue for one writer and one reader. Its end stays in it, so that every later read finds it too.

    No lock is taken per piece: ``deque`` operations are atomic, and each side leaves a waker before it looks a last
    time and sleeps, while the other acts before it looks for wakers. One of the two always sees the other. A waker may
    so be called for nothing, and is made for one sleep only. ``release_writer`` is safe in a destructor.
    """

    __slots__ = ("_items", "_readers", "_writers")

    def __init__(self) -> None:
        self._items: deque[str | None] = deque()
        self._readers: deque[Callable[[], None]] = deque()
        self._writers: deque[Callable[[], None]] = deque()

    def put(self, piece: str, unwanted: bytearray) -> None:
        """Adds a piece and then waits while the queue is full, until there is room or ``unwanted`` begins with 01."""
        self._items.append(piece)
        while self._readers:  # more than one only if a reader found a piece in its last look or was cancelled
            _wake(self._readers)
        if len(self._items) >= CAPACITY:
            self._wait_for_room(unwanted)

    def end(self) -> None:
        """Marks the end; nothing is put after it."""
        self._items.append(None)
        while self._readers:
            _wake(self._readers)

    def release_writer(self) -> None:
        """Lets a waiting writer look again whether its pieces are wanted."""
        _wake(self._writers)

    def get(self) -> str | None:
        """The next piece, ``None`` at the end. Blocks the thread until there is one."""
        while not self._items:
            asleep = threading.Lock()
            asleep.acquire()
            self._readers.append(asleep.release)
            if not self._items:
                asleep.acquire()
        return self._take()

    async def aget(self) -> str | None:
        """The next piece, ``None`` at the end. Suspends the task until there is one."""
        while not self._items:
            loop = asyncio.get_running_loop()
            awake = loop.create_future()
            self._readers.append(functools.partial(_wake_task, loop, awake))
            if not self._items:
                await awake
        return self._take()

    def _take(self) -> str | None:
        piece = self._items.popleft()
        if piece is None:
            self._items.append(None)
        elif self._writers and len(self._items) <= _ROOM_AGAIN:
            _wake(self._writers)
        return piece

    def _wait_for_room(self, unwanted: bytearray) -> None:
        asleep = threading.Lock()
        asleep.acquire()
        self._writers.append(asleep.release)
        if len(self._items) > _ROOM_AGAIN and not unwanted[0]:
            asleep.acquire()
        self._writers.clear()


def _wake(sleepers: deque[Callable[[], None]]) -> None:
    try:
        wake = sleepers.popleft()
    except IndexError:  # the other side was quicker
        return
    wake()


def _wake_task(loop: asyncio.AbstractEventLoop, awake: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_set, awake)
    except RuntimeError:  # the loop was closed, and with it the task that waited
        return


def _set(awake: asyncio.Future[None]) -> None:
    if not awake.done():
        awake.set_result(None)
