"""Conversion of values to attributes. The SDK accepts some values that its encoder rejects, with a logged traceback.

Observed with OpenTelemetry 1.45: lone surrogates, and integers of 64 bits and more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, cast

from nodespan.spans.guard import report
from nodespan.spans.redaction import MAX_TEXT_BYTES, truncate

_INT64: Final = 2**63
_MAX_DECIMAL_BITS: Final = 14_000
"""Python refuses to format integers of more than 4,300 decimal digits."""
_SCALARS: Final = frozenset({str, bool, int, float})
_CHANGING: Final = "hold a metadata value as it was given"

Scalar = str | bool | int | float
AttributeValue = Scalar | tuple[str, ...] | tuple[int, ...] | tuple[float, ...] | tuple[bool, ...]


class PlainAttributes(dict[str, AttributeValue]):
    """Attributes as the SDK holds them while no limit is set: of exactly these types, sequences as tuples.

    A span may keep this dict without checking its values again: do not change it after passing it to a span.
    """

    __slots__ = ()


def to_attribute(value: Any) -> AttributeValue | None:
    """The value as an attribute, or ``None`` to leave it out. A changed value is counted. Never raises.

    Texts are cut at 16 KiB and made encodable, integers beyond 64 bits become texts, bytes become hexadecimal, and
    nested values become JSON.
    """
    if type(value) is str:
        return value if value.isascii() and len(value) <= MAX_TEXT_BYTES else _text(value)
    if value is None or type(value) is bool or type(value) is float:
        return value
    if type(value) is int:
        return value if -_INT64 <= value < _INT64 else _changed(decimal(value))
    try:
        return _other(value)
    except Exception as error:  # noqa: BLE001 methods of a user's object may raise anything
        report(_CHANGING, error)
        return None


def fact(source: object, name: str) -> Any:
    """An attribute of an object of the program's; ``None`` where it has none, or where reading it raises."""
    try:
        return getattr(source, name, None)
    except Exception:  # noqa: BLE001 the program's own property; an optional fact must not cost more than itself
        return None


def to_attributes(
    attributes: Mapping[str, Any],
    others: PlainAttributes | None = None,
) -> PlainAttributes:
    """The attributes that have a value, converted, after a copy of others; the same object where they are plain."""
    if type(attributes) is PlainAttributes and others is None:
        return attributes
    held = PlainAttributes(others or ())
    for key, value in attributes.items():
        # Most are short texts and small numbers; a call for each of them would be the larger part of the time.
        if (type(value) is str and value.isascii() and len(value) <= MAX_TEXT_BYTES) or (
            type(value) is int and -_INT64 <= value < _INT64
        ):
            held[key] = value
        elif value is not None and (changed := to_attribute(value)) is not None:
            held[key] = changed
    return held


def decimal(value: int) -> str:
    """The integer as a text: decimal, or hexadecimal if it is very long."""
    return str(value) if value.bit_length() < _MAX_DECIMAL_BITS else hex(value)


def _text(value: str) -> str:
    kept = truncate(value, MAX_TEXT_BYTES)
    return kept if kept == value else _changed(kept)


def _changed(value: str) -> str:
    report(_CHANGING, "changed")
    return value


def _other(value: object) -> AttributeValue | None:
    if isinstance(value, str):  # a subclass, such as a StrEnum
        return _text(str.__str__(value))
    if isinstance(value, int):
        return to_attribute(int(value))
    if isinstance(value, (list, tuple)):
        return _sequence(cast("list[object] | tuple[object, ...]", value))
    if isinstance(value, (bytes, bytearray)):
        return _changed(truncate(bytes(value).hex(), MAX_TEXT_BYTES))
    return _json(value)


def _sequence(values: list[object] | tuple[object, ...]) -> AttributeValue:
    """A tuple of one kind of scalars, as attributes are; any other sequence becomes JSON."""
    kinds = set(map(type, values))
    if not kinds or (len(kinds) == 1 and kinds <= _SCALARS):
        held = tuple([to_attribute(value) for value in values])
        if len(set(map(type, held))) <= 1:
            return held  # pyright: ignore[reportReturnType] all of one kind
        return tuple(map(str, held))  # an integer among them was too long
    return _json(values)


def _json(value: object) -> str:
    return _changed(_text(json.dumps(value, default=repr, ensure_ascii=False)))
