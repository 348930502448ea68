"""Warnings of nodespan's own, each with a stable code on its log record."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

logger: Final = logging.getLogger("nodespan")

CODE_FIELD: Final = "nodespan.code"
"""Name of the code on a ``logging.LogRecord`` (``record.__dict__["nodespan.code"]``) and on the exported log record."""

CODES: Final[Mapping[str, str]] = {
    "internal.failed": "nodespan failed in a part of its own work; the application is not affected.",
    "pipeline.bad_measurement": "A pipeline reported a value that cannot be, such as a negative time; it is left out.",
    "pipeline.close_failed": "A pipeline raised an error when it was closed; its room is free all the same.",
    "pipeline.task_failed": "A task that an asynchronous pipeline started has ended with an error of its own.",
    "stream.unread_limit": "A stream was ended because more than 1 MiB of its text was not read.",
}
"""Every code and its meaning. Codes are stable; the wording of a message may change."""


def warn(code: str, message: str, *arguments: object, level: int = logging.WARNING, exc_info: Any = None) -> None:
    """Logs a message with its code.

    Args:
        code: One of ``CODES``.
        message: Format string of the ``logging`` module.
        arguments: Its arguments.
        level: Level of the record.
        exc_info: As in the ``logging`` module.

    Raises:
        KeyError: The code is not in the table.
    """
    if code not in CODES:
        raise KeyError(code)
    logger.log(level, message, *arguments, exc_info=exc_info, extra={CODE_FIELD: code}, stacklevel=2)
