"""Locks that the kernel releases when their holder ends. Linux and macOS only."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from nodespan.errors import ConfigurationError, StoreBusyError

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ConfigurationError(
        "nodespan's local store and delivery need POSIX file locks, which this platform does not have. "
        "Supported: Linux and macOS; on Windows use WSL."
    ) from error

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

_TIMEOUT_S: Final = 2.0
_POLL_S: Final = 0.005


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Holds the exclusive lock of a folder, for the creation and replacement of files in it.

    The folder is locked and not a file, because closing a file releases the locks of this process's SQLite connections.

    Raises:
        StoreBusyError: Another process holds it for longer than 2 s.
        OSError: The folder does not exist, or does not support locks.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not _is_taken(handle):
            if time.monotonic() >= deadline:
                raise StoreBusyError(f"The folder {folder} is locked by another process.")
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)


def _is_taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock_for_process(handle: int) -> bool:
    """Acquires a record lock, which belongs to the process, on an open file; ``False`` if another process holds it."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


class ProcessLock:
    """A locked file that marks a running process: the kernel releases the lock at any end of the process.

    The lock is a record lock, which no forked child has.

    Args:
        path: The file; its folder is created with mode 0700.

    Raises:
        OSError: The file cannot be created or locked.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        _own.add(path)
        fcntl.lockf(self._handle, fcntl.LOCK_EX)  # waits only for another process's short check

    def release(self, *, removes_file: bool = True) -> None:
        """Releases the lock and removes the file; in a forked child the parent keeps both.

        Args:
            removes_file: ``False`` if rows of the process remain, which the free lock then marks as lost.
        """
        if self._handle < 0:
            return
        if self._path in _own:
            _own.discard(self._path)
            if removes_file:
                self._path.unlink(missing_ok=True)
        os.close(self._handle)
        self._handle = -1

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            self.release()


def is_held(path: Path) -> bool | None:
    """Whether a running process holds the lock of this file; ``None`` if the file does not exist."""
    if path in _own:  # closing another handle of the file would release the lock
        return True if path.exists() else None
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError:  # a process of another user
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(handle)
    return False


_own: Final[set[Path]] = set()
os.register_at_fork(after_in_child=_own.clear)
