"""Work that must end before telemetry shuts down at interpreter exit, because it creates spans.

``atexit`` calls its functions in the reverse order of their registration, which depends on which module was imported
first. This list does not.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Final

from nodespan.spans.guard import Guard

_ENDING: Final = Guard("end running work at exit")
_callbacks: Final[list[Callable[[], None]]] = []


def end_before_telemetry(callback: Callable[[], None]) -> None:
    """Registers a function to be called once at interpreter exit, before telemetry shuts down. For use at import."""
    if not _callbacks:
        atexit.register(end_running_work)
    _callbacks.append(callback)


def end_running_work() -> None:
    """Calls every registered function, once."""
    while _callbacks:
        with _ENDING:
            _callbacks.pop()()
