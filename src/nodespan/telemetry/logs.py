"""The `nodespan` logger's records as OpenTelemetry log records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import get_current

from nodespan import semconv
from nodespan.spans.exceptions import exception_attributes
from nodespan.spans.guard import Guard
from nodespan.spans.log import CODE_FIELD
from nodespan.spans.redaction import safe_text

if TYPE_CHECKING:
    from opentelemetry._logs import Logger

_LOGGING: Final = Guard("pass on a log record")
_SEVERITIES: Final = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}
_NODE_FIELDS: Final = ("node_id", "node_name")


class OTelHandler(logging.Handler):
    """Emits log records to an OpenTelemetry logger, with the ids of the span that is current at the log call."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``. If the program has no other handler, warnings are printed as without this one."""
        if logging.lastResort is not None and record.levelno >= logging.lastResort.level and self._is_alone(record):
            logging.lastResort.handle(record)
        with _LOGGING:
            attributes: dict[str, str] = {
                semconv.MIRROR_PREFIX + name: getattr(record, name) for name in _NODE_FIELDS if hasattr(record, name)
            }
            if (code := getattr(record, CODE_FIELD, None)) is not None:
                attributes[CODE_FIELD] = code
            if record.exc_info is not None and (error := record.exc_info[1]) is not None:
                attributes |= exception_attributes(error)
            self._logger.emit(
                LogRecord(
                    timestamp=round(record.created * 1e9),
                    context=get_current(),
                    severity_number=_SEVERITIES.get(record.levelno, SeverityNumber.INFO),
                    severity_text=record.levelname,
                    body=safe_text(record.getMessage()),
                    attributes=attributes,
                )
            )

    def _is_alone(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True
