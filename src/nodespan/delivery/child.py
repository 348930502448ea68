"""Children of ``multiprocessing``, which end without ``atexit``; billiard (Celery) uses its module of finalizers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def at_end_of_child(owner: object, work: Callable[[], None]) -> None:
    """Runs the owner's work at the end of this process, if it is such a child and the owner still exists."""
    process, util = sys.modules.get("multiprocessing.process"), sys.modules.get("multiprocessing.util")
    if process is not None and util is not None and process.current_process().name != "MainProcess":
        util.Finalize(owner, work, exitpriority=0)
