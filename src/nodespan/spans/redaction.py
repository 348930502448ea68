"""What may leave: the redaction hook and the byte cap, applied where a text is captured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nodespan.spans.guard import report

MAX_TEXT_BYTES: Final = 16 * 1024
"""Cap of one captured text. A stack trace of a deep graph is about 8 KiB."""

REMOVED: Final = "[removed: the redaction hook failed]"

Redact = Callable[[str], str]


@dataclass(slots=True)
class _Rules:
    redact: Redact | None = None
    max_bytes: int = MAX_TEXT_BYTES


_rules = _Rules()


def set_redaction(redact: Redact | None, *, max_bytes: int = MAX_TEXT_BYTES) -> None:
    """Installs the hook that every captured text runs through; ``None`` takes it away. Called by ``configure()``."""
    _rules.redact = redact
    _rules.max_bytes = max_bytes


def safe_text(text: str, *, keep_end: bool = False) -> str:
    """The text as it may leave: redacted, encodable as UTF-8, and cut at the cap with size and sha256 of the whole.

    Args:
        text: As it was captured.
        keep_end: Cut the middle and not the end: the end of a stack trace is the error.
    """
    return truncate(redacted(text), _rules.max_bytes, keep_end=keep_end)


def redacted(text: str) -> str:
    """The text without what the hook takes out; a hook that fails takes all of it."""
    if (redact := _rules.redact) is None:
        return text
    try:
        return redact(text)
    except Exception as error:  # noqa: BLE001 a hook is the user's code; its failure must not let the value out
        report("redact a text (the value was removed)", error)
        return REMOVED


def truncate(text: str, max_bytes: int, *, keep_end: bool = False) -> str:
    """The text if its UTF-8 form fits, else its beginning and what was cut: size in bytes and sha256 of the whole.

    With ``keep_end`` the last half of the room holds the end of the text.

    What comes out fits, so cutting it again changes nothing.
    """
    if text.isascii() and len(text) <= max_bytes:
        return text
    raw = text.encode("utf-8", "replace")
    if len(raw) <= max_bytes:
        return raw.decode()
    mark = f"... [cut: {len(raw)} bytes in all, sha256 {hashlib.sha256(raw).hexdigest()}]"
    room = max(max_bytes - len(mark), 0)
    end = raw[len(raw) - room // 2 :] if keep_end and room else b""
    return raw[: room - len(end)].decode("utf-8", "ignore") + mark + end.decode("utf-8", "ignore")
