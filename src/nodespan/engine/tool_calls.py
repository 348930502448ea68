"""Tool calls of a streamed answer, assembled from their pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from nodespan.types import ToolCall


class ToolCallPieces:
    """The ``tool_calls`` of OpenAI's chunks: each piece has an index and a part of the name or of the arguments."""

    def __init__(self) -> None:
        self._calls: dict[object, dict[str, str]] = {}

    def add(self, pieces: object) -> None:
        """Adds the ``tool_calls`` of one ``delta``; anything else is ignored."""
        if not isinstance(pieces, Sequence) or isinstance(pieces, str):
            return
        for place, piece in enumerate(cast("Sequence[object]", pieces)):
            if isinstance(piece, Mapping):
                self._add(place, cast("Mapping[str, Any]", piece))

    def calls(self) -> list[ToolCall]:
        """The calls so far, in the order of their first piece."""
        return [ToolCall(**call) for call in self._calls.values()]

    def _add(self, place: int, piece: Mapping[str, Any]) -> None:
        given = piece.get("function")
        function = cast("Mapping[str, Any]", given if isinstance(given, Mapping) else {})
        index = piece.get("index")
        key = index if isinstance(index, int) else place
        call = self._calls.setdefault(key, {"id": "", "name": "", "arguments": ""})
        call["id"] = call["id"] or _text(piece.get("id"))
        call["name"] = call["name"] or _text(function.get("name"))
        call["arguments"] += _text(function.get("arguments"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
