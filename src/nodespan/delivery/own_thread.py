"""The threads of delivery, which end only with telemetry."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from nodespan.spans.guard import report

if TYPE_CHECKING:
    from collections.abc import Callable

_OPERATION: Final = "keep a thread of delivery running"
_PAUSE_S: Final = 0.1


def start_thread(work: Callable[[], None], is_over: Callable[[], bool]) -> threading.Thread:
    """Starts a daemon thread that repeats the work if it ends too early.

    A guard does not suppress exits, and foreign code may raise one here: a log handler of the program, a pipeline's
    function for its progress. It would end delivery, and nothing else.

    Args:
        work: Runs until ``is_over``.
        is_over: Returns whether the thread must end.

    Raises:
        RuntimeError: The system cannot start a thread. The next span tries again.
    """

    def run() -> None:
        while not is_over():
            try:
                work()
            except BaseException as error:  # noqa: BLE001 see above
                with suppress(BaseException):  # of a log handler
                    report(_OPERATION, error if isinstance(error, Exception) else type(error).__name__)
                time.sleep(_PAUSE_S)

    thread = threading.Thread(target=run, name="nodespan delivery", daemon=True)
    thread.start()
    return thread
