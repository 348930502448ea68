"""Buffer of text between the model and the reader of a stream, in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

UNREAD_LIMIT_BYTES: Final = 1024 * 1024
"""UTF-8 bytes that may wait to be read. An answer is bounded by ``max_tokens``, usually some KiB."""


class ChunkBuffer:
    """An unbounded queue for one writer and one reader. Its end stays in it for every later read.

    No lock is taken per piece: ``deque`` operations are atomic. The reader registers a waker, checks once more, and
    sleeps; the writer adds a piece and then calls the wakers. So either the reader receives the piece or the writer
    calls the waker. A waker may be called unnecessarily, and ends one sleep only.
    """

    __slots__ = ("_items", "_read_bytes", "_readers", "_written_bytes")

    def __init__(self) -> None:
        self._items: deque[str | None] = deque()
        self._readers: deque[Callable[[], None]] = deque()
        self._written_bytes = 0  # changed by the writer only
        self._read_bytes = 0  # changed by the reader only

    def put(self, piece: str) -> bool:
        """Adds a piece. Never blocks.

        Returns:
            Whether more may be added: ``False`` above ``UNREAD_LIMIT_BYTES`` of unread text.
        """
        self._written_bytes += _size(piece)
        self._items.append(piece)
        while self._readers:  # more than one only if a reader found a piece in its last check or was cancelled
            _wake(self._readers)
        return self._written_bytes - self._read_bytes <= UNREAD_LIMIT_BYTES

    def end(self) -> None:
        """Marks the end; nothing is put after it."""
        self._items.append(None)
        while self._readers:
            _wake(self._readers)

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
        else:
            self._read_bytes += _size(piece)
        return piece


def _size(piece: str) -> int:
    return len(piece) if piece.isascii() else len(piece.encode("utf-8", "surrogatepass"))


def _wake(sleepers: deque[Callable[[], None]]) -> None:
    try:
        wake = sleepers.popleft()
    except IndexError:  # the other side has removed it
        return
    wake()


def _wake_task(loop: asyncio.AbstractEventLoop, awake: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(_set, awake)
    except RuntimeError:  # the loop and the waiting task were closed
        return


def _set(awake: asyncio.Future[None]) -> None:
    if not awake.done():
        awake.set_result(None)
