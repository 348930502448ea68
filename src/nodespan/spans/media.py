"""Images, audio and files in captured content: a stub with type, size and sha256 instead of the data.

A stub is a message part of the conventions: ``blob`` for data in the message, ``uri`` for data elsewhere, ``file`` for
a file that the provider keeps.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, cast

_MAX_HASHED: Final = 1024 * 1024
"""Limit of base64 characters that are hashed, which costs about 3 ms. Larger data has no sha256."""

_DATA_URL: Final = re.compile(r"data:(?P<mime_type>[\w.+-]+/[\w.+-]+)?(?:;[\w.=+-]+)*?;base64,", re.IGNORECASE)
_DATA_URL_IN_TEXT: Final = re.compile(_DATA_URL.pattern.replace("?P<mime_type>", "") + r"[\w+/=-]*", re.IGNORECASE)
_MIME_TYPE: Final = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_MODALITIES: Final = {
    "image": "image", "image_url": "image", "input_image": "image", "audio": "audio", "input_audio": "audio",
    "video": "video", "video_url": "video", "file": "document", "input_file": "document", "document": "document",
    "media": "document",
}  # fmt: skip
"""Types of content blocks with media, of OpenAI, Anthropic, Google and LangChain, and what they hold."""
_DATA: Final = ("base64", "data", "file_data", "bytes")
_ADDRESSES: Final = ("url", "uri", "file_uri")
_IDS: Final = ("file_id", "id")


def media_stub(block: Mapping[Any, Any]) -> dict[str, Any] | None:
    """The stub of a content block with media; ``None`` for other mappings.

    Args:
        block: A content block in the form of OpenAI, Anthropic, Google or LangChain.
    """
    kind = block.get("type")
    modality = _MODALITIES.get(kind) if isinstance(kind, str) else None
    if modality is None:
        return None
    fields = _fields(block, kind)
    if fields["type"] == "text":  # Anthropic's document of plain text
        return None
    mime_type = _mime_type(fields)
    if mime_type is not None and modality == "document":
        modality = _modality_of(mime_type)
    data = next((fields[key] for key in _DATA if fields.get(key)), None)
    address = _first(fields, _ADDRESSES)
    for text in (address, data):
        if isinstance(text, str) and (found := data_url_stub(text, modality)):
            return found
    if isinstance(data, (str, bytes)):
        return _blob(data, mime_type, modality)
    if address is not None:
        return {"type": "uri", "modality": modality, "mime_type": mime_type, "uri": address}
    if (file_id := _first(fields, _IDS)) is not None:
        return {"type": "file", "modality": modality, "mime_type": mime_type, "file_id": file_id}
    return None


def data_url_stub(text: str, modality: str | None = None) -> dict[str, Any] | None:
    """The stub of a data URL with base64; ``None`` for any other text."""
    if text[:5].lower() != "data:" or (found := _DATA_URL.match(text)) is None:
        return None
    mime_type = found["mime_type"]
    return _blob(text[found.end() :], mime_type, modality or _modality_of(mime_type or ""))


def without_data_urls(text: str) -> str:
    """The text with a short description in place of each data URL with base64."""
    return _DATA_URL_IN_TEXT.sub(lambda found: describe_data_url(found[0]) or "", text) if "base64," in text else text


def describe_data_url(text: str) -> str | None:
    """The description of a text that is a data URL with base64; ``None`` for any other text."""
    if (stub := data_url_stub(text)) is None:
        return None
    sha256 = f", sha256 {stub['sha256']}" if "sha256" in stub else ""
    return f"[{stub['mime_type'] or 'data'}: {stub['size_bytes']} bytes{sha256}]"


def _fields(block: Mapping[Any, Any], kind: object) -> dict[str, Any]:
    """The fields that describe the data; most forms nest them one level deeper."""
    fields = dict(block)
    for key in (kind, "image_url", "source", "file"):
        inner = block.get(key)
        if isinstance(inner, str) and key != "type":
            fields["url"] = inner
        elif isinstance(inner, Mapping):
            fields |= cast("Mapping[str, Any]", inner)
    return fields


def _mime_type(fields: Mapping[str, Any]) -> str | None:
    given = _first(fields, ("mime_type", "media_type", "mimeType"))
    if given is None and (audio := _first(fields, ("format",))) is not None:
        given = f"audio/{audio}"
    return given if given is not None and _MIME_TYPE.fullmatch(given) else None


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next((value for name in names if isinstance(value := fields.get(name), str) and value), None)


def _modality_of(mime_type: str) -> str:
    kind = mime_type.partition("/")[0]
    return kind if kind in {"image", "audio", "video"} else "document"


def _blob(data: str | bytes, mime_type: str | None, modality: str) -> dict[str, Any]:
    stub: dict[str, Any] = {"type": "blob", "modality": modality, "mime_type": mime_type, "content": ""}
    if isinstance(data, bytes):
        size, raw = len(data), data
    else:
        size = len(data) * 3 // 4 - data[-2:].count("=")
        raw = _decoded(data) if len(data) <= _MAX_HASHED else None
    stub["size_bytes"] = size if raw is None else len(raw)
    if raw is not None and len(raw) <= _MAX_HASHED:
        stub["sha256"] = hashlib.sha256(raw).hexdigest()
    return stub


def _decoded(data: str) -> bytes | None:
    try:
        return base64.b64decode(data.translate(_URL_SAFE))
    except (binascii.Error, ValueError):
        return None
