"""Answers in JSON."""

from __future__ import annotations

from typing import Any, Final

import orjson
from starlette.responses import Response

JSON: Final = "application/json"


def document(content: Any) -> Response:
    """A document; rows of columns may be keyed by whole numbers."""
    return Response(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS), media_type=JSON)


def failure(status: int, text: str) -> Response:
    """An error: ``{"error": text}``."""
    return Response(orjson.dumps({"error": text}), status, media_type=JSON)
