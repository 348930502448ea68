"""One sender per destination: a lock that the kernel releases at the end of its holder.

POSIX record locks (``fcntl(F_SETLK)``) belong to the process. A forked child never inherits them; it would keep a
``flock`` after the end of its parent. Within a process a table replaces them.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodespan.store import MEMORY
from nodespan.store.posix import lock_for_process

STUCK_AFTER_S: Final = 60.0
"""A holder that has made no progress for this long is reported."""

_table: Final = threading.Lock()
_held: Final[dict[Path, SenderLock]] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_table.acquire,
        after_in_parent=_table.release,
        after_in_child=lambda: (_held.clear(), _table.release()),  # the parent's locks are not the child's
    )


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that sends to a destination.

    Attributes:
        idle_s: Seconds since its start or last progress.
    """

    pid: int
    idle_s: float

    @property
    def is_stuck(self) -> bool:
        """Whether it has made no progress for a minute."""
        return self.idle_s > STUCK_AFTER_S


class SenderLock:
    """The right to send one store's spans for one destination. For one thread.

    Args:
        store: Path of the store; a store in memory is not shared and needs no lock.
        identity: The destination's.
    """

    def __init__(self, store: Path, identity: str) -> None:
        folder = store.with_name(f"{store.name}.locks")
        self._path = None if store == MEMORY else folder / f"{identity}.lock"
        self._handle: int | None = None
        self._pid = 0

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, in this process."""
        return self._path is None or (self._handle is not None and self._pid == os.getpid())

    def acquire(self) -> bool:
        """Takes the lock if it is free; reports progress if it is held already.

        Raises:
            OSError: The lock file cannot be created.
        """
        if self._path is None:
            return True
        if self.is_held and self._handle is not None:
            os.utime(self._handle)
            return True
        with _table:
            if self._path in _held:
                return False
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            if not lock_for_process(handle):
                os.close(handle)
                return False
            _held[self._path] = self
        self._handle, self._pid = handle, os.getpid()
        os.pwrite(handle, f"{self._pid:<20}".encode(), 0)
        os.utime(handle)
        return True

    def release(self) -> None:
        """Releases the lock."""
        handle, self._handle = self._handle, None
        if handle is None or self._path is None:
            return
        with _table:
            if self._pid == os.getpid() and _held.get(self._path) is self:
                del _held[self._path]
            os.close(handle)

    def holder(self) -> Holder | None:
        """The process that holds the lock, as far as it is known. Read it after ``acquire`` has failed."""
        if self._path is None:
            return None
        with _table:
            own = _held.get(self._path)
            try:
                idle_s = max(time.time() - self._path.stat().st_mtime, 0.0)
                # Closing the file would release this process's own lock on it.
                pid = os.getpid() if own is not None else int(self._path.read_bytes().split()[0])
            except (OSError, ValueError, IndexError):
                return None
        return Holder(pid, idle_s)
