"""Locks that the kernel releases when their holder dies. Linux and macOS only."""

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

    Of the folder and not of a file: closing a file takes away the locks that SQLite's connections of this process hold
    on it.

    Raises:
        StoreBusyError: Another process holds it for longer than 2 s.
        OSError: There is no such folder, or it has no locks.
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
