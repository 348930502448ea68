"""Somebody's own words and values as JSON that may leave: redacted, and cut so that it fits and can still be parsed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from nodespan.spans.redaction import redacted, truncate

_LEAST_BYTES: Final = 128
"""No text is cut shorter: what says how long it was, with its sha256, takes about 110 bytes."""

_DEEPEST: Final = 16
"""Nesting beyond which a value is written as one text; also ends values that hold themselves."""


_WHOLE: Final = 2**31
"""A limit that no text reaches."""


@dataclass(frozen=True, slots=True)
class UserValue:
    """A value of the user's inside of a structure of ours: every text in it is redacted, and may be cut."""

    value: object


@dataclass(frozen=True, slots=True)
class _Text:
    """A redacted text that may be cut."""

    text: str


def fit_json(structure: object, max_bytes: int) -> Any:  # pyright: ignore[reportExplicitAny] JSON
    """The structure as JSON values whose encoding takes at most ``max_bytes``, which is 512 or more.

    Texts share the room: the long ones are cut, each with its size and sha256. A list of messages that is still too
    long loses its oldest; what cannot be shortened in any such way becomes one text, cut.
    """
    ready = _ready(structure, 0)
    sizes: list[int] = []
    _measure(ready, sizes)
    limit = _share(sizes, max_bytes - len(encode_json(_made(ready, 0))))
    while True:
        made = _made(ready, limit)
        size = len(encode_json(made))
        if size <= max_bytes:
            return made
        if limit <= _LEAST_BYTES:
            return _shortened(ready, max_bytes)
        limit = max(min(limit * max_bytes // size, limit - 1), _LEAST_BYTES)


def encode_json(value: object) -> bytes:
    """JSON in UTF-8, with what UTF-8 cannot hold replaced."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _ready(value: object, depth: int) -> object:
    """Ours as it is; the user's as plain values in which every text is redacted and marked."""
    if isinstance(value, UserValue):
        return _plain(value.value, depth)
    if isinstance(value, Mapping):
        return {key: _ready(inner, depth + 1) for key, inner in cast("Mapping[str, object]", value).items()}
    if isinstance(value, list):
        return [_ready(inner, depth + 1) for inner in cast("list[object]", value)]
    return value


def _plain(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str) or depth > _DEEPEST:
        return _Text(redacted(str(value)))
    if isinstance(value, (bytes, bytearray)):
        return f"[{len(value)} bytes]"
    if hasattr(type(value), "model_dump"):
        value = cast("Any", value).model_dump()
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {truncate(redacted(str(key)), _LEAST_BYTES): _plain(inner, depth + 1) for key, inner in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner, depth + 1) for inner in cast("Sequence[object]", value)]
    return _Text(redacted(str(value)))


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
    """The length at which to cut, so that texts of these sizes take up the room: short ones stay whole."""
    for index, size in enumerate(sorted(sizes)):
        left = len(sizes) - index
        if size * left > room:
            return max(room // left, _LEAST_BYTES)
        room -= size
    return max(sizes, default=0) + _LEAST_BYTES


def _made(value: object, limit: int) -> object:
    """JSON values with every text cut at the limit; 0 leaves only what is around them."""
    if isinstance(value, _Text):
        return truncate(value.text, limit) if limit else ""
    if isinstance(value, dict):
        return {key: _made(inner, limit) for key, inner in cast("dict[str, object]", value).items()}
    if isinstance(value, list):
        return [_made(inner, limit) for inner in cast("list[object]", value)]
    return value


def _messages(ready: object) -> list[object]:
    """The structure if it is a list of messages, else nothing."""
    several = cast("list[object]", ready) if isinstance(ready, list) else []
    return several if all(isinstance(one, dict) and "role" in one for one in several) else []


def _shortened(ready: object, max_bytes: int) -> object:
    """Without the oldest messages, as many as it takes; in their place one that says what is missing."""
    messages = _messages(ready)
    for index in range(1, len(messages)):
        if index & (index - 1) and index < len(messages) - 1:
            continue  # 1, 2, 4, 8 ... and all but the last: each try costs an encoding
        whole = encode_json(_made(messages[:index], _WHOLE))
        missing = f"[cut: {index} messages, {len(whole)} bytes in all, sha256 {hashlib.sha256(whole).hexdigest()}]"
        made = [
            {"role": "system", "parts": [{"type": "text", "content": missing}]},
            *(_made(one, _LEAST_BYTES) for one in messages[index:]),
        ]
        if len(encode_json(made)) <= max_bytes:
            return made
    text = encode_json(_made(ready, _WHOLE)).decode()
    return truncate(text, max(max_bytes // 2, _LEAST_BYTES))  # a quotation mark in a text takes two bytes
