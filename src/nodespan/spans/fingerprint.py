"""Type, size and keyed hash of a value: whether two values are equal, without the values.

A plain hash of a small value reveals the value, because there are few candidates. The hash is HMAC-SHA256 under a key
that stays on the machine.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import hashlib
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from json import JSONEncoder
from json.encoder import encode_basestring_ascii
from pathlib import PurePath
from typing import Any, Final, cast

MAX_BYTES: Final = 64 * 1024
MAX_ELEMENTS: Final = 1000
"""Limits of one value. A time limit would make equal values differ on a busy machine."""
HMAC_DIGITS: Final = 16
_BLOCK_BYTES: Final = 64

NO_FORM: Final = "-"
LARGE: Final = "large"

Form = Callable[[Any], object]
"""The parts of a value as plain values."""

_forms: Final[dict[type, Form]] = {}
_NUMBERS: Final = frozenset({int, float, bool, type(None)})
_AS_TEXT: Final = (datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal, PurePath)


class _NoFormError(Exception):
    """The value has no canonical form."""


class _LargeError(Exception):
    """The value is beyond a bound."""


def set_hash_key(key: bytes | None) -> None:
    """Sets the key of the hashes; ``None``: there are none. Called by ``configure()``."""
    _key.digits = None if key is None else _hmac_of(key)


def _hmac_of(key: bytes) -> Callable[[bytes], str]:
    """HMAC-SHA256 (RFC 2104) whose two first blocks are hashed once: half the time of ``hmac.digest``."""
    padded = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
    begin_inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded)).copy
    begin_outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded)).copy

    def digits(data: bytes) -> str:
        inner = begin_inner()
        inner.update(data)
        outer = begin_outer()
        outer.update(inner.digest())
        return outer.hexdigest()[:HMAC_DIGITS]

    return digits


@dataclass(slots=True)
class _Key:
    digits: Callable[[bytes], str] | None = None


_key: Final = _Key()


def add_form(kind: type, form: Form) -> None:
    """Registers a canonical form for the instances of another library's class and its subclasses."""
    _forms[kind] = form


def fingerprint(value: object) -> str:
    """``type size hmac`` of a value. Never raises.

    The size is that of the canonical form in bytes; it is ``-`` where there is none, and ``large`` where it is longer
    than 64 KiB or has more than 1,000 elements. The hmac has 16 hex digits; it is ``-`` without size and without a key.
    """
    kind = type(value)
    name = kind.__name__
    if " " in name:
        name = name.replace(" ", "_")
    try:
        simple = _SIMPLE.get(kind)
        if simple is None:
            data = _Canonical().encode(value)
        elif kind is str and len(value) > MAX_BYTES:  # pyright: ignore[reportArgumentType] a text, by its kind
            raise _LargeError
        else:
            data = simple(value).encode()
    except _LargeError:
        return f"{name} {LARGE} -"
    except Exception:  # noqa: BLE001 the value is the program's own: a property may raise, another thread may change it
        return f"{name} {NO_FORM} -"
    if len(data) > MAX_BYTES:
        return f"{name} {LARGE} -"
    digits = _key.digits
    return f"{name} {len(data)} {NO_FORM if digits is None else digits(data)}"


_SIMPLE: Final[dict[type, Callable[[Any], str]]] = {
    str: encode_basestring_ascii,
    int: int.__repr__,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
    float: float.__repr__,
}
"""JSON of the most common types, without an encoder."""


class _Canonical:
    """Encodes one nested value as JSON with sorted keys; the limits are checked before."""

    def __init__(self) -> None:
        self._elements = self._bytes = 0

    def encode(self, value: object) -> bytes:
        self._measure(value)
        return (
            JSONEncoder(sort_keys=True, separators=(",", ":"), check_circular=False, default=self._content)
            .encode(value)
            .encode()
        )

    def _measure(self, value: object) -> None:
        """Raises for a value beyond a limit, such as one that contains itself."""
        pending = [value]
        while pending:
            one = pending.pop()
            if type(one) in _NUMBERS:
                continue
            if isinstance(one, str | bytes | bytearray):
                self._bytes += len(one)
                if self._bytes > MAX_BYTES:
                    raise _LargeError
            elif isinstance(one, dict | list | tuple | set | frozenset):
                several = cast("Collection[object]", one)
                self._elements += len(several)
                if self._elements > MAX_ELEMENTS:
                    raise _LargeError
                pending += several
                if isinstance(one, dict):
                    pending += cast("dict[object, object]", one).values()

    def _content(self, value: object) -> object:
        """JSON of a value that the encoder does not support."""
        if isinstance(value, set | frozenset):
            parts = [_Canonical().encode(one).decode() for one in cast("set[object]", value)]
            return {"set": sorted(parts)}
        if isinstance(value, bytes | bytearray):
            return {"bytes": value.hex()}
        if isinstance(value, _AS_TEXT):
            return {type(value).__name__: str(value)}
        content = _parts(value)
        self._measure(content)
        return {type(value).__name__: content}


def _parts(value: object) -> object:
    """The parts of an object."""
    kind = type(value)
    for base in kind.__mro__:
        if (form := _forms.get(base)) is not None:
            return form(value)
    if isinstance(value, enum.Enum):
        return value.name
    if hasattr(kind, "__pydantic_fields__"):  # a model of pydantic 2
        extra = cast("dict[str, object] | None", getattr(value, "__pydantic_extra__", None))
        return {**vars(value), **(extra or {})}
    if dataclasses.is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    raise _NoFormError
