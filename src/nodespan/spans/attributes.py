"""Values that an attribute can hold: checked before setting, because the SDK takes what its encoder then refuses.

Tried on OpenTelemetry 1.45: lone surrogates and integers of 64 bits and more are held by the SDK and lost in the
encoder, with a traceback in the log for each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from nodespan.spans.guard import report
from nodespan.spans.redaction import MAX_TEXT_BYTES, truncate

_INT64: Final = 2**63
_SCALARS: Final = frozenset({str, bool, int, float})
_HARD: Final = "hold a metadata value as it was given"

Scalar = str | bool | int | float
AttributeValue = Scalar | list[str] | list[int] | list[float] | list[bool]


def to_attribute(value: Any) -> AttributeValue | None:  # pyright: ignore[reportExplicitAny] whatever somebody put into a state
    """The value as an attribute can hold it, or ``None`` to leave it out. What had to change is counted. Never raises.

    Texts are cut at 16 KiB and made encodable, integers beyond 64 bits become texts, bytes become hex, and what is
    nested becomes JSON.
    """
    if type(value) is str:
        return value if value.isascii() and len(value) <= MAX_TEXT_BYTES else _text(value)
    if type(value) is list or type(value) is tuple:
        return _sequence(value)  # pyright: ignore[reportUnknownArgumentType] cast() would be a call
    if value is None or type(value) is bool or type(value) is float:
        return value
    if type(value) is int:
        return value if -_INT64 <= value < _INT64 else _changed(str(value))
    return _other(value)


def to_attributes(attributes: Mapping[str, Any]) -> dict[str, AttributeValue]:  # pyright: ignore[reportExplicitAny]
    """The attributes that have a value which can be held."""
    held: dict[str, AttributeValue] = {}
    for key, value in attributes.items():
        # Most are short texts; a call for each of them would be the larger part of the time.
        if type(value) is str and value.isascii() and len(value) <= MAX_TEXT_BYTES:
            held[key] = value
        elif value is not None and (changed := to_attribute(value)) is not None:
            held[key] = changed
    return held


def _text(value: str) -> str:
    kept = truncate(value, MAX_TEXT_BYTES)
    return kept if kept == value else _changed(kept)


def _changed(value: str) -> str:
    report(_HARD, "changed")
    return value


def _other(value: Any) -> AttributeValue | None:  # pyright: ignore[reportExplicitAny]
    try:
        if isinstance(value, str):  # a subclass, such as a StrEnum
            return _text(str.__str__(value))
        if isinstance(value, int):
            return to_attribute(int(value))
        if isinstance(value, (list, tuple)):
            return _sequence(cast("list[object] | tuple[object, ...]", value))
        if isinstance(value, (bytes, bytearray)):
            return _changed(truncate(bytes(value).hex(), MAX_TEXT_BYTES))
        return _changed(_text(json.dumps(value, default=repr, ensure_ascii=False)))
    except Exception as error:  # noqa: BLE001 a repr or int of somebody's object may do anything
        report(_HARD, error)
        return None


def _sequence(values: list[object] | tuple[object, ...]) -> AttributeValue:
    kinds = set(map(type, values))
    if not kinds or (len(kinds) == 1 and kinds <= _SCALARS):
        return [to_attribute(value) for value in values]  # pyright: ignore[reportReturnType] all of one kind
    return _changed(_text(json.dumps(values, default=repr, ensure_ascii=False)))
