"""Warnings of nodespan's own, each with a stable code on its log record."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

logger: Final = logging.getLogger("nodespan")

CODE_FIELD: Final = "nodespan.code"
"""Name of the code on a ``logging.LogRecord`` (``record.__dict__["nodespan.code"]``) and on the exported log record."""

CODES: Final[Mapping[str, str]] = {
    "configure.foreign_meter_provider": "nodespan's metrics go to a meter provider that the program has set.",
    "configure.foreign_provider": "nodespan's spans go to a tracer provider that the program has set.",
    "configure.invalid_variable": "An OTEL_* variable has a value that is invalid or unsupported; its default is used.",
    "configure.zero_code": "Arguments of configure() are ignored under opentelemetry-instrument.",
    "export.left_behind": "Spans were not exported before the process ended; they are sent later.",
    "export.lost_at_exit": "Spans could not be stored before the process ended; they are lost.",
    "export.other_destination": "The store holds spans for a destination that this program does not use.",
    "export.recovered": "A destination accepts data again after an outage.",
    "export.rejected": "A destination permanently rejected spans.",
    "export.unreachable": "A destination does not accept data; spans are kept and sent later.",
    "graph.unreadable": "This LangGraph lacks a name from which the declared graph or its taken edges are read.",
    "instrumentation.import_failed": "A library cannot be imported and is not traced.",
    "instrumentation.missing": "A library lacks a name that nodespan wraps; its calls are not recorded.",
    "internal.failed": "nodespan failed internally; the application is not affected.",
    "pipeline.bad_measurement": "A pipeline reported an impossible value, such as a negative time; it is ignored.",
    "pipeline.close_failed": "A pipeline raised an error when it was closed; another model can be loaded.",
    "pipeline.task_failed": "A task started by an asynchronous pipeline has failed.",
    "sdk.unknown_version": "The SDK's spans are used: nodespan's lean spans do not support this version of the SDK.",
    "store.copy_with_log": "A store is read as a copy without its write-ahead log: its newest spans are missing.",
    "store.damaged": "The store's file is damaged: it was renamed, and a new one was created.",
    "store.foreign_file": "The store's file was not made by this version of nodespan: spans are kept in memory.",
    "store.index_unavailable": "The search index cannot be written: each reading process builds a temporary one.",
    "store.locked": "Another process holds the store's write lock: spans are stored later.",
    "store.no_home": "There is no home directory for the store: spans are kept in memory.",
    "store.no_key": "The store's key cannot be used; a temporary key is used.",
    "store.unavailable": "The store's file cannot be used: spans are kept in memory.",
    "stream.unread_limit": "A stream was ended because more than 1 MiB of its text was not read.",
    "workflow.close_failed": "The event stream of a failed or abandoned workflow raised an error when it was closed.",
    "workflow.missing_field": "A graph's state lacks a field that a PipelineNode writes; LangGraph drops the value.",
    "workflow.node_failed": "The execution of a PipelineNode raised an error.",
}
"""Every code and its meaning. Codes are stable; the wording of a message may change."""


_first: Final[dict[Hashable, object]] = {}


def is_first(*key: Hashable) -> bool:
    """Whether the key is new: for messages that are logged once. Safe from any thread; acquires no lock."""
    mark = object()
    return _first.setdefault(key, mark) is mark


def forget_logged() -> None:
    """Logs the messages that are logged once again when they occur again."""
    _first.clear()


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
