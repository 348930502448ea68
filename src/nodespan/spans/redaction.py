"""Redaction and byte limits of captured texts, applied where a text is captured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nodespan.spans.guard import report

MAX_TEXT_BYTES: Final = 16 * 1024
"""Limit of one captured text. A stack trace of a deep graph has about 8 KiB."""

_SDK_LIMIT: Final = "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"

REMOVED: Final = "[removed: the redaction hook failed]"

Redact = Callable[[str], str]


@dataclass(slots=True)
class _Rules:
    redact: Redact | None = None


_rules = _Rules()


def set_redaction(redact: Redact | None) -> None:
    """Installs the hook that every captured text passes through; ``None`` removes it. Called by ``configure()``."""
    _rules.redact = redact


def safe_text(text: str, *, keep_end: bool = False) -> str:
    """The exportable text: redacted, encodable as UTF-8, and cut at the limit.

    Args:
        text: As it was captured.
        keep_end: Cut the middle and not the end: the end of a stack trace is the error. The SDK cuts the end of event
            attributes above its own limit, so that limit holds here as well.
    """
    sdk_limit = os.environ.get(_SDK_LIMIT, "").strip() if keep_end else ""
    limit = min(MAX_TEXT_BYTES, int(sdk_limit)) if sdk_limit.isdecimal() else MAX_TEXT_BYTES
    return truncate(redacted(text), limit, keep_end=keep_end)


def redacted(text: str) -> str:
    """The text after the redaction hook. If the hook fails, the text is removed."""
    if (redact := _rules.redact) is None:
        return text
    try:
        return redact(text)
    except Exception as error:  # noqa: BLE001 a hook is the user's code; its failure must not let the value out
        report("redact a text (the value was removed)", error)
        return REMOVED


def truncate(text: str, max_bytes: int, *, keep_end: bool = False) -> str:
    """The text if its UTF-8 form fits, else its beginning and a mark with size in bytes and sha256 of the whole.

    The result fits, so truncating it again changes nothing.

    Args:
        text: Any text.
        max_bytes: Limit of the UTF-8 form.
        keep_end: The second half of the limit holds the end of the text; all of it if the mark does not fit.
    """
    if text.isascii() and len(text) <= max_bytes:
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return raw.decode()
    mark = f"... [cut: {len(raw)} bytes in all, sha256 {hashlib.sha256(raw).hexdigest()}]"
    if keep_end and max_bytes < 2 * len(mark):
        return raw[len(raw) - max_bytes :].decode("utf-8", "ignore")
    room = max(max_bytes - len(mark), 0)
    end = raw[len(raw) - room // 2 :] if keep_end and room else b""
    return raw[: room - len(end)].decode("utf-8", "ignore") + mark + end.decode("utf-8", "ignore")
