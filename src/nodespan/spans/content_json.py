"""User values as JSON that may leave the process: redacted, bounded in size, and always valid."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from nodespan.spans.attributes import decimal
from nodespan.spans.media import describe_data_url, media_stub, without_data_urls
from nodespan.spans.redaction import redacted, truncate

_LEAST_BYTES: Final = 128
"""Least size of a cut text: the mark with its length and sha256 has about 110 bytes."""

_DEEPEST: Final = 16
"""Maximum nesting; a deeper value becomes one text, also one that contains itself."""

_READ_BYTES: Final = 512 * 1024
"""Bytes of text read from one structure, newest message first. Redacting and hashing them costs a few ms."""

_MARGIN: Final = 4096
"""Characters dropped at the end of a partly read text: the redaction hook may recognise only a complete secret."""

_ITEM_BYTES: Final = 64
"""Bytes counted for a value other than a text."""

LEAST_MESSAGE_BYTES: Final = 48
"""Size of a message without content."""

_INT64: Final = 2**63
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)

_WHOLE: Final = 2**31
"""A limit that no text exceeds."""


@dataclass(frozen=True, slots=True)
class UserValue:
    """A value of the user's inside a structure of nodespan's: each text in it is redacted and may be cut."""

    value: object


@dataclass(frozen=True, slots=True)
class _Text:
    """A redacted text that may be cut."""

    text: str


def fit_json(structure: object, max_bytes: int, *, omitted: int = 0) -> Any:
    """The structure as JSON values whose encoding has at most ``max_bytes`` bytes, 512 or more.

    Texts share the limit: long ones are cut, each with its size and sha256. If a list of messages is still too long,
    the oldest are omitted. Any other structure that is too long becomes one cut text. The time is bounded for
    structures of any size.

    Args:
        structure: Values of JSON and ``UserValue``.
        max_bytes: Limit of the encoding.
        omitted: Older messages that are not in the structure.
    """
    reader = _Reader(max(4 * max_bytes, _READ_BYTES))
    messages = _messages(structure)
    if messages is not None:
        return _fit_messages(messages, reader, max_bytes, omitted)
    plain = reader.plain(structure, 0)
    fitted = _cut_to_fit(plain, max_bytes)
    return _as_one_text(plain, max_bytes) if fitted is None else fitted


def encode_json(value: object) -> bytes:
    """JSON in UTF-8. Characters that UTF-8 cannot represent are replaced."""
    return _ENCODER.encode(value).encode("utf-8", "replace")


class _Reader:
    """Reads user values as plain ones, redacted, up to a number of bytes.

    Attributes:
        left: Bytes that may still be read.
    """

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes

    def plain(self, value: object, depth: int) -> object:
        """Values of nodespan's unchanged; the user's as plain values with every text marked as ``_Text``."""
        if isinstance(value, UserValue):
            return self._of_user(value.value, depth)
        if isinstance(value, Mapping):
            return {key: self.plain(inner, depth + 1) for key, inner in cast("Mapping[str, object]", value).items()}
        if isinstance(value, list):
            return [self.plain(inner, depth + 1) for inner in cast("list[object]", value)]
        return value

    def _of_user(self, value: object, depth: int) -> object:
        self.left -= _ITEM_BYTES
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return value if -_INT64 <= value < _INT64 else self._text(decimal(value))
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, (bytes, bytearray)):
            return f"[{len(value)} bytes]"
        try:
            return self._text(_str(value)) if depth > _DEEPEST else self._of_object(value, depth)
        except Exception as error:  # noqa: BLE001 a user's object may raise anything
            return f"[{type(value).__name__} raised {type(error).__name__}]"

    def _of_object(self, value: object, depth: int) -> object:
        if hasattr(type(value), "model_dump"):
            value = cast("Any", value).model_dump()
        if isinstance(value, Mapping):
            return self._of_mapping(cast("Mapping[object, object]", value), depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._of_sequence(cast("Sequence[object]", value), depth)
        return self._text(_str(value))

    def _of_mapping(self, value: Mapping[object, object], depth: int) -> object:
        if (stub := media_stub(value)) is not None:
            marked = ("uri", "file_id")
            return {key: self._text(inner) if key in marked else inner for key, inner in stub.items()}
        made: dict[str, object] = {}
        for key, inner in value.items():
            if self.left <= 0:
                made["..."] = f"[cut: {len(value) - len(made)} more]"
                break
            name = truncate(self._text(_str(key)).text, _LEAST_BYTES)
            made[name] = self._of_user(inner, depth + 1)
        return made

    def _of_sequence(self, value: Sequence[object], depth: int) -> object:
        made: list[object] = []
        for inner in value:
            if self.left <= 0:
                made.append(f"[cut: {len(value) - len(made)} more]")
                break
            made.append(self._of_user(inner, depth + 1))
        return made

    def _text(self, text: str) -> _Text:
        room = max(self.left, _LEAST_BYTES) + _MARGIN
        if len(text) > room and (described := describe_data_url(text)):
            text = described
        self.left -= min(len(text), room)
        if len(text) <= room:
            return _Text(redacted(without_data_urls(text)))
        read = redacted(without_data_urls(text[:room]))[:-_MARGIN]
        return _Text(f"{read}... [cut: {len(text)} characters in all]")


def _str(value: object) -> str:
    return decimal(value) if isinstance(value, int) else str(value)


def _messages(structure: object) -> list[object] | None:
    """The structure if it is a list of messages."""
    several = cast("list[object]", structure) if isinstance(structure, list) else []
    return several if several and all(isinstance(one, dict) and "role" in one for one in several) else None


def _fit_messages(messages: list[object], reader: _Reader, max_bytes: int, omitted: int) -> object:
    """The newest messages, as many as fit; in place of the others one message with their number."""
    newest: list[object] = []
    for message in reversed(messages[-max_bytes // LEAST_MESSAGE_BYTES :]):
        if newest and reader.left <= 0:
            break
        newest.append(reader.plain(message, 1))
    omitted += len(messages) - len(newest)
    if not omitted and (fitted := _cut_to_fit(newest[::-1], max_bytes)) is not None:
        return fitted
    room = max_bytes - len(encode_json(_missing(omitted + len(newest)))) - 2
    kept: list[object] = []
    for message in newest:
        room -= len(encode_json(_made(message, _LEAST_BYTES))) + 2
        if kept and room < 0:
            break
        kept.append(message)
    missing = _missing(omitted + len(newest) - len(kept))
    fitted = _cut_to_fit(kept[::-1], max_bytes - len(encode_json(missing)) - 2)
    return _as_one_text(kept, max_bytes) if fitted is None else [missing, *fitted]


def _missing(count: int) -> dict[str, object]:
    return {"role": "system", "parts": [{"type": "text", "content": f"[cut: {count} messages]"}]}


def _cut_to_fit(plain: object, max_bytes: int) -> Any | None:
    """JSON values with texts cut so that they fit; ``None`` if cutting texts is not enough."""
    sizes: list[int] = []
    _measure(plain, sizes)
    limit = _share(sizes, max_bytes - len(encode_json(_made(plain, 0))))
    while True:
        made = _made(plain, limit)
        size = len(encode_json(made))
        if size <= max_bytes:
            return made
        if limit <= _LEAST_BYTES:
            return None
        limit = max(min(limit * max_bytes // size, limit - 1), _LEAST_BYTES)


def _as_one_text(plain: object, max_bytes: int) -> str:
    text = encode_json(_made(plain, _WHOLE)).decode()
    return truncate(text, max(max_bytes // 2, _LEAST_BYTES))  # a quotation mark in a text becomes two bytes


def _measure(value: object, sizes: list[int]) -> None:
    if isinstance(value, _Text):
        sizes.append(len(encode_json(value.text)) - 2)
    elif isinstance(value, dict):
        for inner in cast("dict[str, object]", value).values():
            _measure(inner, sizes)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            _measure(inner, sizes)


def _share(sizes: Sequence[int], room: int) -> int:
    """The length at which texts of these sizes are cut so that their sum equals the limit. Short ones are not cut."""
    for index, size in enumerate(sorted(sizes)):
        left = len(sizes) - index
        if size * left > room:
            return max(room // left, _LEAST_BYTES)
        room -= size
    return max(sizes, default=0) + _LEAST_BYTES


def _made(value: object, limit: int) -> object:
    """JSON values with every text cut at the limit; with 0 texts are empty."""
    if isinstance(value, _Text):
        return truncate(value.text, limit) if limit else ""
    if isinstance(value, dict):
        return {key: _made(inner, limit) for key, inner in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_made(inner, limit) for inner in cast("list[object]", value)]
    return value
