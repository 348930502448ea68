"""Changes of the store as server-sent events: one thread polls the store while a page is open."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import orjson
from starlette.concurrency import run_in_threadpool

from nodespan.errors import StoreError
from nodespan.spans.guard import report

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from nodespan.store import StoreReader
    from nodespan.store.records import Changes

    Step = tuple[Changes, list[bytes]]
    """Changes, and the new batches as they are stored."""

PING_S: Final = 15.0
_WAIT_S: Final = 0.5
"""How long the thread runs after the last page was closed, at most; it polls the store every 50 ms."""
_RETRY_S: Final = 1.0
_STEPS_KEPT: Final = 64
PING: Final = b": ping\n\n"


class Live:
    """Follows the store while ``steps`` is read.

    Every reader has its own cursor and may be slow, or return after hours: changes that the thread no longer holds are
    read from the store again.
    """

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._readers = 0
        self._thread: threading.Thread | None = None
        self._kept: OrderedDict[str, Step] = OrderedDict()
        self._cursor = ""
        self._is_closed = False
        self._lock = threading.Lock()
        self._changed: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def close(self) -> None:
        """Ends every stream."""
        self._is_closed = True
        self._wake()

    async def steps(self, cursor: str) -> AsyncGenerator[Step | None]:
        """The changes after a cursor, step by step; ``None`` after a time without changes.

        Raises:
            StoreError: The cursor is invalid.
        """
        changed = asyncio.Event()
        self._enter(changed)
        try:
            while not self._is_closed:
                changed.clear()
                step = self._kept.get(cursor)
                if step is None and cursor != self._cursor:
                    step = await self._read(cursor)
                if step is not None and step[0]["cursor"] != cursor:
                    cursor = step[0]["cursor"]
                    yield step
                elif not await _is_set(changed, PING_S):
                    yield None
        finally:
            self._leave(changed)

    async def _read(self, cursor: str) -> Step:
        return await run_in_threadpool(self._reader.follow_batches, cursor)

    def _enter(self, changed: asyncio.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed.add(changed)
        with self._lock:
            self._readers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="nodespan-viewer", daemon=True)
                self._thread.start()

    def _leave(self, changed: asyncio.Event) -> None:
        self._changed.discard(changed)
        with self._lock:
            self._readers -= 1

    def _follow(self) -> None:
        """Polls the store; runs in the thread."""
        cursor = ""
        while self._has_readers():
            try:
                if not cursor:
                    cursor = self._cursor = self._reader.cursor()
                    self._wake()
                step = self._reader.follow_batches(cursor, wait_s=_WAIT_S)
            except StoreError as error:  # a busy or damaged store may serve later
                report("follow the store", error)
                time.sleep(_RETRY_S)
                continue
            if step[0]["cursor"] != cursor:
                self._keep(cursor, step)
                cursor = self._cursor = step[0]["cursor"]
                self._wake()

    def _has_readers(self) -> bool:
        with self._lock:
            if self._readers and not self._is_closed:
                return True
            self._thread = None
            self._kept.clear()
            self._cursor = ""
            return False

    def _keep(self, cursor: str, step: Step) -> None:
        self._kept[cursor] = step
        while len(self._kept) > _STEPS_KEPT:
            self._kept.popitem(last=False)

    def _wake(self) -> None:
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._set_all)

    def _set_all(self) -> None:
        for event in self._changed:
            event.set()


async def _is_set(event: asyncio.Event, timeout_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True


async def events(live: Live, cursor: str, data_of: Callable[[Step], Any]) -> AsyncIterator[bytes]:
    """The stream of one page.

    Args:
        live: Of the store.
        cursor: Of the page's last change.
        data_of: Returns the page's data of a step; ``None``: nothing is sent. Called in a thread.
    """
    yield PING  # sends the headers, so that the page is connected
    async with contextlib.aclosing(live.steps(cursor)) as steps:
        async for step in steps:
            if step is None:
                yield PING
                continue
            data = await run_in_threadpool(data_of, step)
            if data is not None:
                head = f"event: changes\nid: {step[0]['cursor']}\ndata: ".encode()
                yield head + orjson.dumps(data, option=orjson.OPT_NON_STR_KEYS) + b"\n\n"
